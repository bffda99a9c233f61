"""Random draws of a run as a function of seed, batches processed and rank, so that resuming needs no random state."""

from operator import attrgetter

import lightning.pytorch as pl
import numpy as np
import torch


def batches_processed(trainer: pl.Trainer) -> int:
    """Give the number of micro-batches that were trained on, over all epochs and earlier starts."""
    processed: int = attrgetter("total.processed")(trainer.fit_loop.epoch_loop.batch_progress)
    return processed


def seed_batch(seed: int, trainer: pl.Trainer) -> None:
    """Seed dropout, and whatever else the model draws, for the micro-batch that comes.

    Args:
        seed: Seed of the run.
        trainer: Tells which micro-batch it is, and which rank.
    """
    sequence = np.random.SeedSequence([seed, batches_processed(trainer), trainer.global_rank])
    torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1)))
