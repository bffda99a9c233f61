"""What is to be planned."""

from __future__ import annotations

from dataclasses import dataclass, field

from pd_lightning.plan.memory import Strategy
from pd_lightning.plan.settings import Assumptions, Described, Stored, check_assumptions, check_stored, require_positive
from pd_lightning.plan.sizes import Size


@dataclass
class Request:
    """What is to be planned.

    Args:
        student: The student.
        teacher: The teacher, or None for plain pre-training.
        about_teacher: What else is known of the teacher: tokens, loss.
        tokens: Tokens that a student is trained on, over all epochs.
        gpus: GPUs of the run.
        gpu: Their name.
        price: Price of a GPU-hour.
        students: Students that learn from the same targets.
        epochs: Passes of a student over the recorded tokens.
        strategy: How models are spread.
        shards: GPUs that share a copy of the student under fsdp2; all by default.
        selection: What would be recorded.
        store: A store, or a pilot of one, whose size is measured.
        live: Whether the run at hand has a live teacher; None where both ways are open.
        assume: What is not known.
        notes: What the caller has to say: assumptions of its own.
    """

    student: Size
    teacher: Size | None
    about_teacher: Described
    tokens: float
    gpus: int
    gpu: str
    price: float | None
    students: int = 1
    epochs: float = 1.0
    strategy: Strategy = "ddp"
    shards: int | None = None
    selection: Stored = field(default_factory=Stored)
    store: str | None = None
    live: bool | None = None
    assume: Assumptions = field(default_factory=Assumptions)
    notes: list[str] = field(default_factory=list)


def check_numbers(request: Request) -> None:
    """Refuse what can't be planned.

    Raises:
        ValueError: Naming the flag.
    """
    for name in ("tokens", "gpus", "students", "epochs", "price"):
        require_positive(getattr(request, name), name)
    check_stored(request.selection)
    check_assumptions(request.assume)
    if request.assume.storage_price and request.price is None:
        raise ValueError(
            "assume.storage_price must come with a price of GPU-hours, got none. Set --price in the same currency."
        )
