"""Any causal language model as two halves: hidden states, and the head that turns them into logits."""

import json
import warnings
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pd_lightning.language_model.architectures import check_sizes, make_causal_lm
from pd_lightning.language_model.isolation import isolates_documents, probing
from pd_lightning.language_model.router_loss import router_coefficient, router_loss, warn_of_lost_router_loss
from pd_lightning.targets.heads import Head, LinearHead, is_plain


class LanguageModel(nn.Module):
    """Splits a causal language model, so that a loss can be formed without all logits at once.

    Hugging Face causal models with a base model and an output embedding are split; of any other module the "hidden
    states" are its logits, and the head changes nothing.

    Args:
        model: Maps token ids, int64 `[B, T]`, to logits `[B, T, V]` or to an output that has them as `.logits`. For
            isolated documents it must take `position_ids`, int64 `[B, T]`, and attend only where they go on.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model
        self._split = _is_split(model)

    def hidden(self, input_ids: Tensor, position_ids: Tensor | None = None) -> Tensor:
        """Give the last hidden states.

        Args:
            input_ids: Token ids, int64 `[B, T]`.
            position_ids: Positions, int64 `[B, T]`, counted from 0 in each document: the model then attends within
                documents, see `check_isolation`. By default it attends over the whole row.

        Returns:
            Float `[B, T, D]`.
        """
        return self.hidden_and_router_loss(input_ids, position_ids)[0]

    def hidden_and_router_loss(
        self, input_ids: Tensor, position_ids: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Give the last hidden states, and the load balancing loss of a mixture of experts that is in training.

        Args:
            input_ids: As of `hidden`.
            position_ids: As of `hidden`.

        Returns:
            Float `[B, T, D]`, and a scalar, to be added to the mean loss of the batch after multiplication by
            `router_coefficient`; None in evaluation mode, and where the model as a whole would not add it.
        """
        # transformers makes the mask of isolated documents by itself where positions begin anew, for any attention
        # but flash; it takes them for positions alone if there is a mask or a cache.
        positions = {} if position_ids is None else {"position_ids": position_ids}
        if not self._split:
            return _logits(self.model, input_ids, **positions), None
        outputs = self.model.base_model(input_ids=input_ids, use_cache=False, **positions)
        balance = router_loss(self.model, outputs, input_ids) if self.model.training else None
        return outputs.last_hidden_state, balance

    def compute(
        self,
        function: Callable[[Tensor, Head], dict[str, Any]],
        input_ids: Tensor,
        position_ids: Tensor | None = None,
    ) -> tuple[dict[str, Any], Tensor | None]:
        """Give what a function makes of hidden states and head, within a forward pass of this module.

        Where the weights are spread over devices, those of the head are here in a forward pass alone.

        Args:
            function: Gives tensors by name, from hidden states, float `[B, T, D]`, and the head.
            input_ids: As of `hidden`.
            position_ids: As of `hidden`.

        Returns:
            The function's result, and the load balancing loss of `hidden_and_router_loss`.
        """
        hidden, router_loss = self.hidden_and_router_loss(input_ids, position_ids)
        return function(hidden, self.head), router_loss

    @property
    def router_coefficient(self) -> float:
        """Share of the load balancing loss in the loss; 0 where the architecture has none."""
        return router_coefficient(self.model) or 0.0

    def warn_of_lost_router_loss(self) -> None:
        """Warn where a mixture of experts would be trained without the load balancing loss of its configuration."""
        warn_of_lost_router_loss(self.model, self._split)

    @property
    def body(self) -> nn.Module:
        """The module whose output `hidden` gives: the model without its head, or the whole of one that is not split."""
        body: nn.Module = self.model.base_model if self._split else self.model
        return body

    @property
    def head(self) -> Head:
        """What maps hidden states `[..., D]` to logits `[..., V]`."""
        if not self._split:
            return Head(lambda hidden: hidden)
        parameters = tuple(self.model.get_output_embeddings().parameters())
        return Head(partial(_head, self.model), parameters, self.vocab_size, _linear_head(self.model))

    def forward(self, input_ids: Tensor, position_ids: Tensor | None = None) -> Tensor:
        """Give the logits, float `[B, T, V]`; the arguments are those of `hidden`."""
        return self.head(self.hidden(input_ids, position_ids))

    def check_isolation(self, role: str) -> None:
        """Try on two short documents whether the model keeps to one where positions begin anew.

        Args:
            role: `student` or `teacher`, for the message.

        Raises:
            ValueError: If a document changes with the one before it, or is not as it is alone.
        """
        if not isolates_documents(self.hidden, self.body):
            raise ValueError(
                f"The {role} must keep to one document where the data have document_attention isolated, got "
                f"{type(self.model).__name__}, which does not. Run `pd-lightning tokenize` with --document_attention "
                f"full, or set model.{role} to an architecture that does (llama, qwen3, gemma3_text, …) with "
                "attn_implementation sdpa or eager."
            )

    @property
    def vocab_size(self) -> int | None:
        """Width of the logits, or None where the model does not tell."""
        return _setting(self.model, "vocab_size")

    @property
    def context_length(self) -> int | None:
        """Longest sequence the model takes, or None where it does not tell or has no limit."""
        return _setting(self.model, "max_position_embeddings") or _setting(self.model, "n_positions")

    def config(self) -> dict[str, Any] | None:
        """Give the Hugging Face configuration in plain values, or None where the model has none."""
        config: Any = getattr(self.model, "config", None)
        return json.loads(config.to_json_string(use_diff=False)) if hasattr(config, "to_json_string") else None


