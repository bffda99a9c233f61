"""A teacher that is still in training: the newest checkpoint of another run."""

import warnings
from pathlib import Path
from typing import Any, Literal

import torch
from torch import distributed, nn

from pd_lightning.checkpoints import checkpoints_in, load_checkpoint
from pd_lightning.language_model import build_causal_lm
from pd_lightning.targets import HiddenTargets
from pd_lightning.teachers.base import Batch, Surroundings
from pd_lightning.teachers.frozen import FrozenTeacher
from pd_lightning.tokenizers import check_same_tokenizer

_KEY = "folder of CheckpointTeacher"
_PREFIX = "student.model."


class CheckpointTeacher(FrozenTeacher):
    """Follows the checkpoints of another `pd-lightning fit`, so that the student learns what its teacher just learnt.

    Both runs go on at the same time, on other devices or other machines that see the same folder. What a student sees
    depends on how far its teacher is: a run is not to be repeated to the bit.

    Args:
        folder: Run folder of the teacher, or its folder of checkpoints.
        every_n_steps: Look for a newer checkpoint before each so many training batches.
        dtype: Data type that the teacher computes in; `auto` for float32, in which checkpoints are.
        device: Where it computes; the student's device by default.

    Raises:
        ValueError: If `every_n_steps` is below 1.

    Source: online logits of Peng et al. (arXiv 2410.16215), section 3.5, without a store between.
    """

    def __init__(
        self,
        folder: str,
        every_n_steps: int = 1000,
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
        device: str | None = None,
    ) -> None:
        super().__init__(folder, dtype, device)
        if every_n_steps < 1:
            raise ValueError(
                f"every_n_steps must be at least 1, got {every_n_steps}. Set model.teacher.init_args.every_n_steps."
            )
        self.folder = Path(folder)
        self.every_n_steps = every_n_steps
        self.step = 0
        self._batches = 0
        self._loaded: tuple[Path, int] | None = None
        self._tokenizer: str | None = None

    def setup(self, surroundings: Surroundings) -> None:
        """Load the newest checkpoint, freeze it, and move it to its device.

        Raises:
            FileNotFoundError: If there is no checkpoint yet.
            ValueError: If it is no checkpoint of a Hugging Face student, or does not fit; see FrozenTeacher.
        """
        if surroundings.device_mesh is not None:
            raise ValueError(
                "CheckpointTeacher must be whole on each device, got a strategy that shards models. Set "
                "trainer.strategy to ddp, or model.teacher to pd_lightning.teachers.FrozenTeacher with an exported "
                "checkpoint."
            )
        if self._module is None:
            self._module = self._build()
        super().setup(surroundings)
        if self._tokenizer is not None and surroundings.tokenizer_dir is not None:
            check_same_tokenizer(self._tokenizer, "main", surroundings.tokenizer_dir)

    def rehearse(self, surroundings: Surroundings) -> None:
        """Check what `setup` checks, with the newest checkpoint's configuration.

        Raises:
            FileNotFoundError: As of `setup`.
            ValueError: As of `setup`.
        """
        self._module = self._build()
        super().rehearse(surroundings)
        if self._tokenizer is not None and surroundings.tokenizer_dir is not None:
            check_same_tokenizer(self._tokenizer, "main", surroundings.tokenizer_dir)

    def __call__(self, batch: Batch) -> HiddenTargets:
        """Run the newest weights over a batch, see FrozenTeacher."""
        if torch.is_grad_enabled():  # not in validation: ranks may validate other numbers of batches
            self._batches += 1
            if self._batches % self.every_n_steps == 0:
                self._follow()
        return super().__call__(batch)

    def describe(self) -> dict[str, object]:
        """The same as of FrozenTeacher, with the step of the checkpoint that is in use."""
        return {**super().describe(), "step": self.step}

    def _build(self) -> nn.Module:
        found = _of_first_rank(self._newest())
        if found is None:
            raise FileNotFoundError(
                f"{_KEY} must hold a checkpoint, got {self.folder}, where there is none yet. Wait until the teacher's "
                "run has written one, or correct model.teacher.init_args.folder."
            )
        checkpoint = load_checkpoint(found[0], _KEY, map_location="cpu")
        ours = checkpoint.get("pd_lightning", {})
        if ours.get("student_config") is None:
            raise ValueError(
                f"{_KEY} must hold checkpoints of a Hugging Face student, got {found[0]}, which has no student_config. "
                "Set it to a run of `pd-lightning fit` with pd_lightning.students.HFStudent."
            )
        self._tokenizer = ours.get("tokenizer")
        settings = {name: value for name, value in ours["student_config"].items() if name != "transformers_version"}
        # Random numbers of its own: the student shall not start otherwise for its teacher.
        with torch.random.fork_rng(devices=[]):
            model = build_causal_lm(settings)
        self._put(checkpoint, model)
        self._loaded = found
        return model

    def _follow(self) -> None:
        """Put a newer checkpoint's weights in place of those at hand; every rank takes the same one."""
        found = _of_first_rank(self._newest())
        if found is None or found == self._loaded:
            return
        checkpoint, problem = None, None
        try:
            checkpoint = load_checkpoint(found[0], _KEY, map_location="cpu")
        except (ValueError, FileNotFoundError) as error:
            problem = str(error)
        # All ranks or none: gradients of different teachers must not be mixed.
        problem = next((said for said in _of_all_ranks(problem) if said is not None), None)
        if checkpoint is None or problem is not None:
            # The other run may just have replaced it; the next look finds its successor.
            warnings.warn(f"CheckpointTeacher stays at step {self.step}: {problem}", stacklevel=1)
            return
        self._put(checkpoint, self.model.model)
        self._loaded = found

    def _put(self, checkpoint: dict[str, Any], model: nn.Module) -> None:
        state = {
            name.removeprefix(_PREFIX): tensor
            for name, tensor in checkpoint["state_dict"].items()
            if name.startswith(_PREFIX)
        }
        model.load_state_dict(state)
        self.step = checkpoint["global_step"]
        self._digest = None

    def _newest(self) -> tuple[Path, int] | None:
        """The file that was written last, with the time in nanoseconds: `last.ckpt` is written again and again."""
        times = {}
        for path in (*checkpoints_in(self.folder), *checkpoints_in(self.folder / "checkpoints")):
            try:
                times[path] = path.stat().st_mtime_ns
            except FileNotFoundError:  # removed by the other run since it was listed
                continue
        return max(times.items(), key=lambda item: item[1]) if times else None


def _of_first_rank(value: Any) -> Any:
    values = [value]
    if distributed.is_available() and distributed.is_initialized():
        distributed.broadcast_object_list(values)
    return values[0]


def _of_all_ranks(value: Any) -> list[Any]:
    if not (distributed.is_available() and distributed.is_initialized()):
        return [value]
    values = [value] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values
