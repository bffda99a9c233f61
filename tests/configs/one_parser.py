"""The command line of fit and record for many configurations in one process, each for two steps."""

from typing import Any, ClassVar

import lightning.pytorch as pl
import torch

from pd_lightning.trainer import TrainerCLI


class Watch(pl.Callback):
    """Stops after two steps; keeps the first batch that has a KD loss, with the student's logits and the loss."""

    def __init__(self) -> None:
        self.batch: dict[str, torch.Tensor] = {}
        self.kd_loss: float | None = None
        self.losses: list[float] = []

    @torch.no_grad()
    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self.kd_loss is None:
            self.batch, self.logits = batch, pl_module(batch["input_ids"])

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses.append(float(trainer.callback_metrics["train/loss"]))
        if self.kd_loss is None and "train/kd_loss" in trainer.callback_metrics:
            self.kd_loss = float(trainer.callback_metrics["train/kd_loss"])
        trainer.should_stop = trainer.global_step >= 2


class OneParserCLI(TrainerCLI):
    """The command line of fit and record; its parser, which takes longest to make, is made once for each."""

    parsers: ClassVar[dict[str, Any]] = {}

    def setup_parser(self, *args: Any) -> None:
        names = ("parser", "_subcommand_parsers", "_subcommand_method_arguments")
        if self.command not in self.parsers:
            super().setup_parser(*args)
            self.parsers[self.command] = [getattr(self, name) for name in names]
        for name, value in zip(names, self.parsers[self.command], strict=True):
            setattr(self, name, value)

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        self.save_config_callback = None  # takes a quarter of the time
        trainer = super().instantiate_trainer(**kwargs)
        self.watch = Watch()
        trainer.callbacks.append(self.watch)
        return trainer