def build_causal_lm(settings: Mapping[str, Any]) -> nn.Module:
    """Initialise a Hugging Face causal model in float32 from its configuration.

    Args:
        settings: The configuration: `model_type` (llama, qwen3, …) and that architecture's own fields.

    Raises:
        ValueError: If `model_type` is missing or unknown, or a field looks like a misspelt one.
    """
    from transformers import AutoConfig

    fields = dict(settings)
    model_type = fields.pop("model_type", None)
    if model_type is None:
        raise ValueError(
            "A student's config must name its architecture, got no model_type. "
            "Set model.student.init_args.config.model_type, to llama say."
        )
    try:
        known = AutoConfig.for_model(model_type)
    except ValueError as error:
        raise ValueError(
            f"model_type must be an architecture that transformers knows, got {model_type!r}. "
            "Set model.student.init_args.config.model_type, to llama say."
        ) from error
    _check_fields(model_type, set(fields), known)
    check_sizes(model_type, fields)
    return make_causal_lm(model_type, _configure(model_type, fields))


def _configure(model_type: str, fields: dict[str, Any]) -> Any:
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    try:
        return AutoConfig.for_model(model_type, **fields)
    except (StrictDataclassError, ValueError, TypeError) as error:
        # A heading, then the kind of error and what is wrong.
        reason = str(error).strip().splitlines()[-1].strip().removeprefix("ValueError: ").removeprefix("TypeError: ")
        raise ValueError(
            f"A {model_type} config must have values that go together, got: {reason.rstrip('.')}. Correct "
            "model.student.init_args.config."
        ) from error


def load_causal_lm(name: str, dtype: torch.dtype | str, key: str, **options: Any) -> nn.Module:
    """Load a pretrained Hugging Face causal model.

    Args:
        name: A folder, or a name on the Hugging Face hub.
        dtype: Data type of the weights, or "auto" for the one they are stored in.
        key: YAML key that names the model, for the message.
        **options: Passed on to `from_pretrained`.

    Raises:
        FileNotFoundError: If there is no such folder and the hub does not give such a model either.
    """
    from transformers import AutoModelForCausalLM

    try:
        # Lightning builds models inside a context of the run's device, in which transformers would ask for accelerate.
        with torch.device("cpu"):
            return AutoModelForCausalLM.from_pretrained(name, dtype=dtype, use_safetensors=True, **options)
    except (OSError, ValueError) as error:
        found = "the folder exists" if Path(name).is_dir() else "there is no such folder"
        if "safetensors" in str(error) and any(Path(name).glob("*.bin")):
            found = "its weights are pickled, which could run code: save the model anew with save_pretrained"
        # A name on the hub is one word, or two; what is said of others as names is of no use.
        is_path = name.startswith((".", "/", "~")) or name.count("/") > 1
        reason = "" if is_path and not Path(name).is_dir() else f": {str(error).strip().splitlines()[0]}"
        raise FileNotFoundError(
            f"{key} must be a folder with a causal language model or a name on the Hugging Face hub, got {name!r} "
            f"({found}){reason.rstrip('.')}. Set {key}."
        ) from error


