"""What `pd-lightning plan` is told, and what it has to assume."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Precision = Literal["bf16-mixed", "bf16-true", "32-true"]
LARGEST = 1e30
StoredValues = Literal["exact", "half", "compact"]


@dataclass
class Described:
    """A model by numbers or by its configuration; its name alone, where one is enough, is a folder, a file or a number.

    Args:
        params: Parameters, all of them.
        params_non_embedding: Those that are no embedding of input or output; `params` where it is not given.
        config: Configuration with `model_type` and fields of that architecture, as of HFStudent, which counts exactly.
        model: Folder of a Hugging Face model, its config.json, a YAML file with such a configuration, a name on the
            hub, or a number of parameters (1.9e9, 1.9B). Weights are not read.
        tokens: Tokens that it was trained on, of a teacher; 20 for each parameter where neither they nor `loss` are
            given.
        loss: Its validation loss in nats a token, of a teacher; by the law where it is not given.
    """

    params: float | None = None
    params_non_embedding: float | None = None
    config: dict[str, Any] | None = None
    model: str | None = None
    tokens: float | None = None
    loss: float | None = None


@dataclass
class Stored:
    """What `pd-lightning record` would keep of each position.

    Args:
        p: Probability up to which ids are kept.
        k: Most ids that are kept.
        samples: Ids drawn at random instead.
        values: How log-probabilities are stored; draws are counted.
        kept_ids: Ids kept at a position on average. By default what a 270M-parameter model kept, see docs/plan.md: a
            larger one is surer, and keeps fewer.
        bytes_per_token: Size of the store for each token, all things together. By default from the number of kept ids,
            as measured, see docs/plan.md.
    """

    p: float = 0.95
    k: int = 100
    samples: int | None = None
    values: StoredValues = "half"
    kept_ids: float | None = None
    bytes_per_token: float | None = None


@dataclass
class Assumptions:
    """What nobody knows before the run: each is printed with the plan.

    Args:
        mfu: Share of a GPU's peak that training reaches.
        teacher_mfu: The same of the teacher's forward pass.
        peak_tflops: Peak of a GPU in dense bfloat16, in 1e12 operations a second; by default that of `gpu`.
        gpu_memory_gb: Memory of a GPU, in GB; by default that of `gpu`.
        vocab_size: Ids of the vocabulary, where no configuration says.
        block_size: Positions of a block.
        micro_batch: Blocks that a GPU sees at a time.
        precision: That of the Trainer.
        activation_checkpointing: Whether activations are computed again in the backward pass.
        optimizer_bytes: Bytes of optimizer states for each parameter, of float32 weights: 8 with Adam.
        teacher_bytes: Bytes of a live teacher's weights for each parameter.
        delta_logits: Share of the teacher's forward pass over the tokens that this student pays for. By default 1 by
            students and epochs, which share a store.
        delta_pretrain: Share of the teacher's training that this student pays for: 0 where the teacher is there.
        storage_price: Price of a TB of storage for a month, in the currency of `price`.
        storage_months: How long the store is kept.
    """

    mfu: float = 0.4
    teacher_mfu: float = 0.5
    peak_tflops: float | None = None
    gpu_memory_gb: float | None = None
    vocab_size: int = 128_256
    block_size: int = 4096
    micro_batch: int = 1
    precision: Precision = "bf16-mixed"
    activation_checkpointing: bool = False
    optimizer_bytes: float = 8.0
    teacher_bytes: float = 2.0
    delta_logits: float | None = None
    delta_pretrain: float = 0.0
    storage_price: float = 0.0
    storage_months: float = 1.0


def check_described(model: Described, who: str) -> None:
    """Refuse numbers that no model has.

    Args:
        model: The description.
        who: `student` or `teacher`, for messages.

    Raises:
        ValueError: Naming the flag.
    """
    for name in ("params", "params_non_embedding", "tokens", "loss"):
        require_positive(getattr(model, name), f"{who}.{name}")
    if model.params and model.params_non_embedding and model.params_non_embedding > model.params:
        raise ValueError(
            f"{who}.params_non_embedding must be at most {who}.params, got {model.params_non_embedding:g} of "
            f"{model.params:g}. Correct --{who}.params_non_embedding."
        )


def check_stored(stored: Stored) -> None:
    """Refuse a selection that keeps nothing.

    Raises:
        ValueError: Naming the flag.
    """
    for name in ("k", "samples", "kept_ids", "bytes_per_token"):
        require_positive(getattr(stored, name), f"selection.{name}")
    if not 0 < stored.p <= 1:
        raise ValueError(f"selection.p must be above 0 and at most 1, got {stored.p}. Set --selection.p to 0.95, say.")


def check_assumptions(assume: Assumptions) -> None:
    """Refuse what can't be assumed.

    Raises:
        ValueError: Naming the flag.
    """
    positive = ("peak_tflops", "gpu_memory_gb", "vocab_size", "block_size", "micro_batch", "teacher_bytes")
    for name in positive:
        require_positive(getattr(assume, name), f"assume.{name}")
    for name in ("mfu", "teacher_mfu"):
        if not 0 < getattr(assume, name) <= 1:
            raise ValueError(
                f"assume.{name} must be above 0 and at most 1, got {getattr(assume, name)}. Set --assume.{name} to the "
                "share of the peak that is reached, 0.4 say."
            )
    for name in ("delta_logits", "delta_pretrain", "storage_price", "storage_months", "optimizer_bytes"):
        value = getattr(assume, name)
        if value is not None and value < 0:
            raise ValueError(f"assume.{name} must be at least 0, got {value:g}. Raise --assume.{name}.")


def require_positive(value: float | None, flag: str) -> None:
    """Refuse a number that is 0 or less, or so large that products of two are not finite; None is no number.

    Raises:
        ValueError: Naming the flag.
    """
    if value is not None and not value > 0:
        raise ValueError(f"{flag} must be above 0, got {value:g}. Set --{flag} above 0, or leave it out.")
    if value is not None and value > LARGEST:
        raise ValueError(f"{flag} must be at most {LARGEST:g}, got {value:g}. Lower --{flag}.")
