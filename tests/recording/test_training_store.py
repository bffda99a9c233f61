"""The store of a teacher in training, killed wherever it can be."""

import hashlib
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pd_lightning.data.mix import teacher_steps
from pd_lightning.recording.store_format import store_format
from pd_lightning.recording.targets import Encoded
from pd_lightning.recording.training_store import TrainingStore
from pd_lightning.selection import Selection
from pd_lightning.store.chunks import done_chunks
from pd_lightning.store.manifest import Manifest, TokenizerInfo, read_manifest
from pd_lightning.store.reader import BlockReader
from pd_lightning.store.verification import verify_folder

FORM = store_format(Selection(1.0, 2), None, "half", None)
PER_CHUNK = 2
COUNTS = (7, 3)  # rank 0 has chunks 0, 2, 4 and a block, rank 1 has chunk 1 and a block: a gap at 3
CHANGES = {"os.rename", "os.remove"}
DIGEST = "sha256:" + hashlib.sha256(b"{}").hexdigest()  # of a tokenizer.json


def block(rank: int, number: int, step: int | None = None) -> Encoded:
    tokens = np.array([rank * 100 + number, 1, 2, 3, 4])
    columns = {name: np.zeros(4, np.float32) for name in FORM.columns}
    columns["log_tail"] -= np.inf
    kept = (np.full(4, 1), np.zeros(4, int), np.zeros(4, np.float32))
    return Encoded(*FORM.encode(tokens, *kept, columns, vocab_size=300, teacher_step=number if step is None else step))


def manifest(folder: Path) -> Manifest:
    (folder / "tokenizer").mkdir(exist_ok=True)
    (folder / "tokenizer" / "tokenizer.json").write_bytes(b"{}")
    return Manifest(
        *("logits", 4, 300, TokenizerInfo(DIGEST, 0), {}),
        teacher={"kind": "x"},
        selection={"p": 1.0, "k": 2, "min_k": 1},
        codec=FORM.codec,
        columns=FORM.columns,
    )


def stores(folder: Path, per_chunk: int = PER_CHUNK) -> list[TrainingStore]:
    return [TrainingStore(folder, per_chunk, rank, len(COUNTS)) for rank in range(len(COUNTS))]


def recorded(folder: Path, name: str | None = None, counts: tuple[int, ...] = (0, 0)) -> str:
    """Record up to COUNTS, from new or from where a checkpoint was; give the recording's name."""
    ranks = stores(folder)
    ranks[0].claim({}, name)
    for rank, store in enumerate(ranks):
        store.rewind(counts[rank])
        for number in range(counts[rank], COUNTS[rank]):
            store.add(block(rank, number))
        store.keep()
    ranks[0].note_checkpoint()
    assert ranks[0].recording is not None
    return ranks[0].recording


def finished(folder: Path, per_chunk: int = PER_CHUNK) -> None:
    assert stores(folder, per_chunk)[0].finish(manifest(folder)) is not None


def first_tokens(folder: Path) -> Counter[int]:
    reader = BlockReader(folder, "train")
    return Counter(int(reader[index]["block"][0]) for index in range(len(reader)))


ALL = Counter(rank * 100 + number for rank, count in enumerate(COUNTS) for number in range(count))


@pytest.fixture
def dies_at(killed: Callable[..., bool]) -> Callable[[int, Callable[[], Any]], bool]:
    """Run `action` in a child that dies before its `call`-th renaming or removal of a file. False if it got by."""

    def watch(strike: Callable[[], None]) -> None:
        def deadly(event: str, _: Any) -> None:
            if event in CHANGES:
                strike()

        sys.addaudithook(deadly)

    return lambda call, action: killed(call, action, watch)


def test_killed_at_any_point_of_its_finish_a_recording_can_be_finished(
    dies_at: Callable[..., bool], tmp_path: Path
) -> None:
    """Its training goes on from the last checkpoint, or from an earlier one."""
    name = recorded(tmp_path / "whole")
    call, dying = 1, True
    while dying:
        folder = tmp_path / str(call)
        shutil.copytree(tmp_path / "whole", folder)
        dying = dies_at(call, lambda folder=folder: finished(folder))  # type: ignore[misc]
        if stores(folder)[0].finished:
            stores(folder)[0].tidy()
        else:
            recorded(folder, name, COUNTS if call % 2 else (3, 1))
            finished(folder)
        assert first_tokens(folder) == ALL
        assert verify_folder(folder) == []
        assert not [path for path in folder.rglob("*") if path.name.startswith(".tmp-") or path.match("chunk-*.json")]
        call += 1
    assert call > 20


def test_killed_at_any_point_of_a_rewind_it_can_be_rewound(dies_at: Callable[..., bool], tmp_path: Path) -> None:
    """To the middle of a chunk that was completed since, or of one that was not, or between two."""
    name = recorded(tmp_path / "whole")

    def rewound(folder: Path) -> None:
        for rank, store in enumerate(stores(folder)):
            store.rewind((4, 3)[rank])
            store.rewind((3, 3)[rank])

    call, dying = 1, True
    while dying:
        folder = tmp_path / str(call)
        shutil.copytree(tmp_path / "whole", folder)
        dying = dies_at(call, lambda folder=folder: rewound(folder))  # type: ignore[misc]
        recorded(folder, name, (3, 3))
        finished(folder)
        assert first_tokens(folder) == ALL
        call += 1
    assert call > 5


