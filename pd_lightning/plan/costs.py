"""Work, hours and money of a run: taught from a store, by a live teacher, or by none."""

from __future__ import annotations

from dataclasses import dataclass

from pd_lightning.plan.hardware import GPU
from pd_lightning.plan.settings import Assumptions
from pd_lightning.plan.sizes import Size

HOUR = 3600.0


@dataclass(frozen=True)
class Costs:
    """GPU-hours of the parts of a run.

    Args:
        student_flops: Operations of the student's training, forward and backward.
        teacher_flops: Operations of the teacher's forward pass over the tokens, once.
        teacher_training_flops: Operations of the teacher's own training.
        student_hours: GPU-hours of the student's training.
        teacher_hours: GPU-hours of the teacher's forward pass.
        teacher_training_hours: GPU-hours of the teacher's training.
    """

    student_flops: float
    teacher_flops: float
    teacher_training_flops: float
    student_hours: float
    teacher_hours: float
    teacher_training_hours: float


def costs_of(
    student: Size,
    teacher: Size | None,
    tokens: float,
    recorded_tokens: float,
    teacher_tokens: float,
    gpu: GPU,
    assume: Assumptions,
) -> Costs:
    """Count what a run costs.

    Args:
        student: The student; its backward pass is two forward passes.
        teacher: The teacher, or None.
        tokens: Tokens that the student is trained on, over all epochs.
        recorded_tokens: Different tokens among them, which are recorded once.
        teacher_tokens: Tokens that the teacher was trained on.
        gpu: What computes.
        assume: How much of its peak is reached.
    """
    forward = 0.0 if teacher is None else teacher.forward_flops
    of_student, of_teacher = 3 * student.forward_flops * tokens, forward * recorded_tokens
    of_training = 3 * forward * teacher_tokens
    peak = gpu.tflops * 1e12 * HOUR
    return Costs(
        student_flops=of_student,
        teacher_flops=of_teacher,
        teacher_training_flops=of_training,
        student_hours=of_student / (peak * assume.mfu),
        teacher_hours=of_teacher / (peak * assume.teacher_mfu),
        teacher_training_hours=of_training / (peak * assume.mfu),
    )
