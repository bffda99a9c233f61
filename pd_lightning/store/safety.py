"""Checks before a data folder is opened.

litdata unpickles what it reads if an index names pickle as a data format, and imports the module that a data
spec names: either runs code of whoever wrote the folder. So an index is held against what our own writer
produces before litdata sees it, and the files against their checksums.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from pd_lightning.store.checksums import (
    CHECKSUMS_FILE,
    FileDigest,
    chunk_header,
    digest_file,
    read_checksums,
)
from pd_lightning.store.chunks import INDEX_FILE, blocks_in_chunk, chunk_name, num_chunks
from pd_lightning.store.codec import check_codec
from pd_lightning.store.durable import TEMPORARY
from pd_lightning.store.json_files import read_json
from pd_lightning.store.manifest import MANIFEST_FILE, Manifest, read_manifest

_TOKENIZER = "tokenizer/tokenizer.json"
# litdata numbers NumPy's types; those up to 10 are the integers and floats, 14 would be Python objects.
_NUMBERS = re.compile(r"no_header_numpy:(\d|10)")
_ARRAYS = ["tokens", "payload"]
_UNSEALED = ["tokens"]  # of blocks, written before they had a checksum each
_LEAF: dict[str, Any] = {"type": None, "context": None, "children_spec": []}


def verify_layout(folder: str | Path, *, chunks: bool = True, share: tuple[int, int] = (0, 1)) -> Manifest:
    """Check that a data folder is whole and safe to open, at the cost of reading headers.

    Every file but the chunks is checked whole; a chunk by its size and header. `verify_files` reads all.

    Args:
        folder: The data folder.
        chunks: Whether its chunks are there, and looked at; otherwise whoever brings them checks them whole.
        share: Which part of the chunks is looked at, and of how many: a thousand processes that open a hundred
            thousand chunks each would keep a file system busy for an hour. The reader looks at each that it reads.

    Returns:
        Its manifest.

    Raises:
        FileNotFoundError: No such folder, or an unfinished one.
        ValueError: Something is damaged, newer, or not to be trusted; names the file and the remedy.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    check_codec(manifest, str(folder))
    checksums = read_checksums(folder)
    part, parts = share
    number = sum(num_chunks(split.num_blocks, split.blocks_per_chunk) for split in manifest.splits.values())
    # Before their names are listed, since a manifest can claim any number of chunks.
    if number > len(checksums):
        raise ValueError(_damaged(folder, CHECKSUMS_FILE, f"does not cover the {number} chunks of {MANIFEST_FILE}"))
    counts = {
        f"{name}/{chunk_name(index)}": blocks_in_chunk(index, split)
        for name, split in manifest.splits.items()
        for index in range(num_chunks(split.num_blocks, split.blocks_per_chunk))
    }
    looked_at = set(list(counts)[part::parts]) if chunks else set()
    required = {MANIFEST_FILE, _TOKENIZER, *counts, *(f"{name}/{INDEX_FILE}" for name in manifest.splits)}
    if missing := sorted(required - checksums.keys()):
        raise ValueError(_damaged(folder, CHECKSUMS_FILE, f"does not cover {missing[0]}"))
    for name, expected in checksums.items():
        if name in counts and name not in looked_at:
            continue
        if problem := _problem(folder / name, expected, whole=name not in counts):
            raise ValueError(_damaged(folder, name, problem))
    # That of the file, which the manifest has too.
    if (digest := f"sha256:{checksums[_TOKENIZER].sha256}") != manifest.tokenizer.digest:
        problem = f"has the digest {digest} instead of the manifest's {manifest.tokenizer.digest}"
        raise ValueError(_damaged(folder, _TOKENIZER, problem))
    for name in manifest.splits:
        _verify_index(folder, name, manifest, checksums)
    for name in sorted(looked_at):
        if problem := header_problem(folder / name, counts[name]):
            raise ValueError(_damaged(folder, name, problem))
    return manifest


def verify_files(folder: str | Path) -> list[str]:
    """Read every file and compare it with its checksum.

    Args:
        folder: The data folder.

    Returns:
        The problems found, each naming its file; none means that everything is as it was written.

    Raises:
        FileNotFoundError: No such folder, or an unfinished one.
    """
    folder = Path(folder)
    if not (folder / MANIFEST_FILE).is_file():
        read_manifest(folder)
    try:
        checksums = read_checksums(folder)
    except ValueError as error:
        return [str(error)]
    found = []
    if MANIFEST_FILE not in checksums:
        found.append(f"{folder / CHECKSUMS_FILE} does not cover {MANIFEST_FILE}")
    for name, expected in checksums.items():
        if problem := _problem(folder / name, expected, whole=True):
            found.append(f"{folder / name} {problem}")
    # Beside the manifest anyone may put a note; the other folders are read by what is in them.
    folders = sorted({(folder / name).parent for name in checksums} - {folder})
    unknown = [
        path
        for beside in folders
        for path in sorted(beside.glob("*"))
        if not path.is_dir() and path.relative_to(folder).as_posix() not in checksums
    ]
    return found + [f"{path} is not in {CHECKSUMS_FILE}" for path in unknown if not path.name.startswith(TEMPORARY)]


