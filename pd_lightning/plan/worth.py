"""Whether distilling beats plain training at equal compute, and which student a budget is best spent on."""

from __future__ import annotations

from typing import Any

import numpy as np

from pd_lightning.plan.sizes import Size
from pd_lightning.scaling.published import RANGES, SOURCE, distilled_loss, supervised_loss

TOKENS_PER_PARAM = 20.0  # of a teacher of which nothing else is known
PARAMS_RANGE, TOKENS_RANGE = RANGES["params"], RANGES["tokens"]
# What of the teacher is paid for: its forward pass over the tokens, its training.
SCENARIOS = {
    "logits are there": (0.0, 0.0),
    "teacher is there": (1.0, 0.0),
    "logits are there, teacher trained for this": (0.0, 1.0),
    "teacher trained for this": (1.0, 1.0),
}


def compare(
    student: Size, teacher: Size, tokens: float, teacher_tokens: float, teacher_loss: float, deltas: tuple[float, float]
) -> dict[str, Any]:
    """Set a distilled student beside the same one trained on text for as much compute.

    Args:
        student: The student.
        teacher: The teacher.
        tokens: Tokens that the student is distilled on.
        teacher_tokens: Tokens that the teacher was trained on.
        teacher_loss: Its loss, nats a token.
        deltas: What of the teacher's forward pass, and of its training, this student pays for.

    Returns:
        The losses, and the same for each of `SCENARIOS`.

    Source: Busbridge et al., arXiv 2502.08606: their criterion, with the FLOPs of these models.
    """
    distilled = distilled_loss(student.params_non_embedding, tokens, teacher_loss)

    def at(delta_logits: float, delta_pretrain: float) -> dict[str, Any]:
        added = teacher.forward_flops * (delta_logits * tokens + delta_pretrain * 3 * teacher_tokens)
        plain_tokens = tokens + added / (3 * student.forward_flops)
        plain = supervised_loss(student.params_non_embedding, plain_tokens)
        return {
            "delta_logits": delta_logits,
            "delta_pretrain": delta_pretrain,
            "plain_tokens": plain_tokens,
            "plain_loss": plain,
            "gain": plain - distilled,
            "distilling_wins": bool(distilled < plain),
        }

    return {
        "teacher_loss": teacher_loss,
        "distilled_loss": distilled,
        "plain_loss_at_equal_tokens": supervised_loss(student.params_non_embedding, tokens),
        "chosen": at(*deltas),
        "scenarios": {name: at(*shares) for name, shares in SCENARIOS.items()},
    }


def optimum(
    budget: float, per_param: float, teacher: tuple[float, float, float] | None = None
) -> dict[str, Any] | None:
    """Find the student and tokens with the smallest loss for a budget.

    Args:
        budget: Floating-point operations, all together.
        per_param: Operations of a forward pass for each non-embedding parameter of a student.
        teacher: Its loss, its operations that count for each token of the student, and those that count at once; None
            for plain training.

    Returns:
        `params` (non-embedding), `tokens` and `loss`, of students no smaller or larger than those that the law was
        fitted to, and whether it is the smallest or largest of them; None where the teacher alone takes the budget.

    Source: Busbridge et al., arXiv 2502.08606.
    """
    loss, forward, paid = teacher or (0.0, 0.0, 0.0)
    if budget <= paid:
        return None
    # Beyond its data the law of distillation likes students of a trillion parameters that see next to nothing.
    params = np.geomspace(*PARAMS_RANGE, 4001)
    tokens = (budget - paid) / (3 * per_param * params + forward)
    losses = supervised_loss(params, tokens) if teacher is None else distilled_loss(params, tokens, loss)
    best = int(np.argmin(losses))
    found: dict[str, Any] = {"params": params[best], "tokens": tokens[best], "loss": losses[best]}
    return {**{name: float(value) for name, value in found.items()}, "at_edge": best in (0, len(params) - 1)}


def outside(name: str, params: float, tokens: float) -> str | None:
    """Say where a model is outside the data that the law was fitted to; None inside.

    Args:
        name: `student` or `teacher`.
        params: Non-embedding parameters.
        tokens: Tokens.
    """
    low, high = PARAMS_RANGE
    beyond = [f"{params:.3g} parameters"] if not low <= params <= high else []
    few, many = TOKENS_RANGE
    beyond += [f"{tokens:.3g} tokens"] if not few <= tokens <= many else []
    if not beyond:
        return None
    return (
        f"the {name} has {' and '.join(beyond)}, outside the law's data ({low / 1e6:.0f}M to {high / 1e9:.1f}B "
        f"parameters, {few / 1e9:.0f}B to {many / 1e9:.0f}B tokens): its losses are extrapolated"
    )


__all__ = ["SOURCE", "compare", "optimum", "outside"]
