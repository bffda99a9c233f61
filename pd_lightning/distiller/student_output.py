"""What a student of any project gives for a batch."""

from torch import Tensor, nn

from pd_lightning.targets.heads import Head, LinearHead, is_plain


def aligned(inputs: dict[str, Tensor], output: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Cut a batch and a student's output to the positions that both have.

    A student may leave out the last position, which has no label; and where a stored block is given to it with the
    label of its last position, it has one position more.

    Args:
        inputs: The batch, with `input_ids`, `[B, T]`.
        output: Logits or hidden states, float `[B, T', ...]` or `[B · T', ...]`.

    Returns:
        Both, of as many positions.

    Raises:
        ValueError: If they differ by more than that.
    """
    B, T = inputs["input_ids"].shape
    if output.dim() == 2 and len(output) in (B * T, B * (T - 1)):
        output = output.view(B, -1, output.shape[-1])
    shape = tuple(output.shape)
    if len(shape) != 3 or shape[0] != B or abs(shape[1] - T) > 1:
        raise ValueError(
            f"Logits must be those of the batch's positions, of shape [{B}, {T}, V], got {list(shape)}. Give the "
            "Distiller, or Distill's logits_from, logits of whole batches; set batch_map where token ids are others."
        )
    if shape[1] < T:
        inputs = {name: _cut(value, T, T - 1) for name, value in inputs.items()}
    return inputs, output[:, :T]


def _cut(value: Tensor, T: int, to: int) -> Tensor:
    """Cut `[B, T, …]`, and `[B, T+1]` of blocks with their last label, to fewer positions."""
    if value.dim() < 2 or value.shape[1] not in (T, T + 1):
        return value
    return value[:, : value.shape[1] - T + to]


def rows_and_head(logits: Tensor | None, hidden: Tensor | None, head: nn.Linear | Head | None) -> tuple[Tensor, Head]:
    """Give hidden states and a head, as an objective takes them; of logits, themselves and a head without effect.

    Args:
        logits: Float `[B, T, V]`.
        hidden: In their place last hidden states, float `[B, T, D]`.
        head: Maps hidden states to logits.

    Raises:
        ValueError: If neither is given, or both.
    """
    if (logits is None) == (hidden is None) or (hidden is None) != (head is None):
        raise ValueError("A Distiller must be given either logits, or hidden and head, got others. Give one of them.")
    if logits is not None:
        return logits, Head(lambda rows: rows, vocab_size=logits.shape[-1])
    assert hidden is not None
    assert head is not None
    if isinstance(head, Head):
        return hidden, head
    linear = LinearHead(head.weight, head.bias) if is_plain(head) else None
    return hidden, Head(head, tuple(head.parameters()), getattr(head, "out_features", None), linear)
