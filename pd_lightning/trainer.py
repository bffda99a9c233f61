"""Commands that a Trainer runs: LightningCLI over our composed YAML, with one run folder and a safe resume."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.plugins.io import TorchCheckpointIO

from pd_lightning.cli.commands import load_target, with_flags
from pd_lightning.cli.launched import end_with_launcher
from pd_lightning.cli.parse_errors import explained
from pd_lightning.cli.quiet import quieten
from pd_lightning.cli.run_settings import SaveRunConfig
from pd_lightning.cli.runs import (
    CHECKPOINTS,
    DEFAULT_ROOT,
    RunCheckpoints,
    resolve_checkpoint,
    run_callbacks,
    run_loggers,
)
from pd_lightning.cli.trainer_checks import check_sections, check_settings
from pd_lightning.cli.unfinished_step import UnfinishedStep
from pd_lightning.composition.compose import as_arguments, compose
from pd_lightning.module.optimization import length_of_run
from pd_lightning.plan.settings import Assumptions, Described, Stored

if TYPE_CHECKING:
    from pd_lightning.cli import Command
    from pd_lightning.module import DistillationModule
    from pd_lightning.record import Recorder

# Arguments of the Trainer's methods that are no settings: pickle stays off (weights_only).
SKIPPED = {"model", "datamodule", "dataloaders", "train_dataloaders", "val_dataloaders", "weights_only"}
PLOT, PLAN = "plot_schedules", "plan"
# A run counted in steps is as long on any machine: its schedules can be drawn where there is no GPU.
ANYWHERE = {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto", "precision": None, "plugins": None}
SEED = 1  # a seed drawn anew at every start would give a resumed run another order of the data


class PDTrainer(Trainer):
    """Lightning's Trainer with ``record``, ``plot_schedules`` and ``plan``."""

    asked: Any = None  # the settings of a planned run, whose machines are not here

    def record(self, model: Recorder, datamodule: LightningDataModule | None = None) -> None:
        """Run the teacher over blocks of tokens once, and store its logits.

        Args:
            model: The recorder; it reads the missing blocks itself, chunk by chunk.
            datamodule: The blocks: TokenBlocks, or any other data with batches of `input_ids`.
        """
        model.attach(datamodule)
        limit = self.limit_predict_batches
        if self.fast_dev_run or isinstance(limit, int) or limit != 1.0:  # type: ignore[attr-defined]
            raise ValueError(
                "record must see every block of a chunk, got trainer.fast_dev_run or trainer.limit_predict_batches. To "
                "record fewer blocks, set data.init_args.max_train_blocks and data.init_args.max_val_blocks."
            )
        # Sharded weights are gathered into storage that must not have been made in inference mode.
        self.predict_loop.inference_mode = False
        self.predict(model, return_predictions=False)
        self.strategy.barrier("recorded")
        if self.is_global_zero:
            model.finish()

    def plot_schedules(
        self,
        model: DistillationModule,
        datamodule: LightningDataModule | None = None,
        output_path: str = "schedules.png",
        ckpt_path: str | None = None,
    ) -> None:
        """Draw KD weight, temperatures and learning rate over the run that fit would make of the same settings.

        Args:
            model: The module; its weights are not made.
            datamodule: The data, which say how long the run is where trainer.max_epochs does.
            output_path: The picture to write: .png, .pdf or .svg.
            ckpt_path: One of fit's settings, so that those of a run can be given as they are; nothing is loaded.
        """
        from pd_lightning import schedule_plot

        path = Path(output_path)
        schedule_plot.check_format(path)
        curves = schedule_plot.curves(model, self._planned_steps(model, datamodule))
        if self.is_global_zero:
            schedule_plot.draw(curves, path)
            rich.print(schedule_plot.table(curves), f"written to {path}")

    def plan(
        self,
        model: DistillationModule,
        datamodule: LightningDataModule | None = None,
        teacher: Described | str | None = None,
        gpus: int | None = None,
        gpu: str = "H100",
        price: float | None = None,
        students: int = 1,
        selection: Stored = Stored(),  # noqa: B008 - jsonargparse gives it its settings
        store: str | None = None,
        assume: Assumptions = Assumptions(),  # noqa: B008
        json: bool = False,
        output_path: str | None = None,
        ckpt_path: str | None = None,
    ) -> None:
        """Check all that fit would check, without GPUs, weights or training, and say what the run will cost.

        Args:
            model: The module; its weights are not made.
            datamodule: The data.
            teacher: The teacher, where a store does not tell its size; of one that is known, --teacher.tokens and
                --teacher.loss.
            gpus: GPUs of the run, where trainer.devices leaves them open.
            gpu: Which ones: H100, A100, RTX-4090, …
            price: Price of a GPU-hour, in any currency.
            students: Students that learn from the same targets.
            selection: What is kept of each position in a store.
            store: A store or a pilot of one, recorded of a few blocks: its measured size counts.
            assume: What neither the settings nor anybody knows before the run.
            json: Print JSON and nothing else.
            output_path: A file to write the same JSON to.
            ckpt_path: One of fit's settings, which is checked; nothing is loaded. Without it the run folder may be one
                that is in use.
        """
        from pd_lightning.plan.command import show
        from pd_lightning.plan.planning import make_plan
        from pd_lightning.plan.rehearsal import Rehearsal

        steps = partial(self._planned_steps, model, datamodule)
        rehearsal = Rehearsal(self, self.asked, model, datamodule, steps)
        rehearsal.check(gpus)
        request = rehearsal.request(teacher, store, assume)
        request.gpu, request.price, request.students, request.selection = gpu, price, students, selection
        show({**make_plan(request), **rehearsal.report()}, json, output_path)

    def _planned_steps(self, model: LightningModule, datamodule: LightningDataModule | None) -> int:
        """The optimizer steps that fit would take."""
        self.strategy._lightning_module = model
        self._data_connector.attach_data(model, datamodule=datamodule)
        if self.max_epochs is None:
            self.fit_loop.max_epochs = -1  # as fit does where there are other limits
        elif datamodule is not None:
            datamodule.prepare_data()
            datamodule.setup("fit")
        return length_of_run(self.estimated_stepping_batches)


