"""A frozen model in fewer bits, where torchao is there: its linear layers, all but the head."""

from importlib.util import find_spec
from typing import Any, Literal

from torch import nn

Quantization = Literal["int8", "int4"]
_KEY = "model.teacher.init_args.quantization"
_GROUP_SIZE = 32


def check_torchao(quantization: Quantization | None) -> None:
    """Refuse a quantization where the package for it is missing.

    Raises:
        ValueError: It is.
    """
    if quantization is not None and find_spec("torchao") is None:
        raise ValueError(
            f"quantization must have the package torchao, got {quantization} without it. Install it with: pip install "
            f"'pd-lightning[quantization]', or leave out {_KEY}."
        )


def quantize(model: Any, quantization: Quantization, sharded: bool) -> None:
    """Keep the weights of linear layers in fewer bits, in place; what is computed keeps its data type.

    Args:
        model: The model. Its head stays as it is: the objective multiplies by it in buffers of its own.
        quantization: `int8`, with a scale for each row, or `int4`, with one for each 32 weights of a row.

        sharded: Whether the strategy spreads its weights over devices.

    Raises:
        ValueError: If they are spread, or this torchao can't on this machine.
    """
    if sharded:
        raise ValueError(
            f"A quantized teacher must be whole on its device, got quantization {quantization} with a strategy that "
            f"shards models. Set model.teacher.init_args.device, or leave out {_KEY}."
        )
    from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig, quantize_

    config = Int8WeightOnlyConfig() if quantization == "int8" else Int4WeightOnlyConfig(group_size=_GROUP_SIZE)
    head = getattr(model, "get_output_embeddings", lambda: None)()

    def is_quantized(module: nn.Module, name: str) -> bool:
        return isinstance(module, nn.Linear) and module is not head

    try:
        quantize_(model, config, filter_fn=is_quantized)
    except (ImportError, NotImplementedError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise ValueError(
            f"quantization must be one that torchao has for this machine, got {quantization}: {reason}. Set {_KEY} to "
            "int8, or leave it out."
        ) from error
