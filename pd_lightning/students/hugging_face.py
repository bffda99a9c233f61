"""A Hugging Face causal model as a student, from a configuration or from pretrained weights."""

from pathlib import Path
from typing import Any

from torch import nn

from pd_lightning.language_model import LanguageModel, build_causal_lm
from pd_lightning.language_model.layers import hf_layers
from pd_lightning.language_model.pretrained import load_pretrained, outline_pretrained
from pd_lightning.students.base import Student
from pd_lightning.tokenizers import check_same_tokenizer


class HFStudent(Student):
    """Describes a Hugging Face causal model to be trained.

    Any other `nn.Module` that maps token ids `[B, T]` to logits `[B, T, V]` can be a student as it is, by class_path.

    Args:
        config: Configuration of a model to initialise: `model_type` (llama, qwen3, gemma3_text, …) and fields of that
            architecture. `vocab_size` and the ids of special tokens come from the data unless given.
            `output_router_logits: true` adds the load balancing loss of a mixture of experts, as in transformers:
            `router_aux_loss_coef` · `train/router_aux_loss`.
        model: Folder or hub name of a pretrained model to start from instead.
        revision: Branch, tag or commit of the pretrained model.
        attn_implementation: Attention that transformers shall use: sdpa, eager, flash_attention_2, …
        trust_remote_code: Run model code that comes with the pretrained model. Only for models you trust.
        compile: Compile the layers by torch.compile, one graph for all layers and all shapes, in place: checkpoints and
            exports are the same. The first batch of training and of validation then take a while.
        activation_checkpointing: Keep no activations within layers but compute them again in the backward pass: less
            memory, for about a third more time.
        gguf_file: Name of a GGUF file in the folder `model`, to start from its weights, made dense.

    Raises:
        ValueError: If not exactly one of `config` and `model` is given.
    """

    def __init__(
        self,
        config: dict[str, Any] | None = None,
        model: str | None = None,
        revision: str = "main",
        attn_implementation: str | None = None,
        trust_remote_code: bool = False,
        compile: bool = False,
        activation_checkpointing: bool = False,
        gguf_file: str | None = None,
    ) -> None:
        if (config is None) == (model is None):
            raise ValueError(
                "A student must have either a config or a model, got "
                f"{'neither' if config is None else 'both'}. Set one of model.student.init_args.config and "
                "model.student.init_args.model."
            )
        if gguf_file is not None and model is None:
            raise ValueError(
                f"gguf_file must name a file of a pretrained model, got {gguf_file!r} without a model. Set "
                "model.student.init_args.model to the folder that it is in."
            )
        self.config = config
        self.model = model
        self.revision = revision
        self.attn_implementation = attn_implementation
        self.trust_remote_code = trust_remote_code
        self.compile = compile
        self.activation_checkpointing = activation_checkpointing
        self.gguf_file = gguf_file

    def check(self, tokenizer_dir: Path | None) -> None:
        """Compare a pretrained student's tokenizer with the data's.

        Raises:
            ValueError: If they differ.
        """
        if self.model is not None and tokenizer_dir is not None:
            check_same_tokenizer(self.model, self.revision, tokenizer_dir, self.gguf_file)

    def build(self, defaults: dict[str, Any]) -> LanguageModel:
        """Make the model.

        Args:
            defaults: Fields of the configuration that the data knows; those of `config` go before them.

        Raises:
            ValueError: If the configuration does not fit its architecture, or that has no activation checkpointing.
            FileNotFoundError: If there is no such pretrained model.
        """
        return self._finished(self._initial(defaults))

    def outline(self, defaults: dict[str, Any]) -> LanguageModel:
        """Make the model without its weights; of a pretrained one its configuration is read.

        Args:
            defaults: As of `build`.

        Raises:
            ValueError: As of `build`.
            FileNotFoundError: If there is no such pretrained model.
        """
        if self.model is None:
            return super().outline(defaults)
        options = {"revision": self.revision, "trust_remote_code": self.trust_remote_code}
        return self._finished(
            outline_pretrained(self.model, self.gguf_file, "model.student.init_args.model", **options)
        )

    def _finished(self, model: nn.Module) -> LanguageModel:
        if self.activation_checkpointing:
            _checkpoint_activations(model)
        student = LanguageModel(model)
        # Not the body where there are layers: while it is traced, transformers makes an explicit mask in place of
        # sdpa's causal flag, which keeps attention from the flash kernel.
        for part in (hf_layers(student) or [student.body]) if self.compile else []:
            # Sizes are symbols from the start: which graph a batch gets is then no matter of the shapes before it, and
            # a resumed run rounds as the run did.
            part.compile(dynamic=True)
        return student

    def _initial(self, defaults: dict[str, Any]) -> nn.Module:
        if self.config is not None:
            settings = {**defaults, **self.config}
            if self.attn_implementation:
                settings["attn_implementation"] = self.attn_implementation
            return build_causal_lm(settings)
        model = self._pretrained("float32")
        # transformers gives pretrained models in evaluation mode, without dropout.
        return model.train()

    def _pretrained(self, dtype: str) -> nn.Module:
        assert self.model is not None
        options = {"attn_implementation": self.attn_implementation} if self.attn_implementation else {}
        return load_pretrained(
            self.model,
            self.gguf_file,
            dtype,
            "model.student.init_args.model",
            revision=self.revision,
            trust_remote_code=self.trust_remote_code,
            **options,
        )


def _checkpoint_activations(model: Any) -> None:
    if not getattr(model, "supports_gradient_checkpointing", False):
        raise ValueError(
            f"The student must have layers whose activations can be computed again, got {type(model).__name__}, which "
            "transformers has no activation checkpointing for. Set model.student.init_args.activation_checkpointing to "
            "false."
        )
    # Renamed in the course of transformers 5. Reentrant checkpoints would not see what autocast and hooks do.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
