"""The student as a Hugging Face folder, again and again while it is trained."""

import re
import shutil
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info

from pd_lightning.callbacks.distilling import distilling
from pd_lightning.callbacks.live_student import live_student, undisturbed
from pd_lightning.callbacks.training_data import tokenizer_dir
from pd_lightning.export import is_export, write_export
from pd_lightning.language_model import LanguageModel
from pd_lightning.live_export import live_checkpoint
from pd_lightning.store.durable import disk_full_explained

_WHO = "ExportHF"
_STEP = re.compile(r"step-\d{8,}")


class ExportHF(pl.Callback):
    """Writes the student as a Hugging Face folder, as `pd-lightning export` does, without a checkpoint between.

    Each is a folder `step-00001000` in `output_dir`, whole or not there. Works on a DistillationModule, and on any
    LightningModule with a submodule that is a Hugging Face causal model. Weights that are spread over ranks
    (FSDP2Strategy) are gathered on the first, which writes. The training stays the same to the bit.

    Args:
        output_dir: Folder of the exports. Default: `exports` in the run's folder.
        every_n_steps: Export after each so many optimizer steps. Default: at the end alone.
        at_end: Export when training ends.
        keep: The newest exports that stay; older ones are removed. Default: all.
        dtype: Data type of the exported weights.
        module: Dotted name of the submodule that is the model. Default: the student of a DistillationModule.
        tokenizer: Folder or hub name of the tokenizer to put beside the weights; TokenBlocks know theirs.

    Raises:
        ValueError: If a setting is out of range, or there is nothing to do.
    """

    def __init__(
        self,
        output_dir: str | None = None,
        every_n_steps: int | None = None,
        at_end: bool = True,
        keep: int | None = None,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        module: str | None = None,
        tokenizer: str | None = None,
    ) -> None:
        for name, value in (("every_n_steps", every_n_steps), ("keep", keep)):
            if value is not None and value < 1:
                raise ValueError(f"{name} of {_WHO} must be at least 1, got {value}. Raise it.")
        if every_n_steps is None and not at_end:
            raise ValueError(f"{_WHO} must export at some time, got never. Set its every_n_steps, or at_end to true.")
        self.output_dir = output_dir
        self.every_n_steps = every_n_steps
        self.at_end = at_end
        self.keep = keep
        self.dtype = dtype
        self.module = module
        self.tokenizer = tokenizer
        self._student: LanguageModel | None = None
        self._done_at: int | None = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the student.

        Raises:
            ValueError: If it is none that can be exported.
        """
        self._student = live_student(trainer, pl_module, self.module, _WHO)
        ours = self.module is None and getattr(pl_module, "student", None) is self._student
        if self._student.config() is None and not (ours and self._config(trainer).is_file()):
            raise ValueError(
                f"{_WHO} must find a Hugging Face model, or a student whose class the run's config.yaml tells, got "
                f"{type(self._student.model).__name__}. Set module of {_WHO} to a submodule that is one, or train with "
                "`pd-lightning fit`."
            )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to count; a run that goes on has done the step it goes on from."""
        self._done_at = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Export after each so many steps."""
        if self.every_n_steps and trainer.global_step % self.every_n_steps == 0:
            self._export(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Export at the end."""
        if self.at_end:
            self._export(trainer, pl_module)

    def _config(self, trainer: pl.Trainer) -> Path:
        return Path(trainer.default_root_dir) / "config.yaml"

    def _export(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step == self._done_at:
            return
        self._done_at = trainer.global_step
        assert self._student is not None
        found = distilling(trainer, pl_module)
        teacher = None if found is None else found.teacher.describe()
        # Building the model that is saved draws its first weights.
        with undisturbed(trainer, pl_module):
            checkpoint = live_checkpoint(trainer, pl_module, self._student, self.module, teacher)
            if checkpoint is not None:
                self._write(trainer, checkpoint)
        trainer.strategy.barrier(_WHO)

    def _write(self, trainer: pl.Trainer, checkpoint: dict[str, Any]) -> None:
        root = Path(trainer.default_root_dir) / "exports" if self.output_dir is None else Path(self.output_dir)
        folder = root / f"step-{trainer.global_step:08d}"
        tokenizer = self.tokenizer or tokenizer_dir(trainer)
        remedy = f"Earlier exports stay. Free some space, or lower keep of {_WHO}."
        with disk_full_explained(f"the export {folder}", lambda: remedy):
            write_export(checkpoint, folder, self._config(trainer), tokenizer, self.dtype, overwrite=True)
        rank_zero_info(f"Exported the student of step {trainer.global_step} to {folder}")
        if self.keep is not None:
            exports = [path for path in root.iterdir() if _STEP.fullmatch(path.name) and is_export(path)]
            # By time: a run that went on from an earlier step has older exports of later ones.
            for path in sorted(exports, key=lambda path: path.stat().st_mtime_ns)[: -self.keep]:
                shutil.rmtree(path)
