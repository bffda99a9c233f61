"""Checkpoint files: written whole or not at all, read without pickle, and with a clear word where that can't be."""

from pd_lightning.checkpoints.files import checkpoints_in, load_checkpoint, save_checkpoint

__all__ = ["checkpoints_in", "load_checkpoint", "save_checkpoint"]
