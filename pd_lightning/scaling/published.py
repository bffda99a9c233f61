"""Coefficients that were published, and what they predict."""

from __future__ import annotations

import numpy as np

from pd_lightning.scaling.laws import Apple, Array, Generalized, Sizes

# Busbridge et al., Distillation Scaling Laws, arXiv 2502.08606. The exponents have three digits, as printed there.
SUPERVISED = {"E": 1.220, "A": 3355.0, "a": 0.408, "B": 18186.0, "b": 0.431, "g": 0.452}
DISTILLED = {
    **{"c0": 2.549, "c1": 522.6, "d1": 1.315, "f1": 0.090},
    **{"A": 2243.0, "a": 0.321, "B": 24181.0, "b": 0.637, "g": 0.764},
}
# Their students and teachers, "143M to 12.6B parameters, trained on data of a few billion to 512B tokens" of C4.
RANGES = {"params": (143e6, 12.6e9), "tokens": (2e9, 512e9)}
SOURCE = "Busbridge et al., Distillation Scaling Laws, arXiv 2502.08606"


def supervised_loss(params: float | Array, tokens: float | Array) -> Array:
    """Predict the loss of a model trained on text, with Apple's coefficients.

    Args:
        params: Non-embedding parameters; a number or an array.
        tokens: Tokens that it is trained on.

    Returns:
        Validation loss in nats per token: a float for numbers, an array for arrays.

    Source: Busbridge et al., arXiv 2502.08606.
    """
    return _shaped(Generalized().predict(SUPERVISED, Sizes(*_rows(params, tokens))), params, tokens)


def distilled_loss(student_params: float | Array, student_tokens: float | Array, teacher_loss: float | Array) -> Array:
    """Predict the loss of a student that learns from a teacher alone (kd_weight 1), with Apple's coefficients.

    Args:
        student_params: Non-embedding parameters; a number or an array.
        student_tokens: Tokens that it is trained on.
        teacher_loss: Validation loss of its teacher, in nats per token.

    Returns:
        Validation loss in nats per token: a float for numbers, an array for arrays.

    Source: Busbridge et al., arXiv 2502.08606.
    """
    N, D, of_teacher = _rows(student_params, student_tokens, teacher_loss)
    alone = Generalized().predict(SUPERVISED, Sizes(N, D))
    losses = Apple().predict(DISTILLED, Sizes(N, D, of_teacher, alone))
    return _shaped(losses, student_params, student_tokens, teacher_loss)


def teacher_doubts(teacher: float | None, supervised: float | None, floor: float | None = SUPERVISED["E"]) -> list[str]:
    """Say where a law has nothing good to say of a teacher.

    Args:
        teacher: The teacher's loss in nats per token; None where there is none.
        supervised: The student's without a teacher; None where it is not known.
        floor: What no model goes below by the law; None where it is not known.

    Returns:
        Sentences without a full stop.
    """
    if teacher is None:
        return []
    if floor is not None and teacher <= floor:
        return [
            f"the teacher's loss {teacher:.4g} is below {floor:.4g}, which no model reaches by this law: it says "
            "nothing of such a teacher"
        ]
    if supervised is not None and teacher >= supervised:
        return [f"the teacher's loss {teacher:.4f} is no better than the student's without it, {supervised:.4f}"]
    return []


def distillation_flops(
    student_params: float,
    student_tokens: float,
    teacher_params: float,
    teacher_tokens: float,
    count_logits: float = 1.0,
    count_pretraining: float = 0.0,
) -> float:
    """Count the operations of distilling a student, with 2 N for a token that passes through N parameters.

    Args:
        student_params: Non-embedding parameters of the student.
        student_tokens: Tokens that it is trained on.
        teacher_params: Non-embedding parameters of the teacher.
        teacher_tokens: Tokens that the teacher was trained on.
        count_logits: Share of the teacher's forward passes over the student's tokens that counts (δ of the paper).
        count_pretraining: Share of the teacher's own training that counts.

    Returns:
        3 F(N_S) D_S + F(N_T) (count_logits D_S + count_pretraining 3 D_T), with F(N) = 2 N. Attention is left out.

    Source: Busbridge et al., arXiv 2502.08606; their F(N) has terms for attention beside 2 N.
    """
    of_student = 3 * 2 * student_params * student_tokens
    return of_student + 2 * teacher_params * (count_logits * student_tokens + count_pretraining * 3 * teacher_tokens)


def _rows(*values: float | Array) -> list[Array]:
    return [np.atleast_1d(array) for array in np.broadcast_arrays(*(np.asarray(v, dtype=float) for v in values))]


def _shaped(losses: Array, *inputs: float | Array) -> Array:
    """A float where every input was a number."""
    return float(losses[0]) if all(np.ndim(value) == 0 for value in inputs) else losses
