"""The student as a Hugging Face folder, again and again while it is trained."""

import re
import shutil
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.seed import isolate_rng

from pd_lightning.callbacks.at_steps import AtSteps
from pd_lightning.callbacks.distilling import distilling
from pd_lightning.callbacks.live_student import evaluating, live_student
from pd_lightning.callbacks.tokenizer import load_tokenizer
from pd_lightning.callbacks.training_data import tokenizer_dir
from pd_lightning.export.exporting import is_export, write_export
from pd_lightning.export.live import check_exportable, live_checkpoint
from pd_lightning.language_model import LanguageModel
from pd_lightning.store.durable import disk_full_explained

_WHO = "ExportHF"
_STEP = re.compile(r"step-\d{8,}")


class ExportHF(AtSteps):
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
        super().__init__(every_n_steps, at_end)
        if keep is not None and keep < 1:
            raise ValueError(f"keep of {_WHO} must be at least 1, got {keep}. Raise it.")
        if every_n_steps is None and not at_end:
            raise ValueError(f"{_WHO} must export at some time, got never. Set its every_n_steps, or at_end to true.")
        self.output_dir = output_dir
        self.keep = keep
        self.dtype = dtype
        self.module = module
        self.tokenizer = tokenizer
        self._student: LanguageModel | None = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the student, and its tokenizer.

        Raises:
            FileNotFoundError: If the tokenizer does not load.
            ValueError: If the student is none that can be exported.
        """
        self._student = live_student(trainer, pl_module, self.module, _WHO)
        ours = self.module is None and getattr(pl_module, "student", None) is self._student
        if self._student.config() is None and not (ours and self._config(trainer).is_file()):
            raise ValueError(
                f"{_WHO} must find a Hugging Face model, or a student whose class the run's config.yaml tells, got "
                f"{type(self._student.model).__name__}. Set module of {_WHO} to a submodule that is one, or train with "
                "`pd-lightning fit`."
            )
        with isolate_rng():
            if self._student.config() is not None:
                check_exportable(pl_module, self._student, self.module, _WHO)
            if self.tokenizer is not None:
                load_tokenizer(self.tokenizer, _WHO)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to count, and look at the folders that are there.

        Raises:
            ValueError: If one that holds other things is in the way of an export to come.
        """
        super().on_train_start(trainer, pl_module)
        for folder in self._root(trainer).glob("step-*"):
            if _STEP.fullmatch(folder.name) and self._will_be_due(trainer, int(folder.name.removeprefix("step-"))):
                _check_free(folder)

    def act(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Export."""
        assert self._student is not None
        found = distilling(trainer, pl_module)
        teacher = None if found is None else found.teacher.describe()
        # Building the model that is saved draws its first weights.
        with evaluating(trainer, pl_module):
            checkpoint = live_checkpoint(trainer, pl_module, self._student, self.module, teacher)
            if checkpoint is not None:
                self._write(trainer, checkpoint)
        trainer.strategy.barrier(_WHO)

    def _will_be_due(self, trainer: pl.Trainer, step: int) -> bool:
        last = trainer.max_steps
        due = step % self.every_n_steps == 0 if self.every_n_steps else False
        ahead = step > trainer.global_step and (last < 0 or step <= last)
        return ahead and (due or (self.at_end and step == last))

    def _root(self, trainer: pl.Trainer) -> Path:
        return Path(trainer.default_root_dir) / "exports" if self.output_dir is None else Path(self.output_dir)

    def _config(self, trainer: pl.Trainer) -> Path:
        return Path(trainer.default_root_dir) / "config.yaml"

    def _write(self, trainer: pl.Trainer, checkpoint: dict[str, Any]) -> None:
        root = self._root(trainer)
        folder = root / f"step-{trainer.global_step:08d}"
        _check_free(folder)
        tokenizer = self.tokenizer or tokenizer_dir(trainer)
        remedy = f"Earlier exports stay. Free some space, or lower keep of {_WHO}."
        with disk_full_explained(f"the export {folder}", lambda: remedy):
            write_export(checkpoint, folder, self._config(trainer), tokenizer, self.dtype, overwrite=True)
        rank_zero_info(f"Exported the student of step {trainer.global_step} to {folder}")
        if self.keep is not None:
            named = (path for path in root.iterdir() if _STEP.fullmatch(path.name))
            exports = [path for path in named if path.is_dir() and is_export(path)]
            # By time: a run that went on from an earlier step has older exports of later ones.
            for path in sorted(exports, key=lambda path: path.stat().st_mtime_ns)[: -self.keep]:
                shutil.rmtree(path)


def _check_free(folder: Path) -> None:
    if folder.exists() and not (folder.is_dir() and is_export(folder)):
        raise ValueError(
            f"output_dir of {_WHO} must hold exports alone by the names of exports, got {folder}, which holds other "
            f"things. Move it away, or set another output_dir of {_WHO}."
        )
