"""Pre-training distillation for language models, native to Lightning."""

from pd_lightning.version import __version__

__all__ = ["__version__"]
