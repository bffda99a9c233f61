"""A logit store of a teacher in training: what Peng et al. call online logits."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch.utils.hooks import RemovableHandle

from pd_lightning.callbacks.logits_source import hook_logits, returned_logits
from pd_lightning.callbacks.training_data import tokenizer_of
from pd_lightning.data.batch import LABELLED
from pd_lightning.data.resume import pending
from pd_lightning.data.tokenizer_folder import describe_tokenizer, save_tokenizer
from pd_lightning.module.surroundings import manifest_of
from pd_lightning.recording.store_format import StoreFormat, store_format
from pd_lightning.recording.training_batch import TrainingBatch
from pd_lightning.recording.training_store import TrainingStore
from pd_lightning.selection import Selection
from pd_lightning.store.manifest import Manifest, TokenizerInfo, software_versions
from pd_lightning.targets.heads import Head

_STATE = "LogitsRecorder"


class LogitsRecorder(pl.Callback):
    """Records a teacher's logits while it is pre-trained, with the step of the teacher beside each block.

    Works on any LightningModule; the training stays the same to the bit. What is recorded are the training batches,
    with the weights that they are trained on. The store is whole when training ends; a training that goes on from a
    checkpoint goes on recording from there. It has no validation split: set `val_path` to the token blocks where a
    student reads it.

    Args:
        output_dir: Folder of the store.
        module: Dotted name of the submodule whose output is the logits `[B, T, V]` of a batch, or those of one slice of
            its positions after another. Default: the student of a DistillationModule.
        output: Key of the logits in the dictionary that `training_step` returns, in place of `module`.
        start_step: First optimizer step to record.
        every_n_steps: Record each so many steps.
        selection: Which ids are kept at each position.
        values: How log-probabilities are stored: `half`, `exact` or `compact`, as in `pd-lightning record`.
        blocks_per_chunk: Blocks of a chunk file; memory holds so many.
        tokenizer: Folder or hub name of the tokenizer of the data; TokenBlocks know theirs.
        batch_map: As in `pd-lightning record`.

    Raises:
        ValueError: If a setting is out of range, or two contradict each other.

    Source: Peng et al. (arXiv 2410.16215), section 3.5.
    """

    def __init__(
        self,
        output_dir: str,
        module: str | None = None,
        output: str | None = None,
        start_step: int = 0,
        every_n_steps: int = 1,
        selection: Selection | None = None,
        values: Literal["exact", "half", "compact"] = "half",
        blocks_per_chunk: int = 256,
        tokenizer: str | None = None,
        batch_map: Callable[[Any], Any] | None = None,
    ) -> None:
        if module is not None and output is not None:
            raise ValueError(f"LogitsRecorder must have module or output, got {module} and {output}. Leave one out.")
        least = {"start_step": 0, "every_n_steps": 1, "blocks_per_chunk": 1}
        given = {"start_step": start_step, "every_n_steps": every_n_steps, "blocks_per_chunk": blocks_per_chunk}
        for name, value in given.items():
            if value < least[name]:
                raise ValueError(f"{name} of LogitsRecorder must be at least {least[name]}, got {value}. Raise it.")
        self.folder = Path(output_dir)
        self.module = module
        self.output = output
        self.start_step = start_step
        self.every_n_steps = every_n_steps
        self.blocks_per_chunk = blocks_per_chunk
        self.tokenizer = tokenizer
        self.batch_map = batch_map
        self._form: StoreFormat = store_format(selection, None, values, None)
        self._store: TrainingStore | None = None
        self._state: dict[str, Any] | None = None
        self._batch: TrainingBatch | None = None
        self._checked = False
        self._unstepped = 0
        self._shape: tuple[int, int, bool] | None = None
        self._tokenizer: TokenizerInfo | None = None
        self._handle: RemovableHandle | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Begin anew, and come first: who saves at the end of a batch saves what was said of it."""
        if stage == "fit":
            self._store = self._state = self._shape = None
            others = [callback for callback in trainer.callbacks if callback is not self]  # type: ignore[attr-defined]
            trainer.callbacks = [self, *others]  # type: ignore[attr-defined]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the folder, and find the logits.

        Raises:
            ValueError: If the folder is not to be written, there is no such submodule, or no tokenizer is known.
        """
        self._open(trainer)
        missed = trainer.global_step - self.start_step
        if missed > 0 and self._state is None:
            rank_zero_warn(
                f"LogitsRecorder begins in {self.folder} at step {trainer.global_step}: what the teacher said before, "
                f"from step {self.start_step} on, is not in it."
            )
        self._batch, self._checked, self._unstepped = None, False, 0
        if self.output is None:
            self._handle = hook_logits(pl_module, self.module, self._take)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Expect logits, where this step is recorded; of the first batch in any case, so that mistakes show early."""
        step = trainer.global_step
        self._batch = None
        if self._wanted(step) or not self._checked:
            assert self._tokenizer is not None
            own = manifest_of(trainer)
            plain = own is not None and LABELLED not in own.columns
            given = batch if self.batch_map is None else self.batch_map(batch)
            self._batch = TrainingBatch(given, step, self._form, self._tokenizer.eos_token_id, plain)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Encode what was said of the batch.

        Raises:
            ValueError: If there were no logits, or the batch is none that a store can hold.
        """
        taken, self._batch = self._batch, None
        if taken is None:
            return
        if self.output is not None:
            taken.take(returned_logits(outputs, self.output))
        blocks = list(taken.blocks())
        self._check_shape(taken.shape)
        self._checked = True
        assert self._store is not None
        if self._wanted(taken.step):
            for block in blocks:
                self._store.add(block)
            self._unstepped = 0 if trainer.global_step > taken.step else self._unstepped + len(blocks)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep what is in no chunk yet, and tell the checkpoint how many blocks each rank has."""
        if self._store is not None:
            self._keep(trainer, pl_module)
            if trainer.is_global_zero:
                self._store.note_checkpoint()
        if self._state is not None:
            checkpoint[_STATE] = self._state

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on with the blocks that the checkpoint had seen; one from before there was a recorder has none."""
        self._state = checkpoint.get(_STATE)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep what is in no chunk yet; others may still save."""
        self._unhook()
        self._keep(trainer, pl_module)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make the store, also where the training that goes on had come to its end, which has no `on_train_end`."""
        if self._store is None and not self._reopen(trainer):
            return
        store, self._store = self._store, None
        assert store is not None
        trainer.strategy.barrier("LogitsRecorder kept")
        if trainer.is_global_zero:
            manifest = None if self._shape is None else store.finish(self._manifest(trainer, pl_module))
            if manifest is None:
                rank_zero_warn(
                    f"LogitsRecorder recorded nothing into {self.folder}: training ended at step "
                    f"{trainer.global_step}, start_step is {self.start_step}. Lower start_step."
                )
            else:
                tokens = manifest.splits["train"].num_tokens
                rank_zero_info(f"Recorded {tokens:,} tokens of the teacher in training into {self.folder}")
        trainer.strategy.barrier("LogitsRecorder finished")

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave the module as it was."""
        self._unhook()

    def _of_rank(self, trainer: pl.Trainer) -> TrainingStore:
        share = trainer.distributed_sampler_kwargs or {"rank": 0, "num_replicas": 1}
        if share["num_replicas"] != trainer.world_size:
            # A rank may hold a part of the vocabulary alone, which looks like logits of a smaller one.
            raise ValueError(
                f"LogitsRecorder must see whole logits of other data on each rank, got {trainer.world_size} ranks and "
                f"data dealt to {share['num_replicas']}. Set tensor_parallel_size of trainer.strategy to 1."
            )
        return TrainingStore(self.folder, self.blocks_per_chunk, share["rank"], share["num_replicas"])

    def _open(self, trainer: pl.Trainer) -> None:
        """Take the folder, and go on where the checkpoint was written, if it knows of the recording there."""
        store = self._of_rank(trainer)
        if trainer.is_global_zero:
            name = tokenizer_of(trainer, self.tokenizer)
            store.claim(self._settings(), (self._state or {}).get("recording"))
            save_tokenizer(name, self.folder / "tokenizer")
        trainer.strategy.barrier("LogitsRecorder")
        self._tokenizer = describe_tokenizer(self.folder / "tokenizer")
        if self._state is not None and self._state["recording"] != store.recording:
            self._state = None
        if self._state is None:
            store.rewind(0)
        else:
            self._shape = self._state["shape"]
            store.rewind(self._state["num_blocks"][store.rank])
        self._store = store

    def _reopen(self, trainer: pl.Trainer) -> bool:
        """Take the folder of a training that had come to its end; False if its store is whole, or somewhere else."""
        if self._state is None:
            return False
        store = self._of_rank(trainer)
        if self._state["recording"] != store.recording:
            return False
        if not store.finished:
            self._open(trainer)
        elif trainer.is_global_zero:
            store.tidy()
        return self._store is not None

    def _keep(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep what is in no chunk yet, and note how many blocks each rank has."""
        assert self._store is not None
        self._store.keep()
        # Our data show batches again whose gradients wait for a step, and which a checkpoint loses.
        again = self._unstepped if manifest_of(trainer) is not None and pending(trainer) else 0
        counts = trainer.strategy.all_gather(torch.tensor(self._store.num_blocks - again, device=pl_module.device))
        state = {"recording": self._store.recording, "num_blocks": counts.flatten().tolist()}
        self._state = {**state, "shape": self._shape}

    def _wanted(self, step: int) -> bool:
        return step >= self.start_step and (step - self.start_step) % self.every_n_steps == 0

    def _settings(self) -> dict[str, Any]:
        return {"selection": asdict(self._form.selection), "codec": self._form.codec}

    def _take(self, output: Any, head: Head | None = None) -> None:
        if self._batch is not None:
            self._batch.take(output, head)

    def _unhook(self) -> None:
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def _check_shape(self, shape: tuple[int, int, bool]) -> None:
        if self._shape is None:
            self._shape = shape
        if shape != self._shape:
            raise ValueError(
                f"Batches must stay alike to be recorded, got blocks of {shape[0]} positions and {shape[1]} ids after "
                f"some of {self._shape[0]} and {self._shape[1]}. Let the data give batches of one length, all with "
                "labels or all without."
            )

    def _manifest(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Manifest:
        assert self._shape is not None
        assert self._tokenizer is not None
        block_size, vocab_size, labelled = self._shape
        own = manifest_of(trainer)
        return Manifest(
            kind="logits",
            block_size=block_size,
            vocab_size=vocab_size,
            tokenizer=self._tokenizer,
            splits={},
            document_attention="full" if own is None else own.document_attention,
            teacher={
                "kind": type(pl_module).__name__,
                "num_parameters": sum(parameter.numel() for parameter in pl_module.parameters()),
                "vocab_size": vocab_size,
                "last_step": trainer.global_step,
            },
            codec=self._form.codec,
            selection=asdict(self._form.selection),
            columns=(*self._form.columns, *([LABELLED] if labelled else [])),
            software=software_versions(),
            extra={"settings": {**self._settings(), "start_step": self.start_step, "every": self.every_n_steps}},
        )
