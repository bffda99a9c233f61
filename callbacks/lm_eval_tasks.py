"""lm-evaluation-harness on the live student."""

import logging
import numbers
import random
from collections.abc import Mapping
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.seed import isolate_rng
from torch.distributed.tensor import DTensor

from pd_lightning.callbacks.at_steps import AtSteps
from pd_lightning.callbacks.live_student import evaluating, live_student
from pd_lightning.callbacks.tokenizer import context_length, load_tokenizer
from pd_lightning.callbacks.training_data import tokenizer_of
from pd_lightning.language_model import LanguageModel

_WHO = "LMEval"


class LMEval(AtSteps):
    """Runs tasks of lm-evaluation-harness on the student amid training, at its end, and in `pd-lightning validate`.

    Logged as `eval/<task>/<metric>`. Works on a DistillationModule, and on any LightningModule with a submodule, or a
    `forward`, that gives logits for token ids; tasks that generate text need a Hugging Face model. The training stays
    the same to the bit.

    Ranks share the documents of each task; where the weights are spread over ranks (FSDP2Strategy) all of them see all
    documents, since they can only compute together.

    Args:
        tasks: Names of tasks, groups or tags, or patterns of them.
        include_path: Folder of tasks of your own, as YAML files; needs no network where their data are local.
        every_n_steps: Run after each so many optimizer steps. Default: at the end alone.
        at_end: Run when training ends.
        limit: Documents of each task, or a share of them below 1.
        num_fewshot: Examples before each question. Default: what the task says.
        batch_size: Texts at a time.
        max_length: Tokens of a text. Default: what the student takes, or else a block of the data.
        module: Dotted name of the submodule that maps token ids `[B, T]` to logits `[B, T, V]`. Default: the student
            of a DistillationModule, or the LightningModule itself.
        tokenizer: Folder or hub name of the tokenizer; TokenBlocks know theirs.

    Raises:
        ModuleNotFoundError: If lm-evaluation-harness is not installed.
        ValueError: If a setting is out of range.
    """

    def __init__(
        self,
        tasks: list[str],
        include_path: str | None = None,
        every_n_steps: int | None = None,
        at_end: bool = True,
        limit: float | None = None,
        num_fewshot: int | None = None,
        batch_size: int = 8,
        max_length: int | None = None,
        module: str | None = None,
        tokenizer: str | None = None,
    ) -> None:
        if find_spec("lm_eval") is None:
            raise ModuleNotFoundError(
                f"{_WHO} needs the package 'lm-eval', which is missing. Install it with: pip install "
                "'pd-lightning[eval]'"
            )
        if not tasks:
            raise ValueError(f"tasks of {_WHO} must name at least one task, got none. Set it to [lambada_openai], say.")
        super().__init__(every_n_steps, at_end)
        least = {"batch_size": 1, "max_length": 1, "num_fewshot": 0}
        given = {"batch_size": batch_size, "max_length": max_length, "num_fewshot": num_fewshot}
        for name, value in given.items():
            if value is not None and value < least[name]:
                raise ValueError(f"{name} of {_WHO} must be at least {least[name]}, got {value}. Raise it.")
        if limit is not None and limit <= 0:
            raise ValueError(f"limit of {_WHO} must be above 0, got {limit}. Set it to 100, say, or leave it out.")
        self.tasks = tasks
        self.include_path = include_path
        self.limit = limit
        self.num_fewshot = num_fewshot
        self.batch_size = batch_size
        self.max_length = max_length
        self.module = module
        self.tokenizer = tokenizer
        self._student: LanguageModel | None = None
        self._tokenizer: Any = None
        self._length = 0
        self._tasks: dict[str, Any] = {}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find student, tokenizer and tasks.

        Raises:
            ValueError: If one of these is not to be had.
        """
        with isolate_rng():
            self._prepare(trainer, pl_module)

    def act(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Run amid training, and log."""
        found = self._run(trainer, pl_module)
        for logger in trainer.loggers:
            # Not by `log`, which gives loggers the steps alone that they log anyway.
            logger.log_metrics(dict(found), step=trainer.global_step)
        said = ", ".join(f"{name} {value:.4g}" for name, value in found.items())
        rank_zero_info(f"{_WHO} at step {trainer.global_step}: {said}")

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find them in `validate`."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._prepare(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Run in `validate`."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            pl_module.log_dict(dict(self._run(trainer, pl_module)), sync_dist=True)

    def _prepare(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._student = live_student(trainer, pl_module, self.module, _WHO)
        self._tokenizer = load_tokenizer(tokenizer_of(trainer, self.tokenizer, _WHO), _WHO)
        self._length = context_length(trainer, pl_module, self._student, self.max_length, f"max_length of {_WHO}")
        logging.getLogger("lm_eval").setLevel(logging.WARNING)
        if self.include_path is not None and not Path(self.include_path).is_dir():
            raise FileNotFoundError(
                f"include_path of {_WHO} must be a folder of tasks, got {self.include_path!r}, which is none. Mend it."
            )
        self._tasks = _load(self.tasks, self.include_path, self.num_fewshot)

    def _run(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Mapping[str, float]:
        # Not `simple_evaluate`, which spends seconds on a description of the machine.
        from lm_eval.evaluator import evaluate

        from pd_lightning.callbacks.harness_model import LiveLM

        assert self._student is not None
        spread = any(isinstance(parameter, DTensor) for parameter in self._student.parameters())
        ranks = {} if spread else {"rank": trainer.global_rank, "num_ranks": trainer.world_size}
        device = trainer.strategy.root_device
        with evaluating(trainer, pl_module):
            _seed(self._tasks)
            results = evaluate(
                LiveLM(self._student, self._tokenizer, self._length, self.batch_size, device, **ranks),
                self._tasks,
                limit=self.limit,
                # Some metrics would start processes for it.
                bootstrap_iters=0,
                log_samples=False,
            )
        found: dict[str, float] = trainer.strategy.broadcast(_figures(results) if results else {})
        return found


def _load(names: list[str], include_path: str | None, num_fewshot: int | None) -> dict[str, Any]:
    """Load tasks with their data."""
    manager, found = _find(names, include_path)
    try:
        loaded: dict[str, Any] = manager.load(found)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise ValueError(
            f"The data of tasks of {_WHO} must be at hand, got: {reason}. Load them once where there is a network, or "
            "name local files in a task of include_path."
        ) from error
    for task in loaded["tasks"].values():
        own = task.get_config("num_fewshot")
        # As the harness does: a task that says 0 means it.
        if own is None or (num_fewshot is not None and own != 0):
            task.set_config(key="num_fewshot", value=num_fewshot or 0)
    return loaded


def _find(names: list[str], include_path: str | None) -> tuple[Any, list[str]]:
    """Find tasks, among the user's own first: the harness's thousands take seconds to list."""
    from lm_eval.tasks import TaskManager

    if include_path is not None:
        manager = TaskManager(include_path=include_path, include_defaults=False)
        if all(manager.match_tasks([name]) for name in names):
            return manager, manager.match_tasks(names)
    manager = TaskManager(include_path=include_path)
    for name in names:
        if not manager.match_tasks([name]):
            close = get_close_matches(name, manager.all_tasks, n=3)
            hint = f" Close to it: {', '.join(close)}." if close else ""
            raise ValueError(
                f"tasks of {_WHO} must name tasks of lm-evaluation-harness or of include_path, got {name!r}.{hint} "
                "`lm_eval ls tasks` lists them."
            )
    return manager, manager.match_tasks(names)


def _seed(tasks: dict[str, Any]) -> None:
    """Have each run draw the same, with the seeds of the harness."""
    random.seed(0)
    np.random.seed(1234)
    torch.manual_seed(1234)
    for task in tasks["tasks"].values():
        task.set_fewshot_seed(seed=1234)


def _figures(results: Mapping[str, Any]) -> dict[str, float]:
    """Give the numbers by name; a filter other than `none` is a part of the metric's."""
    found = {}
    for task, metrics in results["results"].items():
        for key, value in metrics.items():
            metric, comma, filtered = key.partition(",")
            if comma and isinstance(value, numbers.Real):
                found[f"eval/{task}/{metric}" + ("" if filtered == "none" else f"_{filtered}")] = float(value)
    return found
