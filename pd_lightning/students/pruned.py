"""A student that starts as a part of a larger model: fewer layers, narrower ones, or both."""

import gc
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn

from pd_lightning.language_model import LanguageModel
from pd_lightning.students.depth import Keep, choose_layers, without_layers
from pd_lightning.students.hugging_face import HFStudent
from pd_lightning.students.width import Importance, Widths, narrowed, widths_of

_KEY = "model.student.init_args"


class PrunedStudent(HFStudent):
    """Describes a student that is cut out of a larger Hugging Face causal model, its teacher say.

    Layers can be left out of any architecture; channels, heads and inner units of those laid out like Llama (llama,
    mistral, qwen2, qwen3, gemma2, gemma3_text, …). What comes out is an ordinary model of that architecture.

    A run that goes on builds the student anew before it reads the checkpoint: keep the larger model until then, or go
    on with an HFStudent whose `config` is the `student_config` of the checkpoint.

    Args:
        model: Folder or hub name of the model to cut from.
        layers: How many layers to keep, or their numbers from 0 on; by default all.
        keep: Which layers stay where `layers` is a number: `even` for evenly spaced ones, the first and the last among
            them; `ends` for the first and the last ones, so that the middle is dropped; `first` for the first ones.
        hidden_size: Hidden channels to keep.
        intermediate_size: Inner units of each feed-forward part to keep.
        num_attention_heads: Query heads to keep; those of a key and value head stay together.
        num_key_value_heads: Key and value heads to keep; by default as many as leave each with the query heads that it
            has, where that can be.
        importance: Which channels, heads and units stay: `norm` for those with the largest weights, `first` for the
            first ones.
        revision: Branch, tag or commit of a model from the hub.
        attn_implementation: As of HFStudent.
        trust_remote_code: Run model code that comes with the model. Only for models you trust.
        compile: As of HFStudent.
        activation_checkpointing: As of HFStudent.
        gguf_file: As of HFStudent.

    Raises:
        ValueError: If nothing is cut.

    Source: layers, widths and their importance are chosen as in Muralidharan et al. (arXiv 2407.14679) and Sreenivas et
    al. (arXiv 2408.11796), but by the norms of weights in place of those of activations.
    """

    def __init__(
        self,
        model: str,
        layers: int | list[int] | None = None,
        keep: Keep = "even",
        hidden_size: int | None = None,
        intermediate_size: int | None = None,
        num_attention_heads: int | None = None,
        num_key_value_heads: int | None = None,
        importance: Importance = "norm",
        revision: str = "main",
        attn_implementation: str | None = None,
        trust_remote_code: bool = False,
        compile: bool = False,
        activation_checkpointing: bool = False,
        gguf_file: str | None = None,
    ) -> None:
        super().__init__(
            model=model,
            revision=revision,
            attn_implementation=attn_implementation,
            trust_remote_code=trust_remote_code,
            compile=compile,
            activation_checkpointing=activation_checkpointing,
            gguf_file=gguf_file,
        )
        self.layers = layers
        self.keep: Keep = keep
        self.importance: Importance = importance
        self.widths = {
            "hidden_size": hidden_size,
            "intermediate_size": intermediate_size,
            "num_attention_heads": num_attention_heads,
            "num_key_value_heads": num_key_value_heads,
        }
        if layers is None and not self._narrows:
            raise ValueError(
                f"A pruned student must leave something out, got no size. Set {_KEY}.layers or {_KEY}.hidden_size, "
                "say, or class_path to pd_lightning.students.HFStudent for the whole model."
            )

    def _initial(self, defaults: dict[str, Any]) -> nn.Module:
        source = self._pretrained("auto")
        with torch.device("cpu"), torch.no_grad():
            pruned = self.cut(source)
        del source
        gc.collect()  # a teacher's worth of memory, which hooks may hold in a circle
        return pruned.train()

    def outline(self, defaults: dict[str, Any]) -> LanguageModel:
        """Make the model, weights and all: which of them stay is chosen by their size."""
        return self.build(defaults)

    def cut(self, source: Any) -> nn.Module:
        """Make the smaller model out of the larger one, in float32.

        Args:
            source: A Hugging Face causal model.

        Raises:
            ValueError: If it does not have so much, or is laid out otherwise.
        """
        if source.config.get_text_config() is not source.config:
            raise ValueError(
                f"A pruned student must come from a model of text alone, got {type(source).__name__}. Set {_KEY}.model."
            )
        available = source.config.num_hidden_layers
        kept = choose_layers(available if self.layers is None else self.layers, available, self.keep)
        config, weights = without_layers(source, kept)
        if self._narrows:
            before = widths_of(config)
            after = self._asked(before)
            weights = narrowed(weights, before, after, self.importance, config.model_type)
            config.hidden_size, config.intermediate_size = after.hidden, after.inner
            config.num_attention_heads, config.num_key_value_heads = after.heads, after.groups
            config.head_dim = after.head_dim  # by default it would follow from the other sizes
            _check(config)
        pruned: nn.Module = type(source)._from_config(config, dtype=torch.float32)
        pruned.load_state_dict(weights)
        return pruned

    @property
    def _narrows(self) -> bool:
        return any(size is not None for size in self.widths.values())

    def _asked(self, before: Widths) -> Widths:
        """Fill in the sizes that are not set.

        Raises:
            ValueError: If they are larger than before, or heads don't make whole groups.
        """
        old_sizes = dict(zip(self.widths, _sizes(before), strict=True))
        sizes = {name: old_sizes[name] if size is None else size for name, size in self.widths.items()}
        heads, each = sizes["num_attention_heads"], before.heads // before.groups
        if self.widths["num_key_value_heads"] is None and heads % each == 0:
            sizes["num_key_value_heads"] = heads // each
        for name, size in sizes.items():
            if not 1 <= size <= old_sizes[name]:
                raise ValueError(
                    f"{name} must be from 1 to the model's {old_sizes[name]}, got {size}. Correct {_KEY}.{name}."
                )
        groups = sizes["num_key_value_heads"]
        if heads % groups or heads // groups > each:
            raise ValueError(
                f"num_attention_heads must be up to {each} for each of {groups} key and value heads, got {heads}. "
                f"Correct {_KEY}.num_attention_heads or {_KEY}.num_key_value_heads."
            )
        return Widths(sizes["hidden_size"], sizes["intermediate_size"], heads, groups, before.head_dim)


def _check(config: Any) -> None:
    """Refuse sizes that the architecture does not take together: the export could not be loaded."""
    try:
        type(config)(**config.to_dict())
    except (StrictDataclassError, ValueError) as error:
        reason = str(error).strip().splitlines()[-1].strip().removeprefix("ValueError: ").rstrip(".")
        raise ValueError(
            f"Sizes of a {config.model_type} must go together, got: {reason}. Correct {_KEY}.hidden_size, "
            "or the others."
        ) from error


def _sizes(widths: Widths) -> tuple[int, int, int, int]:
    return widths.hidden, widths.inner, widths.heads, widths.groups