def test_killed_at_any_point_of_its_start_a_recording_can_start(dies_at: Callable[..., bool], tmp_path: Path) -> None:
    for old in (False, True):
        call, dying = 1, True
        while dying:
            folder = tmp_path / f"{old}-{call}"
            if old:  # of which no checkpoint tells
                store = TrainingStore(folder, PER_CHUNK)
                store.claim({"other": "settings"}, None)
                for number in range(5):
                    store.add(block(0, number))
                store.keep()
                (folder / "tokenizer").mkdir()
                (folder / "tokenizer" / "half.json").touch()
            dying = dies_at(call, lambda folder=folder: stores(folder)[0].claim({}, None))  # type: ignore[misc]
            stores(folder)[0].claim({}, None)
            assert done_chunks(folder / "train") == set()
            assert sorted(path.name for path in folder.iterdir()) == ["recording.json", "train"]
            call += 1
        assert call > 3


def test_killed_at_any_point_of_a_rewind_within_a_chunk_it_can_be_rewound(
    dies_at: Callable[..., bool], tmp_path: Path
) -> None:
    call, dying = 1, True
    while dying:
        store = TrainingStore(tmp_path / str(call), 8)
        store.claim({}, None)
        for number in range(6):
            store.add(block(0, number))
        store.keep()
        dying = dies_at(call, lambda store=store: store.rewind(5))  # type: ignore[misc]
        again = TrainingStore(store.folder, 8)
        again.rewind(5)
        assert again.finish(manifest(again.folder)) is not None
        assert first_tokens(store.folder) == Counter(range(5))
        call += 1
    assert call > 5


@pytest.mark.parametrize(("per_chunk", "blocks"), [(2, 4), (2, 5), (8, 5)])
def test_blocks_that_a_checkpoint_had_seen_must_be_there(tmp_path: Path, per_chunk: int, blocks: int) -> None:
    """The training went on from an earlier checkpoint, which removed them, and was stopped."""
    store = TrainingStore(tmp_path, per_chunk)
    store.claim({}, None)
    for number in range(blocks):
        store.add(block(0, number))
    store.keep()
    store.rewind(1)
    message = rf"must hold the {blocks} blocks that rank 0 had recorded .* from an earlier checkpoint since\. Go"
    with pytest.raises(ValueError, match=message):
        store.rewind(blocks)
    store.rewind(1)
    store.add(block(0, 1))
    store.keep()
    assert store.finish(manifest(store.folder)) is not None
    assert first_tokens(tmp_path) == Counter([0, 1])


def test_kept_blocks_of_another_chunk_are_not_taken(tmp_path: Path) -> None:
    store = TrainingStore(tmp_path, 4)
    store.claim({}, None)
    for number in range(7):
        store.add(block(0, number))
    store.keep()
    (tmp_path / "train" / "chunk-000000.bin").unlink()  # those kept are 4, 5 and 6: none of the first three
    with pytest.raises(ValueError, match="must hold the 3 blocks"):
        store.rewind(3)


def test_a_recording_is_known_by_its_name(tmp_path: Path) -> None:
    name = recorded(tmp_path)
    for other in (None, "another"):
        with pytest.raises(ValueError, match=r"holds an unfinished recording\. Go on with .* from a checkpoint that"):
            stores(tmp_path)[0].claim({}, other)
    with pytest.raises(ValueError, match=r"where blocks_per_chunk was 2, is 3\. Put them back"):
        stores(tmp_path, 3)[0].claim({}, name)
    with pytest.raises(ValueError, match=r"where num_ranks was 2, is 1\. Put them back"):
        TrainingStore(tmp_path, PER_CHUNK).claim({}, name)
    finished(tmp_path)
    with pytest.raises(ValueError, match=r"must not be a finished folder, got .*\. Set it to a new one: a training"):
        stores(tmp_path)[0].claim({}, name)


def test_an_unknown_recording_makes_room_and_files_of_others_stay(tmp_path: Path) -> None:
    store = TrainingStore(tmp_path / "store", PER_CHUNK)
    store.claim({}, None)
    for number in range(5):
        store.add(block(0, number))
    store.keep()
    before = store.recording
    store.claim({}, None)
    assert store.recording not in (None, before)
    assert done_chunks(tmp_path / "store" / "train") == set()
    (tmp_path / "mine" / "train").mkdir(parents=True)
    (tmp_path / "mine" / "train" / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"got .*mine with other files\. Set it to another folder"):
        TrainingStore(tmp_path / "mine", PER_CHUNK).claim({}, None)
    assert (tmp_path / "mine" / "train" / "notes.txt").exists()


def test_nothing_recorded_is_no_store(tmp_path: Path) -> None:
    store = stores(tmp_path)[0]
    store.claim({}, None)
    assert store.finish(manifest(store.folder)) is None
    assert not store.finished


def test_the_manifest_grows_with_the_chunks_and_not_with_the_steps(tmp_path: Path) -> None:
    """Two ranks, a block of each at each recorded step, but for one that lacks its share of one step."""
    ranks = stores(tmp_path, per_chunk=10)
    ranks[0].claim({}, None)
    for rank, store in enumerate(ranks):
        store.rewind(0)
        for number, step in enumerate(range(100, 300, 4)):
            if (rank, step) != (1, 200):
                store.add(block(rank, number, step))
        store.keep()
    finished(tmp_path, 10)
    split = read_manifest(tmp_path).splits["train"]
    reader = BlockReader(tmp_path, "train")
    steps = teacher_steps(split)
    assert steps is not None
    assert steps.tolist() == [int(reader[index]["teacher_step"][0]) for index in range(len(reader))]
    assert len(split.extra["teacher_steps"]) == 11  # ten chunks, one of them with a step left out
