"""A logit store of a teacher in training: what Peng et al. call online logits."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pd_lightning.data.batch import LABELLED
from pd_lightning.data.tokenizer_folder import describe_tokenizer, save_tokenizer
from pd_lightning.heads import Head
from pd_lightning.selection import Selection
from pd_lightning.store.manifest import Manifest, TokenizerInfo, software_versions
from pd_lightning.store_format import StoreFormat, store_format
from pd_lightning.training_batch import TrainingBatch
from pd_lightning.training_store import TrainingStore

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
        self._form: StoreFormat = store_format(selection, None, values, None)
        self._store: TrainingStore | None = None
        self._counts: list[int] = []
        self._batch: TrainingBatch | None = None
        self._shape: tuple[Any, ...] | None = None
        self._tokenizer: TokenizerInfo | None = None
        self._handle: RemovableHandle | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the folder, and find the logits.

        Raises:
            ValueError: If the folder is not to be written, there is no such submodule, or no tokenizer is known.
        """
        store = TrainingStore(self.folder, self.blocks_per_chunk, trainer.global_rank, trainer.world_size)
        if self._counts and len(self._counts) != trainer.world_size:
            raise ValueError(
                f"LogitsRecorder must go on with the processes that it began with, got {trainer.world_size} in place "
                f"of {len(self._counts)}. Set trainer.devices and trainer.num_nodes as they were."
            )
        if trainer.is_global_zero:
            name = self._tokenizer_name(trainer)
            store.claim(self._settings(), resumes=bool(self._counts))
            save_tokenizer(name, self.folder / "tokenizer")
        trainer.strategy.barrier("LogitsRecorder")
        self._tokenizer = describe_tokenizer(self.folder / "tokenizer")
        store.rewind(self._counts[trainer.global_rank] if self._counts else 0)
        self._store = store
        if self.output is None:
            self._handle = self._hook(pl_module)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Expect logits, where this step is recorded."""
        step = trainer.global_step
        wanted = step >= self.start_step and (step - self.start_step) % self.every_n_steps == 0
        self._batch = TrainingBatch(batch, step, self._form) if wanted else None

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
            if not isinstance(outputs, Mapping) or not isinstance(outputs.get(self.output), Tensor):
                raise ValueError(
                    f"training_step must return a dictionary with the logits as {self.output!r}, got "
                    f"{sorted(outputs) if isinstance(outputs, Mapping) else type(outputs).__name__}. Return them, or "
                    "set module of LogitsRecorder."
                )
            taken.take(outputs[self.output])
        assert self._store is not None
        assert self._tokenizer is not None
        own = _manifest(trainer)
        plain = own is not None and LABELLED not in own.columns
        labelled = not plain and not {"labels", "attention_mask"}.isdisjoint(batch)
        for block in taken.blocks(self._tokenizer.eos_token_id, plain):
            self._check_shape(len(block.item["tokens"]) - 1, taken.vocab_size, labelled)
            self._store.add(block)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep what is in no chunk yet, and tell the checkpoint how many blocks each rank has."""
        if self._store is not None:
            self._store.keep()
            counts = trainer.strategy.all_gather(torch.tensor(self._store.num_blocks, device=pl_module.device))
            checkpoint[_STATE] = {"num_blocks": counts.flatten().tolist(), "shape": self._shape}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on with the blocks that the checkpoint had seen."""
        # A checkpoint from before there was a recorder goes on with none.
        state = checkpoint.get(_STATE, {"num_blocks": [], "shape": None})
        self._counts, self._shape = state["num_blocks"], state["shape"]

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make the store."""
        self._unhook()
        assert self._store is not None
        self._store.keep()
        trainer.strategy.barrier("LogitsRecorder kept")
        if trainer.is_global_zero and self._shape is not None:
            manifest = self._store.finish(self._manifest(trainer, pl_module))
            split = manifest.splits["train"]
            rank_zero_info(f"Recorded {split.num_tokens:,} tokens of the teacher in training into {self.folder}")
        trainer.strategy.barrier("LogitsRecorder finished")

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave the module as it was."""
        self._unhook()

    def _settings(self) -> dict[str, Any]:
        return {"selection": asdict(self._form.selection), "codec": self._form.codec}

    def _hook(self, pl_module: pl.LightningModule) -> RemovableHandle:
        if self.module is not None:
            try:
                source = pl_module.get_submodule(self.module)
            except AttributeError as error:
                names = ", ".join(name for name, _ in pl_module.named_children())
                raise ValueError(
                    f"module of LogitsRecorder must name a submodule of {type(pl_module).__name__}, got "
                    f"{self.module!r}. Set it to a dotted name that begins with one of {names}."
                ) from error
            return source.register_forward_hook(lambda *call: self._take(call[-1]))
        student: Any = getattr(pl_module, "student", None)
        if not hasattr(student, "body"):
            raise ValueError(
                f"LogitsRecorder must know where the logits of {type(pl_module).__name__} are, got neither module nor "
                "output. Set module to the name of the submodule that makes them, or output to their key in what "
                "training_step returns."
            )
        body: nn.Module = student.body
        return body.register_forward_hook(lambda *call: self._take(call[-1], student.head))

    def _take(self, output: Any, head: Head | None = None) -> None:
        if self._batch is not None:
            self._batch.take(output, head)

    def _unhook(self) -> None:
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def _check_shape(self, *shape: Any) -> None:
        if self._shape is None:
            self._shape = shape
        if shape != self._shape:
            raise ValueError(
                f"Batches must stay alike to be recorded, got blocks of {shape[0]} positions and {shape[1]} ids after "
                f"some of {self._shape[0]} and {self._shape[1]}. Let the data give batches of one length, all with "
                "labels or all without."
            )

    def _tokenizer_name(self, trainer: pl.Trainer) -> str:
        name = self.tokenizer or getattr(getattr(trainer, "datamodule", None), "tokenizer_dir", None)
        if name is None:
            raise ValueError(
                "LogitsRecorder must know the tokenizer of the data, got none. Set its tokenizer to a folder or hub "
                "name, or give the data an attribute tokenizer_dir."
            )
        return str(name)

    def _manifest(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Manifest:
        assert self._shape is not None
        assert self._tokenizer is not None
        block_size, vocab_size, labelled = self._shape
        own = _manifest(trainer)
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


def _manifest(trainer: pl.Trainer) -> Manifest | None:
    """The manifest of our data folders; other people's data have none."""
    return getattr(getattr(trainer, "datamodule", None), "manifest", None)
