"""A `fit` without its machines, weights and training: everything is built and checked, then planned."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from lightning.pytorch import LightningDataModule
from lightning.pytorch.strategies import Strategy, StrategyRegistry

from pd_lightning.data import TokenBlocks
from pd_lightning.module import DistillationModule
from pd_lightning.module.optimization import build_optimizer
from pd_lightning.module.surroundings import check_trainer, check_validation_interval, student_defaults
from pd_lightning.plan.request import Request
from pd_lightning.plan.settings import Assumptions, Described, check_assumptions, require_positive
from pd_lightning.plan.sizes import Size, size_of, size_of_model
from pd_lightning.plan.teacher_sizes import size_of_recorded, size_of_teacher
from pd_lightning.schedules import check_schedules
from pd_lightning.strategies import FSDP2Strategy
from pd_lightning.teachers import NoTeacher, OfflineTeacher

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

_CHECKED = [
    "settings of the Trainer, precision, strategy, validation interval",
    "data folders: manifests, splits, headers of all chunks",
    "the student's configuration, context and vocabulary; its tokenizer and the teacher's",
    "transforms, loss and weighting against the targets; schedules over the whole run; the optimizer",
]
_NOT_CHECKED = [
    "weights of pretrained models; whether attention sees nothing later, and keeps to a document where it must",
    "whether the GPUs are there; what callbacks and loggers need",
]
_PRECISIONS = {"bf16-mixed", "bf16-true", "32-true"}
_ALIASES = {"bf16": "bf16-mixed", "16": "16-mixed", "32": "32-true", "None": "32-true"}


class Rehearsal:
    """What `fit` would do with its settings.

    Args:
        trainer: A Trainer of one CPU in place of the run's.
        asked: Settings of the Trainer, as the YAML gives them.
        module: The module, without weights.
        datamodule: The data.
        planned_steps: Gives the optimizer steps of the run.
    """

    def __init__(
        self,
        trainer: Trainer,
        asked: Any,
        module: DistillationModule,
        datamodule: LightningDataModule | None,
        planned_steps: Callable[[], int],
    ) -> None:
        self.trainer, self.asked = trainer, asked
        self.module, self.datamodule = module, datamodule
        self._planned_steps = planned_steps
        self.precision = _ALIASES.get(str(asked["precision"]), str(asked["precision"]))
        self.notes: list[str] = []
        self.steps, self.world = 0, 1

    def check(self, gpus: int | None) -> None:
        """Go through all that `fit` checks before it trains.

        Args:
            gpus: GPUs of the run, where its settings leave them open.

        Raises:
            ValueError: As `fit` would.
            FileNotFoundError: As `fit` would.
        """
        require_positive(gpus, "gpus")
        self.world = self._world_size(gpus)
        strategy = self._strategy()
        check_trainer(SimpleNamespace(precision=self.precision, strategy=strategy))  # type: ignore[arg-type]
        if isinstance(strategy, FSDP2Strategy):
            strategy.check_replicas(self.world)
        module, trainer = self.module, self.trainer
        module.trainer = trainer
        self._open_data()
        module.setup("fit")
        if module.student is None:
            assert module.recipe is not None
            module.student = module.recipe.outline(student_defaults(trainer))
        module.meet_teachers("rehearse")
        check_schedules(module.kd_weight, module.objective.schedules(), module.lr, self.steps)
        build_optimizer(module.make_optimizer, module.student)

    def report(self) -> dict[str, list[str]]:
        """What was checked, and what can only be known on the machines of the run."""
        return {"checked": _CHECKED, "not checked": _NOT_CHECKED}

    def request(self, teacher: Described | str | None, store: str | None, assume: Assumptions) -> Request:
        """Say what is to be planned; `check` comes first.

        Args:
            teacher: The teacher, where the run doesn't tell.
            store: A store to measure, in place of the run's own.
            assume: What is not known; what the settings say goes before it.

        Raises:
            ValueError: If a number can't be meant.
        """
        check_assumptions(assume)
        assume = self._assumed(assume)
        assert self.module.student is not None
        student = size_of_model(self.module.student, assume.block_size, "model.student")
        size, about = self._teacher(teacher, assume)
        blocks = self._blocks_per_step()
        tokens = float(self.steps * blocks * assume.block_size)
        available = self._train_tokens()
        self.notes.append(
            f"{self.steps:,} steps of {blocks:,} blocks: {tokens:,.0f} tokens"
            + ("" if available is None else f", of {available:,.0f} there are")
        )
        request = Request(student, size, about, tokens, self.world, "", None)
        request.epochs = 1.0 if not available else max(1.0, tokens / available)
        request.assume, request.notes = assume, self.notes
        request.store = store or self._own_store()
        request.live = not isinstance(self.module.teacher, NoTeacher | OfflineTeacher)
        strategy = self._strategy()
        if isinstance(strategy, FSDP2Strategy):
            request.strategy, request.shards = "fsdp2", self.world // strategy.replicas
        return request

    def _world_size(self, gpus: int | None) -> int:
        devices, nodes = self.asked["devices"], self.asked["num_nodes"]
        number = len(devices) if isinstance(devices, list) else None
        if isinstance(devices, int | str) and str(devices).isdigit():
            number = int(devices)
        if number is None:
            if gpus is None:
                self.notes.append("trainer.devices leaves the number of GPUs open: 1 is taken (--gpus)")
            return gpus or 1
        if gpus is not None and gpus != number * nodes:
            raise ValueError(
                f"--gpus must be what trainer.devices and trainer.num_nodes say, got {gpus} for {number * nodes}. Set "
                "them, or leave out --gpus."
            )
        return int(number * nodes)

    def _strategy(self) -> Any:
        given = self.asked["strategy"]
        if isinstance(given, Strategy) or given == "auto":
            return given
        if given not in StrategyRegistry:
            raise ValueError(
                f"trainer.strategy must be a name that Lightning knows or a class, got {given}. Set it to ddp, fsdp2 "
                "or trainer.strategy.class_path."
            )
        return StrategyRegistry.get(given)

    def _open_data(self) -> None:
        """Open the data, and count the run's steps: of one device that sees as much at a time as all of them."""
        data = self.datamodule
        if data is not None:
            data.prepare_data()
        if not isinstance(data, TokenBlocks):
            steps = self._planned_steps()
            counted = self.asked["max_steps"] != -1
            self.steps = steps if counted else math.ceil(steps / self.world)  # a sampler deals the rows to all GPUs
            return
        batch_size, workers = data.batch_size, data.num_workers
        data.batch_size, data.num_workers = batch_size * self.world, 0
        try:
            self.steps = self._planned_steps()
            data.setup("fit")
            self.trainer.fit_loop.setup_data()
            check_validation_interval(self.trainer)
        finally:
            data.batch_size, data.num_workers = batch_size, workers

    def _blocks_per_step(self) -> int:
        batch = getattr(self.datamodule, "batch_size", None)
        if not isinstance(batch, int):
            self.notes.append("the data do not tell their batch size: assume.micro_batch is taken")
            batch = 1
        return batch * self.world * self.trainer.accumulate_grad_batches

    def _train_tokens(self) -> float | None:
        data = self.datamodule
        if not isinstance(data, TokenBlocks):
            return None
        order = data._train_order
        return float(order.length * data.block_size)

    def _assumed(self, assume: Assumptions) -> Assumptions:
        """The assumptions, with what the settings say in their place."""
        known: dict[str, Any] = {}
        if isinstance(self.datamodule, TokenBlocks):
            known = {"block_size": self.datamodule.block_size, "micro_batch": self.datamodule.batch_size}
        if self.precision in _PRECISIONS:
            known["precision"] = self.precision
        again = getattr(self.module.recipe, "activation_checkpointing", None)
        if again is not None:
            known["activation_checkpointing"] = again
        return replace(assume, **known)

    def _teacher(self, teacher: Described | str | None, assume: Assumptions) -> tuple[Size | None, Described]:
        """The teacher as the command line has it, else as the run has it, else as its store names it."""
        if teacher is not None and not _adds(teacher):
            return size_of(teacher, "teacher", assume)
        about = teacher if isinstance(teacher, Described) else Described()
        own = self.module.teacher
        if isinstance(own, NoTeacher):
            return None, about
        if not isinstance(own, OfflineTeacher):
            return size_of_teacher(own, assume), about
        recorded = getattr(getattr(self.datamodule, "manifest", None), "teacher", None) or {}
        size = size_of_recorded(recorded, assume)
        if size is None:
            self.notes.append("the store does not tell its teacher's size, so nothing is said of it (--teacher.params)")
        return size, about

    def _own_store(self) -> str | None:
        """The store that the run reads, if it is on this machine."""
        data = self.datamodule
        reads = isinstance(self.module.teacher, OfflineTeacher) and isinstance(data, TokenBlocks)
        return str(data.path) if reads and isinstance(data, TokenBlocks) and Path(data.path).is_dir() else None


def _adds(teacher: Described | str) -> bool:
    """Whether it only says more of a teacher that is known: its tokens, its loss."""
    return isinstance(teacher, Described) and teacher.params is None and not (teacher.config or teacher.model)
