"""What a position of a model sees, tried on short rows: one document, and nothing that comes later."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def probing(model: Any) -> Iterator[None]:
    """Put a model into evaluation mode to try something on a few tokens.

    Args:
        model: The model. Where it lies in the host's memory, flash attention, which has no kernel there, is left to
            sdpa: strategies that shard make models there.
    """
    training, device = model.training, next(model.parameters()).device
    config: Any = getattr(model, "config", None)
    attention = getattr(config, "_attn_implementation", None)
    on_gpu_alone = device.type == "cpu" and "flash" in str(attention)
    model.eval()
    try:
        if on_gpu_alone:
            config._attn_implementation = "sdpa"
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):  # not worth compiling for
            yield
    finally:
        if on_gpu_alone:
            config._attn_implementation = attention
        model.train(training)


def isolates_documents(hidden: Callable[..., Tensor], body: nn.Module) -> bool:
    """Try whether a document stays as it is when the one before it changes, and is what it is alone.

    Args:
        hidden: Maps token ids, int64 `[B, T]`, and maybe positions that begin anew in each document, int64 `[B, T]`,
            to float `[B, T, D]`.
        body: The module that `hidden` calls.

    Returns:
        Whether it does; on the meta device, where nothing can be tried, whether it takes positions.
    """
    device = next(body.parameters()).device
    if not _takes_positions(body):
        return False
    if device.type == "meta":
        return True
    starts = (3, 5)  # of the second document in two rows: flash attention isolates in batches of one row alone
    index, start = torch.arange(8, device=device), torch.tensor(starts, device=device)[:, None]
    input_ids = (index % 2).repeat(2, 1)
    changed = torch.where(index < start, 1 - input_ids, input_ids)
    position_ids = torch.where(index < start, index, index - start)
    with probing(body):
        before, after = hidden(input_ids, position_ids), hidden(changed, position_ids)
        alone = [hidden(input_ids[row : row + 1, first:])[0] for row, first in enumerate(starts)]
    # What is masked counts for exactly nothing, but rows of another length are summed in another order: in bfloat16
    # that is a few percent after some layers.
    return all(
        _close(before[row, first:], after[row, first:], 1 / 2) and _close(before[row, first:], alone[row], 1 / 4)
        for row, first in enumerate(starts)
    )


def logits_width(logits: Callable[[Tensor], Tensor], module: nn.Module) -> int | None:
    """Try how many logits a model gives, where its configuration does not tell.

    Args:
        logits: Gives logits, float `[B, T, V]`, of token ids, int64 `[B, T]`.
        module: The model, for its mode and device.

    Returns:
        V; None on the meta device, and of a model that two tokens are not enough for.
    """
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    if device.type == "meta":
        return None
    try:
        with probing(module):
            return logits(torch.arange(2, device=device)[None]).shape[-1]
    except Exception:  # whatever it is that somebody's model wants
        return None


def is_causal(model: Any) -> bool:
    """Try whether a Hugging Face model's logits stay as they are when a later token changes.

    Args:
        model: Maps `input_ids`, int64 `[B, T]`, to an output with `logits`, float `[B, T, V]`.

    Returns:
        Whether they do; True on the meta device, where nothing can be tried.
    """
    device = next(model.parameters()).device
    if device.type == "meta":
        return True
    with probing(model):
        # Some architectures can't begin a cache.
        options = {} if getattr(model.config, "use_cache", None) is None else {"use_cache": False}
        rows = [torch.tensor([[0, last]], device=device) for last in (0, 1)]
        before, after = (model(input_ids=row, **options).logits[:, 0] for row in rows)
    return _close(before, after, 1 / 2)


def _takes_positions(model: nn.Module) -> bool:
    parameters = inspect.signature(model.forward).parameters.values()
    return any(parameter.name == "position_ids" or parameter.kind == parameter.VAR_KEYWORD for parameter in parameters)


def _close(one: Tensor, other: Tensor, share: float) -> bool:
    """Whether two results agree in that share of their data type's digits."""
    return bool((one - other).abs().max() <= torch.finfo(one.dtype).eps ** share * one.abs().max())
