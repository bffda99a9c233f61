"""Where training stands in the data, told from Lightning's own counters, and made to agree with them on resume.

Lightning counts batches, and a checkpoint holds that count; the data has blocks. The position is the one that the
last optimizer step left behind: what was only prefetched, or accumulated without a step, is seen again.
"""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer

from pd_lightning.data.order import Order, Position, advance, batches_left

COUNTERS = ("ready", "started", "processed", "completed")
# Of checkpoints from before there was a choice.
_BEFORE: dict[str, Any] = {"document_attention": "full", "mix": [], "min_teacher_step": 0}


def consumed(trainer: Trainer) -> int:
    """Batches that were trained on since the start of the run, on each rank."""
    total: Any = trainer.fit_loop.epoch_loop.batch_progress.total  # declared as a base class without `processed`
    return int(total.processed)


def pending(trainer: Trainer) -> int:
    """Batches whose gradients wait for an optimizer step, and which a checkpoint therefore loses."""
    current: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    if current.processed >= trainer.num_training_batches:
        return 0  # Lightning steps at an epoch's end, however few batches have accumulated
    return int(current.processed % trainer.accumulate_grad_batches)


def save(trainer: Trainer, start: Position, order: Order, global_batch: int, others: dict[str, Any]) -> dict[str, Any]:
    """The state of the data for a checkpoint: plain numbers, all that `load` needs.

    Args:
        trainer: Its counters tell how far training is.
        start: The position that this process started from.
        order: The order of the training blocks.
        global_batch: Blocks of one batch over all ranks.
        others: Further facts of the data that must not change, by name.
    """
    lost = pending(trainer)
    batches = consumed(trainer) - lost - start.batches
    position = advance(start, batches, order.length, global_batch)
    return {
        "epoch": position.epoch,
        "block": position.block,
        "batches": position.batches,
        **_facts(order),
        **others,
        "epoch_blocks": order.length,
        "global_batch": global_batch,
        "pending": lost,
    }


def load(state: dict[str, Any], order: Order, others: dict[str, Any]) -> Position:
    """The position in a checkpoint's state.

    Args:
        state: What `save` gave.
        order: The order of the training blocks, now.
        others: Further facts of the data, now.

    Raises:
        ValueError: The blocks now come in another order, are others, or are attended to otherwise.
    """
    state = {**_BEFORE, **state}
    now = {**_facts(order), **others}
    # What older checkpoints do not tell is not compared.
    changed = [name for name in now if name in state and state[name] != now[name]]
    if changed:
        before = ", ".join(f"{name} {state[name]}" for name in changed)
        got = ", ".join(f"{name} {now[name]}" for name in changed)
        raise ValueError(
            f"the training data must be the checkpoint's, which had {before}, got {got}. Restore data.path, "
            "data.max_train_blocks, data.min_teacher_step, data.mix, data.seed, data.shuffle and data.shuffle_window, "
            "or start a new run."
        )
    return Position(state["epoch"], state["block"], state["batches"])


def align(loops: dict[str, Any], state: dict[str, Any], global_batch: int, whole_epochs: bool) -> None:
    """Makes Lightning's counters in a checkpoint agree with the position, before Lightning loads them.

    Args:
        loops: The checkpoint's `loops.fit_loop`; changed in place.
        state: What `save` gave.
        global_batch: Blocks of one batch over all ranks, now.
        whole_epochs: False where `limit_train_batches` cuts epochs short, so that Lightning's are not the data's.
    """
    progress = loops["epoch_loop.batch_progress"]
    if state["pending"]:
        for tracker in (progress["total"], progress["current"]):
            tracker.update(dict.fromkeys(COUNTERS, tracker["processed"] - state["pending"]))
    if state["global_batch"] != global_batch and whole_epochs and progress["current"]["processed"]:
        blocks = state.get("epoch_blocks", state["num_blocks"])
        length = batches_left(0, blocks, global_batch)
        left = batches_left(state["block"], blocks, global_batch) if state["block"] else 0
        shift = length - left - progress["current"]["processed"]
        for counter in COUNTERS:
            progress["current"][counter] += shift


def _facts(order: Order) -> dict[str, Any]:
    """What decides the order, in plain values."""
    return {
        "num_blocks": order.num_blocks,
        "seed": order.seed,
        "shuffle": order.shuffle,
        "shuffle_window": order.window,
        "mix": [list(source) for source in order.mix],
    }
