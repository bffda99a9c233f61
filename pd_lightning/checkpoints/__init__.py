"""Checkpoint files: written whole or not at all, read without pickle, and with a clear word where that can't be."""

from pd_lightning.checkpoints.files import load_checkpoint, save_checkpoint

__all__ = ["load_checkpoint", "save_checkpoint"]
