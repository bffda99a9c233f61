"""Gathering blocks into chunks beside the teacher."""

import threading

import numpy as np
import pytest

from pd_lightning.recording.chunk_writer import ChunkWriter
from pd_lightning.recording.targets import Encoded

Written = list[tuple[str, int, list[int]]]


def encoded(*numbers: int) -> list[Encoded]:
    return [Encoded({"tokens": np.array([number])}, {}) for number in numbers]


def writer_to(written: Written) -> ChunkWriter:
    def write(split: str, index: int, blocks: list[Encoded]) -> None:
        written.append((split, index, [int(block.item["tokens"][0]) for block in blocks]))

    return ChunkWriter(4, write)


def test_full_chunks_and_the_last_of_each_split_are_written() -> None:
    written: Written = []
    writer = writer_to(written)
    for split, start in (("train", 0), ("train", 2), ("train", 8), ("train", 10), ("train", 12), ("val", 0)):
        writer.add(split, start, lambda start=start: encoded(start, start + 1))
    writer.finish()
    assert written == [
        ("train", 0, [0, 1, 2, 3]),
        ("train", 2, [8, 9, 10, 11]),
        ("train", 3, [12, 13]),
        ("val", 0, [0, 1]),
    ]


def test_after_an_error_nothing_is_written() -> None:
    """The batches in hand when it happens must not pass for the end of their split."""
    written: Written = []
    writer = writer_to(written)
    go_on = threading.Event()

    def fails() -> list[Encoded]:
        go_on.wait()
        raise KeyError("broken")

    writer.add("train", 0, lambda: encoded(0, 1))
    writer.add("train", 2, fails)
    writer.add("val", 0, lambda: encoded(7, 8))
    go_on.set()
    with pytest.raises(KeyError, match="broken"):
        writer.add("val", 2, lambda: encoded(9, 10))
    writer.finish()
    assert written == []


def test_memory_is_bounded_by_two_batches_in_hand() -> None:
    writer = writer_to([])
    go_on, added = threading.Event(), []

    def waits() -> list[Encoded]:
        go_on.wait()
        return encoded(0)

    def add_all() -> None:
        for start in range(4):
            writer.add("train", start, waits)
            added.append(start)

    thread = threading.Thread(target=add_all)
    thread.start()
    thread.join(0.3)
    assert added == [0, 1]
    go_on.set()
    thread.join()
    writer.finish()
    assert added == [0, 1, 2, 3]
