"""Whether a folder of blocks can serve a split."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Trainer

from pd_lightning.store.manifest import Manifest

_EMPTY = {
    "train": "Tokenize more text, or set data.path to another folder.",
    "val": (
        "Set data.val_path to a folder that has one, tokenize again with a larger --val_fraction, or set "
        "trainer.limit_val_batches to 0."
    ),
}


def check_split(manifest: Manifest, folder: Path, split: str) -> None:
    """Refuse a folder without blocks in a split.

    Raises:
        ValueError: Naming the folder and the ways out.
    """
    if split not in manifest.splits or manifest.splits[split].num_blocks == 0:
        raise ValueError(f"{folder} must hold blocks in its {split} split, got none. {_EMPTY[split]}")


def check_validation(manifest: Manifest, folder: Path, training: Manifest, path: Path) -> None:
    """Refuse a folder to validate on that does not fit the one that is trained on.

    Args:
        manifest: Manifest of `data.val_path`.
        folder: `data.val_path`.
        training: Manifest of the training blocks.
        path: `data.path`.

    Raises:
        ValueError: They have other tokenizers, other kinds or widths of targets, or other attention.
    """
    if manifest.tokenizer.digest != training.tokenizer.digest:
        raise ValueError(
            f"data.val_path must hold blocks of the tokenizer of data.path, got {folder} and {path} with "
            "different ones. Tokenize it with --tokenizer set to the tokenizer folder of data.path."
        )
    if manifest.kind == training.kind and manifest.sampled != training.sampled:
        kinds = {True: "ids drawn at random", False: "the most probable ids"}
        raise ValueError(
            f"data.val_path must hold targets of the kind of those of data.path, got {folder} with "
            f"{kinds[manifest.sampled]} and {path} with {kinds[training.sampled]}. Set data.val_path to the token "
            "blocks that it was recorded from, or to another store."
        )
    if manifest.kind == training.kind and manifest.vocab_size != training.vocab_size:
        raise ValueError(
            f"data.val_path must hold targets over the vocabulary of those of data.path, got {folder} with "
            f"{manifest.vocab_size} ids and {path} with {training.vocab_size}. Record it with the teacher of "
            "data.path."
        )
    attention = training.document_attention
    if manifest.document_attention != attention:
        raise ValueError(
            f"data.val_path must hold blocks with the document_attention of data.path, got {folder} with "
            f"{manifest.document_attention} and {path} with {attention}. Tokenize it with "
            f"--document_attention {attention}."
        )


def check_trainer(trainer: Trainer | None, num_ranks: int) -> None:
    """Refuse settings of the Trainer that would break the order.

    Args:
        trainer: The Trainer, if there is one.
        num_ranks: Processes that see different data.

    Raises:
        ValueError: Naming the setting.
    """
    if trainer is None:
        return
    if num_ranks > 1 and trainer._accelerator_connector.use_distributed_sampler:
        raise ValueError(
            f"trainer.use_distributed_sampler must be false with TokenBlocks, got true on {num_ranks} ranks. Set "
            "trainer.use_distributed_sampler to false: TokenBlocks deals the blocks itself."
        )
    overfit_batches = getattr(trainer, "overfit_batches", 0)  # set by a function that hides it from type checkers
    if overfit_batches:
        raise ValueError(
            f"trainer.overfit_batches must be 0 with TokenBlocks, got {overfit_batches}. Set data.max_train_blocks to "
            "the number of blocks to overfit."
        )