class TrainerCLI(LightningCLI):
    """LightningCLI for one command.

    Args:
        command: fit, validate, test, predict, record, plot_schedules or plan.
        model_class: The LightningModule; its settings stand under ``model``.
        args: The arguments after the command, configuration composed.
    """

    def __init__(self, command: str, model_class: type[LightningModule], args: Sequence[str]) -> None:
        self.command = command
        parser: dict[str, Any] = {
            "exit_on_error": False,
            "allow_abbrev": False,
            "default_env": True,
            "env_prefix": "PD_LIGHTNING",
        }
        super().__init__(
            model_class,
            LightningDataModule,
            subclass_mode_data=True,
            trainer_class=PDTrainer,
            trainer_defaults={"default_root_dir": DEFAULT_ROOT, "use_distributed_sampler": False},
            seed_everything_default=SEED,
            save_config_callback=SaveRunConfig,
            save_config_kwargs={"overwrite": True, "save_to_log_dir": False},
            parser_kwargs={"prog": "pd-lightning", **parser, command: dict(parser)},
            args=[command, *args],
            auto_configure_optimizers=False,
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """The one command: a parser for each takes seconds."""
        return {self.command: SKIPPED}

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, with errors of one paragraph."""
        command = self._parser(self.command)
        command.prog = command.prog.replace("_", "-")
        settings = [action.dest for action in command._actions]
        assert isinstance(args, list)
        with explained(settings):
            self.config = parser.parse_args(args)

    def _parse_ckpt_path(self) -> None:
        """Nothing: Lightning would put the hyper-parameters of the checkpoint in place of the YAML's."""

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The Trainer, with the run folder's logs and checkpoints where the YAML of a training names none."""
        given = self.config_init[self.command]["trainer"]
        root = given["default_root_dir"] or "."
        check_settings(given, self.command, needs_length=self.command in ("fit", PLOT, PLAN))
        writes = self.command == "fit" and not given["barebones"]
        loggers = run_loggers(root, given["logger"], writes=writes)
        callbacks = given["callbacks"] or []
        callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
        checkpoints = writes and given["enable_checkpointing"] is not False
        callbacks = run_callbacks(root, callbacks, checkpoints=checkpoints)
        if self.command == PLAN or (self.command == PLOT and given["max_epochs"] is None):
            kwargs |= ANYWHERE
        trainer = super().instantiate_trainer(**{"logger": loggers or False, "callbacks": callbacks, **kwargs})
        if isinstance(trainer, PDTrainer):
            trainer.asked = given
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = RunCheckpoints()
        return trainer

    def after_instantiate_classes(self) -> None:
        """Find the checkpoint to start from, before anything has begun."""
        settings = self.config_init[self.command]
        if self.command in ("record", PLOT) or (self.command == PLAN and settings["ckpt_path"] is None):
            return
        if not settings["trainer"]["fast_dev_run"]:
            command, root = "fit" if self.command == PLAN else self.command, str(self.trainer.default_root_dir)
            settings["ckpt_path"] = resolve_checkpoint(settings["ckpt_path"], command, root, self._folders(root))

    def _folders(self, root: str) -> list[str]:
        """The folders of the run's checkpoints, each once."""
        callbacks = [c for c in self.trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
        return list(dict.fromkeys([str(Path(root) / CHECKPOINTS), *(str(c.dirpath) for c in callbacks if c.dirpath)]))

    def fit(self, **kwargs: Any) -> None:
        """Train; checkpoints are read without pickle."""
        self.trainer.fit(weights_only=True, **kwargs)
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, UnfinishedStep):
                callback.finish_training(self.trainer, self.model, self.datamodule)

    def validate(self, **kwargs: Any) -> None:
        """Evaluate on the validation split."""
        self.trainer.validate(weights_only=True, **kwargs)

    def test(self, **kwargs: Any) -> None:
        """Evaluate on the test split."""
        self.trainer.test(weights_only=True, **kwargs)

    def predict(self, **kwargs: Any) -> None:
        """Run over blocks."""
        self.trainer.predict(weights_only=True, **kwargs)


def run(name: str, command: Command, argv: Sequence[str]) -> TrainerCLI:
    """Run a command of the Trainer.

    Args:
        name: The command's name: the method's, with hyphens.
        command: Its entry in the table, with the LightningModule as target.
        argv: The arguments after the name.

    Returns:
        The CLI with what it has built: ``model``, ``datamodule``, ``trainer``.
    """
    quieten()
    end_with_launcher()
    config, rest = compose(with_flags(getattr(PDTrainer, name.replace("-", "_")), argv))
    check_sections(config)
    return TrainerCLI(name.replace("-", "_"), load_target(command.target), as_arguments(config, rest))
