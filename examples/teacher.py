"""The teacher of these examples: the project's own GPT, wider, trained first and kept in teacher.pt."""

from pathlib import Path

import lightning.pytorch as pl
import torch
from project import GPT, LitGPT
from texts import Texts

WEIGHTS = Path("teacher.pt")


class TrainedGPT(GPT):
    """The teacher with its weights, by class_path."""

    def __init__(self) -> None:
        super().__init__(dim=96)
        self.load_state_dict(torch.load(WEIGHTS, weights_only=True))


def trained_teacher(max_steps: int = 150) -> GPT:
    """Give the teacher; train it first, unless its weights are there."""
    if not WEIGHTS.exists():
        pl.seed_everything(0)
        module = LitGPT(dim=96)
        pl.Trainer(max_steps=max_steps, logger=False, enable_checkpointing=False).fit(module, Texts())
        torch.save(module.model.state_dict(), WEIGHTS)
    return TrainedGPT()


if __name__ == "__main__":
    trained_teacher()
