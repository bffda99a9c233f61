"""Whether to record the teacher or to run it live: after how many passes of students over the data recording pays."""

from __future__ import annotations

import math
from typing import Any


def break_even(teacher_hours: float, passes: float, price: float | None, storage_cost: float) -> dict[str, Any]:
    """Compare one recording with a live teacher in each pass.

    Args:
        teacher_hours: GPU-hours of the teacher's forward pass over the tokens, once.
        passes: Planned passes over the recorded tokens: students times epochs.
        price: Price of a GPU-hour; None leaves out what storage costs.
        storage_cost: Price of keeping the store.

    Returns:
        `passes_to_pay`, the fewest passes with which recording costs less than a live teacher; GPU-hours of the teacher
        either way for the passes planned, with storage turned into GPU-hours by the price; and the cheaper way.
    """
    storage_hours = storage_cost / price if price else 0.0
    offline, online = teacher_hours + storage_hours, passes * teacher_hours
    to_pay = math.floor(offline / teacher_hours) + 1 if teacher_hours else 1
    return {
        "passes_to_pay": to_pay,
        "planned_passes": passes,
        "offline_gpu_hours": offline,
        "online_gpu_hours": online,
        "storage_cost": storage_cost,
        "cheaper": "offline" if offline < online else "online" if online < offline else "equal",
    }