def _problem(path: Path, expected: FileDigest, *, whole: bool) -> str | None:
    """What is wrong with a file, or None."""
    if not path.is_file():
        return "is missing"
    size = path.stat().st_size
    if size != expected.bytes:
        return f"has {size} bytes instead of {expected.bytes}"
    if expected.header_sha256 and hashlib.sha256(chunk_header(path)).hexdigest() != expected.header_sha256:
        return "has a header that does not match its checksum"
    if whole and digest_file(path).sha256 != expected.sha256:
        return "does not match its checksum"
    return None


def _verify_index(folder: Path, name: str, manifest: Manifest, checksums: dict[str, FileDigest]) -> None:
    """Hold litdata's index of one split against what our writer produces."""
    path, split = f"{name}/{INDEX_FILE}", manifest.splits[name]
    try:
        index = read_json(folder / path)
        entries, config = index["chunks"], index["config"]
        problem = "has unknown fields" if index.keys() != {"chunks", "config", "updated_at"} else None
        expected = [
            {
                "chunk_bytes": checksums[f"{name}/{chunk_name(number)}"].bytes,
                "chunk_size": blocks_in_chunk(number, split),
                "dim": None,
                "filename": chunk_name(number),
            }
            for number in range(num_chunks(split.num_blocks, split.blocks_per_chunk))
        ]
        if entries != expected:
            problem = f"must list {len(expected)} chunks as the manifest and the checksums do, but differs"
        problem = problem or (_config_problem(config, manifest) if entries else None)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        problem = f"is malformed ({type(error).__name__}: {error})"
    if problem:
        raise ValueError(_damaged(folder, path, problem))


def _config_problem(config: dict[str, Any], manifest: Manifest) -> str | None:
    """What in litdata's config of a split is not as our writer leaves it, or None."""
    formats = config["data_format"]
    arrays = [*_ARRAYS, *(["teacher_step"] if manifest.teacher_steps else [])]
    known = [_spec(arrays), *([_spec(_UNSEALED)] if manifest.kind == "blocks" else [])]
    for data_format in formats:
        if not _NUMBERS.fullmatch(data_format):
            return f"has the data format {data_format!r}, but only arrays of numbers are safe to open"
    _, spec = json.loads(config["data_spec"])
    if spec not in known or len(formats) != len(spec["children_spec"]):
        return f"has a data spec that is not a plain dict of {arrays}"
    if config["item_loader"] != "PyTreeLoader":
        return f"has the item loader {config['item_loader']!r}"
    # Compression, encryption and whatever later versions add: each is a way into other code of litdata.
    allowed = ("data_format", "data_spec", "item_loader", "chunk_size", "chunk_bytes")
    others = sorted(key for key, value in config.items() if key not in allowed and value is not None)
    return f"sets {others}, which this version does not write" if others else None


def _spec(arrays: list[str]) -> dict[str, Any]:
    return {"type": "builtins.dict", "context": json.dumps(arrays), "children_spec": [_LEAF] * len(arrays)}


def header_problem(path: Path, count: int) -> str | None:
    """What is wrong with a chunk's header, or None: its offsets point into it, one after another, up to its end.

    litdata believes it, and reads other formats of chunks too: compressed ones, and tables behind the last item.

    Args:
        path: The chunk.
        count: Blocks that it holds.
    """
    header = chunk_header(path)
    numbers = np.frombuffer(header[: len(header) // 4 * 4], dtype="<u4")
    whole = numbers.size == count + 2 and numbers[0] == count
    ends = whole and numbers[1] == len(header) and numbers[-1] == path.stat().st_size
    sound = ends and bool((numbers[2:] >= numbers[1:-1]).all())
    return None if sound else f"has a header that does not describe {count} blocks"


def remedy(folder: Path) -> str:
    """What to do about a damaged data folder."""
    return (
        f"List the damage with `pd-lightning inspect {folder} --verify true`, then get the folder again from "
        "its source, or tokenize or record again into another folder."
    )


def _damaged(folder: Path, name: str, problem: str) -> str:
    return f"{folder / name} {problem}: the folder is damaged or not to be trusted. {remedy(folder)}"
