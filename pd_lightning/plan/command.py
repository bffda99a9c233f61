"""`pd-lightning plan` from numbers and configurations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pd_lightning.plan.memory import Strategy
from pd_lightning.plan.planning import make_plan
from pd_lightning.plan.report import as_text
from pd_lightning.plan.request import Request
from pd_lightning.plan.settings import Assumptions, Described, Stored, check_assumptions
from pd_lightning.plan.sizes import size_of

_NOBODY = Described()


def plan(
    student: Described | str | None = None,
    teacher: Described | str | None = None,
    tokens: float | None = None,
    gpus: int = 1,
    gpu: str = "H100",
    price: float | None = None,
    students: int = 1,
    epochs: float = 1.0,
    strategy: Strategy = "ddp",
    selection: Stored = Stored(),  # noqa: B008 - jsonargparse gives it its settings
    store: str | None = None,
    assume: Assumptions = Assumptions(),  # noqa: B008
    json: bool = False,
    output_path: str | None = None,
) -> None:
    """Say what a run will cost, and whether distilling pays. With `--config` it is that of a `fit`, checked whole.

    Args:
        student: The student: --student.params, or --student with a model's folder, config.json or YAML, or a number.
        teacher: The teacher, in the same ways; none for plain pre-training.
        tokens: Tokens that a student is trained on, over all epochs.
        gpus: GPUs of the run.
        gpu: Which ones: H100, A100, RTX-4090, …
        price: Price of a GPU-hour, in any currency.
        students: Students that learn from the same targets.
        epochs: Passes of a student over the recorded tokens.
        strategy: Whether each GPU holds the whole student, or its share.
        selection: What is kept of each position in a store.
        store: A store or a pilot of one, recorded of a few blocks: its measured size counts.
        assume: What is not known before the run.
        json: Print JSON and nothing else.
        output_path: A file to write the same JSON to.

    Raises:
        ValueError: If something is missing, or can't be meant.
        FileNotFoundError: If a configuration or the store does not exist.
    """
    if student is None:
        raise ValueError(
            "plan must know the student, got none. Set --student.params, or --config to the YAML of a fit."
        )
    if tokens is None:
        raise ValueError("plan must know how long the run is, got no tokens. Set --tokens, to 100e9 say.")
    check_assumptions(assume)  # models are counted on its blocks
    size, _ = size_of(student, "student", assume)
    teacher_size, about = (None, _NOBODY) if teacher is None else size_of(teacher, "teacher", assume)
    request = Request(size, teacher_size, about, tokens, gpus, gpu, price, students, epochs, strategy)
    request.selection, request.store, request.assume = selection, store, assume
    show(make_plan(request), json, output_path)


def show(plan: dict[str, Any], json: bool, output_path: str | None) -> None:
    """Print a plan, and write it down.

    Args:
        plan: The plan.
        json: Whether to print JSON.
        output_path: A file for the JSON, or None.
    """
    from json import dumps

    text = dumps(plan, indent=1, ensure_ascii=False)
    if output_path is not None:
        Path(output_path).parent.mkdir(parents=True, exist_ok=True)
        Path(output_path).write_text(text + "\n", encoding="utf-8")
    print(text if json else as_text(plan))
