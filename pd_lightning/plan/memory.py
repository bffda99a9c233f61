"""Memory of a GPU in training, by formula."""

from __future__ import annotations

from typing import Literal

from pd_lightning.plan.settings import Assumptions
from pd_lightning.plan.sizes import Size

Strategy = Literal["ddp", "fsdp2"]
CHUNK_BYTES = 256 * 2**20  # of a chunk's float32 logits on a GPU, see pd_lightning.objective.chunking
FEWEST_ROWS = 128
_DTYPES = {"bf16-mixed": (4, 2), "bf16-true": (2, 2), "32-true": (4, 4)}  # bytes of weights, and of products


def memory_of(
    student: Size, teacher: Size | None, strategy: Strategy, gpus: int, assume: Assumptions, shards: int | None = None
) -> dict[str, float]:
    """Estimate what a GPU holds, part by part.

    Args:
        student: The student.
        teacher: The teacher, where it is live.
        strategy: Whether each GPU holds all, or its share and what it gathers: the head, and two layers at a time.
        gpus: GPUs of the run.
        assume: Precision, micro-batch, optimizer.
        shards: GPUs that share a copy under fsdp2; all by default.

    Returns:
        Bytes by name.
    """
    share = (shards or gpus) if strategy == "fsdp2" else 1
    weight, product = _DTYPES[assume.precision]
    n, tables = student.params, student.params - student.params_non_embedding
    optimizer = assume.optimizer_bytes * weight / 4
    found = {
        "weights": weight * n / share,
        "gradients": weight * n / share,
        "optimizer": optimizer * n / share,
        "weights at work": _at_work(student, tables, share, weight, product),
        "activations": activations(student, assume),
        "chunk of logits": chunk_of_logits(student.vocab_size) * (1 if teacher is None else 3)
        + 4.0 * student.head_params,  # the head's gradient adds up in float32
    }
    if teacher is not None:
        size = assume.teacher_bytes
        gathered = 0.0 if share == 1 else size * (2 * teacher.layer_params + teacher.head_params)
        found["teacher"] = size * teacher.params / share + gathered
    return found


def activations(student: Size, assume: Assumptions) -> float:
    """Estimate the bytes that a micro-batch leaves for the backward pass, with flash attention.

    For each layer and token: queries, keys, values, attention, and what goes into the matrices, in the type of
    products; residuals and norms in float32. Computed again, a layer leaves its input, and one layer is at work.
    """
    product = _DTYPES[assume.precision][1]
    wide = 2 if assume.precision == "bf16-true" else 4
    inner = product * (6 * student.hidden + 2 * student.kv + 3 * student.ffn) + 4 * wide * student.hidden
    kept = student.layers * inner
    if assume.activation_checkpointing:
        kept = student.layers * wide * student.hidden + inner
    return float(assume.micro_batch * assume.block_size * kept)


def chunk_of_logits(vocab_size: int) -> float:
    """Bytes of the float32 logits of a chunk."""
    row = 4 * max(1, vocab_size)
    return float(max(FEWEST_ROWS, CHUNK_BYTES // row) * row)


def _at_work(student: Size, tables: float, share: int, weight: int, product: int) -> float:
    """Copies of weights that products read: all of them under autocast, or what is gathered at a time."""
    if share > 1:
        return product * (2 * student.layer_params + tables)
    return 0.0 if weight == product else product * student.params
