"""Any causal language model as two halves: hidden states, and the head that turns them into logits."""

from pd_lightning.language_model.language_model import LanguageModel, build_causal_lm, load_causal_lm

__all__ = ["LanguageModel", "build_causal_lm", "load_causal_lm"]