def _is_split(model: Any) -> bool:
    """Whether base model and head together give what the whole model gives, tried on two tokens."""
    embeddings = getattr(model, "get_output_embeddings", lambda: None)()
    if embeddings is None or getattr(model, "base_model", model) is model:
        return False
    parameter = next(model.parameters())
    if parameter.is_meta:
        return True
    with probing(model):
        # Not zeros: an embedding of padding is often id 0 and zero, and its logits then are so whatever scales them.
        probe = torch.arange(2, device=parameter.device)[None]
        hidden = model.base_model(input_ids=probe, use_cache=False).last_hidden_state
        same = torch.equal(_head(model, hidden), _logits(model, probe))
    if not same:
        warnings.warn(
            f"{type(model).__name__} does more between hidden states and logits than its head: its logits are formed "
            "at once, which costs memory.",
            stacklevel=2,
        )
    return same


def _linear_head(model: Any) -> LinearHead | None:
    """Give the head where it is a matrix, maybe scaled and capped; None with hooks, or a layer of another kind."""
    layer = model.get_output_embeddings()
    if not is_plain(layer):
        return None
    factor, divisor = _setting(model, "logit_scale"), _setting(model, "logits_scaling")
    scale = (1.0 if factor is None else factor) / (divisor or 1.0)
    return LinearHead(layer.weight, layer.bias, scale, _setting(model, "final_logit_softcapping"))


def _head(model: Any, hidden: Tensor) -> Tensor:
    """Output embedding, then the scaling and soft-capping of the architectures that have them."""
    logits = model.get_output_embeddings()(hidden)
    if (factor := _setting(model, "logit_scale")) is not None:  # Cohere
        logits = logits * factor
    if (divisor := _setting(model, "logits_scaling")) is not None:  # Granite
        logits = logits / divisor
    if (cap := _setting(model, "final_logit_softcapping")) is not None:  # Gemma
        logits = torch.tanh(logits / cap) * cap
    return logits


def _logits(model: Any, input_ids: Tensor, **positions: Tensor) -> Tensor:
    # A module around such a model may have its config, and not its arguments.
    has_cache = hasattr(model, "get_output_embeddings") and _setting(model, "use_cache") is not None
    options = {"use_cache": False} if has_cache else {}
    output = model(input_ids, **positions, **options)
    return output if isinstance(output, Tensor) else output.logits


def _setting(model: nn.Module, name: str) -> Any:
    config: Any = getattr(model, "config", None)
    if hasattr(config, "get_text_config"):
        config = config.get_text_config()
    return getattr(config, name, None)


def _check_fields(model_type: str, fields: set[str], config: Any) -> None:
    """Refuse misspelt fields, which transformers would keep without a word; it reads some that it does not declare."""
    known = {*config.to_dict(), *config.attribute_map, "vocab_size", "attn_implementation"}
    for name in sorted(fields - known):
        if close := get_close_matches(name, known, n=1, cutoff=0.8):
            raise ValueError(
                f"A {model_type} config must have that architecture's fields, got {name}: did you mean {close[0]}? "
                f"Correct model.student.init_args.config.{name}."
            )
        warnings.warn(f"{name} is no declared field of a {model_type} config; it may have no effect.", stacklevel=3)
