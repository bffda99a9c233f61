"""`pd-lightning select`: two logit stores of the same blocks in, the blocks that teach most out.

A block is worth training on where a big teacher predicts it much better than a small reference model: what both find
easy teaches nothing more, and what both find hard is noise.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from pd_lightning.data.room import make_room, remove_mark
from pd_lightning.data.split import CHUNK_BLOCKS, CHUNK_BYTES
from pd_lightning.store import chunks
from pd_lightning.store.codec import encode_tokens
from pd_lightning.store.manifest import MANIFEST_FILE, Manifest, SplitInfo, software_versions
from pd_lightning.store.reader import BlockReader

COLUMN = "label_logprob"
_SAME = "teacher_store and reference_store must be of the same blocks"
_REMEDY = "Record both from one folder of token blocks, with the same data.init_args.max_train_blocks."

console = Console(stderr=True)


def select(
    teacher_store: str, reference_store: str, output_dir: str, fraction: float = 0.5, overwrite: bool = False
) -> None:
    """Keeps the training blocks that a teacher predicts better than a reference model by most.

    Each block's score is the mean over its tokens of the reference's loss minus the teacher's, out of two logit stores
    of the same blocks. The blocks with the largest scores stay, in their order; the validation split stays whole. A
    finished folder with the same settings is left as it is.

    Source: MiniPLM (arXiv 2410.17215).

    Args:
        teacher_store: Logit store of the teacher, a big model. Its tokens are the ones that are written.
        reference_store: Logit store of the reference, a small model trained on the same kind of text.
        output_dir: Folder of token blocks to write.
        fraction: Share of the training blocks to keep, above 0 and below 1.
        overwrite: Replace a folder made with other settings.

    Raises:
        ValueError: The stores are not of the same blocks or lack the labels' log-probabilities, `fraction` is out of
            range, or the folder holds something else.
        FileNotFoundError: There is no such store.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must be above 0 and below 1, got {fraction}. Set fraction to 0.5, say.")
    teacher, reference = _open(teacher_store, "teacher_store"), _open(reference_store, "reference_store")
    _check_pair(teacher, reference)
    settings = {
        "teacher_store": teacher_store,
        "reference_store": reference_store,
        "manifests": [_digest(teacher), _digest(reference)],
        "fraction": fraction,
        "document_attention": teacher.manifest.document_attention,
    }
    folder = Path(output_dir)
    if not make_room(folder, settings, overwrite):
        console.print(f"{folder} already holds these blocks: nothing to do.", soft_wrap=True)
        return
    scores = np.array(list(_scores(teacher, reference)))
    kept = best(scores, fraction)
    vocab_size = teacher.manifest.tokenizer_vocab_size or teacher.manifest.vocab_size
    splits = {"train": _write(folder / "train", teacher, kept.tolist(), vocab_size)}
    validation = teacher.manifest.splits.get("val")
    if validation is not None and validation.num_blocks > 0:
        whole = range(validation.num_blocks)
        splits["val"] = _write(folder / "val", BlockReader(teacher.folder, "val"), whole, vocab_size)
    figures = {
        "score_threshold": float(scores[kept].min()),
        "score_kept": float(scores[kept].mean()),
        "score_all": float(scores.mean()),
    }
    shutil.copytree(teacher.folder / "tokenizer", folder / "tokenizer")
    chunks.finish(folder, _manifest(teacher.manifest, splits, vocab_size, settings, figures))
    remove_mark(folder)
    console.print(
        f"{folder}: {len(kept):,} of {len(scores):,} training blocks, on which the teacher is better by "
        f"{figures['score_kept']:.3f} nats a token ({figures['score_all']:.3f} on all)",
        soft_wrap=True,
    )


def best(scores: NDArray[np.float64], fraction: float) -> NDArray[np.int64]:
    """Find the blocks with the largest scores.

    Args:
        scores: Score of each block, `[n]`.
        fraction: Share of the blocks to find; one at least.

    Returns:
        Their indices, ascending; of equal scores the first.
    """
    count = max(1, round(fraction * len(scores)))
    return np.sort(np.argsort(-scores, kind="stable")[:count])


def _open(folder: str, key: str) -> BlockReader:
    """Open the training split of a logit store that has what scores are made of."""
    reader = BlockReader(folder, "train")
    if COLUMN not in reader.manifest.columns:
        found = ", ".join(reader.manifest.columns) or "token blocks"
        raise ValueError(
            f"{key} must be a logit store with the column {COLUMN}, got {folder} with {found}. Set {key} to a store "
            "that `pd-lightning record` wrote."
        )
    return reader


def _check_pair(teacher: BlockReader, reference: BlockReader) -> None:
    """Refuse stores whose manifests already tell that their blocks differ."""
    for name, one, other in (
        ("tokenizer", *(reader.manifest.tokenizer.digest for reader in (teacher, reference))),
        ("block_size", *(reader.manifest.block_size for reader in (teacher, reference))),
        ("document_attention", *(reader.manifest.document_attention for reader in (teacher, reference))),
        ("number of training blocks", len(teacher), len(reference)),
    ):
        if one != other:
            raise ValueError(f"{_SAME} and {name}, got {one} and {other}. {_REMEDY}")


def _scores(teacher: BlockReader, reference: BlockReader) -> Iterator[float]:
    indices: Iterable[int] = range(len(teacher))
    for index in track(indices, "Scoring", console=console):
        said, referred = teacher[index], reference[index]
        if not np.array_equal(said["block"], referred["block"]):
            raise ValueError(f"{_SAME}, got other tokens in training block {index}. {_REMEDY}")
        yield float((said[COLUMN].astype(np.float64) - referred[COLUMN]).mean())


def _write(folder: Path, reader: BlockReader, indices: Sequence[int], vocab_size: int) -> SplitInfo:
    """Write blocks, one chunk in memory at a time."""
    size: int = encode_tokens(reader[indices[0]]["block"], vocab_size)["tokens"].nbytes
    per_chunk = max(1, min(CHUNK_BLOCKS, CHUNK_BYTES // size))
    starts: Iterable[int] = range(0, len(indices), per_chunk)
    for chunk, start in enumerate(track(starts, f"Writing {folder.name}", console=console)):
        blocks = (reader[index]["block"] for index in indices[start : start + per_chunk])
        chunks.write_chunk(folder, chunk, [encode_tokens(block, vocab_size) for block in blocks])
    return SplitInfo(len(indices), len(indices) * reader.manifest.block_size, per_chunk)


def _manifest(
    store: Manifest, splits: dict[str, SplitInfo], vocab_size: int, settings: dict[str, Any], figures: dict[str, float]
) -> Manifest:
    return Manifest(
        kind="blocks",
        block_size=store.block_size,
        vocab_size=vocab_size,
        tokenizer=store.tokenizer,
        splits=splits,
        document_attention=store.document_attention,
        statistics=figures,
        software=software_versions(),
        extra={"settings": settings, "blocks": store.extra.get("blocks", {})},
    )


def _digest(reader: BlockReader) -> str:
    return hashlib.sha256((reader.folder / MANIFEST_FILE).read_bytes()).hexdigest()
