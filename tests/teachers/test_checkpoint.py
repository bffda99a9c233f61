import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pd_lightning.data import TokenBlocks
from pd_lightning.module import DistillationModule
from pd_lightning.schedules import Constant
from pd_lightning.students import HFStudent
from pd_lightning.teachers import CheckpointTeacher, Surroundings
from pd_lightning.trainer import PDTrainer

CPU = torch.device("cpu")


def trainer(steps: int, **settings: Any) -> PDTrainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return PDTrainer(accelerator="cpu", max_steps=steps, limit_val_batches=0, **quiet, **settings)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory, blocks: Path, tiny: Any) -> list[Path]:
    """A teacher after one step and after three."""
    folder, paths = tmp_path_factory.mktemp("teacher-run"), []
    for steps in (1, 3):
        module = DistillationModule(HFStudent(config=tiny.config), lr=Constant(0.01))
        one = trainer(steps, enable_checkpointing=False)
        one.fit(module, TokenBlocks(str(blocks), batch_size=4))
        paths.append(folder / f"{steps}.ckpt")
        one.save_checkpoint(paths[-1])
    return paths


def put(checkpoint: Path, folder: Path, seconds: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(checkpoint, folder / "last.ckpt")
    os.utime(folder / "last.ckpt", (seconds, seconds))


def expected(checkpoint: Path, teacher: CheckpointTeacher) -> bool:
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    return all(torch.equal(state[f"student.model.{name}"], w) for name, w in teacher.model.model.state_dict().items())


@pytest.mark.parametrize("inside", ["", "checkpoints"])
def test_newer_weights_take_the_place_of_older_ones(checkpoints: list[Path], tmp_path: Path, inside: str) -> None:
    put(checkpoints[0], tmp_path / inside, 100)
    teacher = CheckpointTeacher(str(tmp_path), every_n_steps=2)
    teacher.setup(Surroundings(CPU))
    assert expected(checkpoints[0], teacher)
    assert teacher.describe()["step"] == 1
    first = teacher.describe()["weights_digest"]
    batch = {"input_ids": torch.arange(10).view(2, 5)}
    put(checkpoints[1], tmp_path / inside, 200)
    teacher(batch)
    assert teacher.step == 1
    with torch.no_grad():  # validation does not count
        teacher(batch)
    rows = teacher(batch).rows(slice(None))
    assert expected(checkpoints[1], teacher)
    assert (teacher.step, teacher.describe()["weights_digest"] != first) == (3, True)
    assert not rows.logprobs.requires_grad
    torch.testing.assert_close(rows.logprobs, teacher.model(batch["input_ids"]).flatten(0, 1).log_softmax(-1).detach())


def test_a_checkpoint_that_is_cut_off_is_passed_over(checkpoints: list[Path], tmp_path: Path) -> None:
    put(checkpoints[0], tmp_path, 100)
    teacher = CheckpointTeacher(str(tmp_path), every_n_steps=1)
    teacher.setup(Surroundings(CPU))
    (tmp_path / "half.ckpt").write_bytes(checkpoints[1].read_bytes()[:1000])
    with pytest.warns(UserWarning, match=r"stays at step 1: .* which is cut off"):
        teacher({"input_ids": torch.zeros(1, 4, dtype=torch.long)})
    assert expected(checkpoints[0], teacher)


@pytest.mark.filterwarnings("error:CheckpointTeacher")
def test_a_checkpoint_that_is_being_written_is_not_read(checkpoints: list[Path], tmp_path: Path) -> None:
    (tmp_path / ".tmp-last.ckpt").write_bytes(checkpoints[1].read_bytes()[:1000])
    teacher = CheckpointTeacher(str(tmp_path), every_n_steps=1)
    with pytest.raises(FileNotFoundError, match="must hold a checkpoint"):
        teacher.setup(Surroundings(CPU))
    put(checkpoints[0], tmp_path, 100)
    teacher.setup(Surroundings(CPU))
    teacher({"input_ids": torch.zeros(1, 4, dtype=torch.long)})
    assert expected(checkpoints[0], teacher)


def test_a_checkpoint_that_one_rank_cannot_read_is_put_on_none(checkpoints: list[Path], tmp_path: Path) -> None:
    """Two processes of their own: forked ones would hang in what the threads of this one hold."""
    put(checkpoints[0], tmp_path / "run", 100)
    script = Path(__file__).with_name("following_on_ranks.py")
    places = [str(path) for path in (tmp_path / "run", checkpoints[1], tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ranks = [subprocess.Popen([sys.executable, str(script), str(rank), *places], env=environment) for rank in (0, 1)]
    assert [rank.wait(timeout=200) for rank in ranks] == [0, 0]
    expected = [[1, "CheckpointTeacher stays at step 1: not there yet"], [3]]
    assert [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)] == [expected, expected]


def test_a_student_follows_its_teacher(checkpoints: list[Path], tmp_path: Path, blocks: Path, tiny: Any) -> None:
    put(checkpoints[0], tmp_path, 100)
    teacher = CheckpointTeacher(str(tmp_path), every_n_steps=3)

    class Following(DistillationModule):
        steps: list[int] = []  # noqa: RUF012 - of this test alone

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            super().on_train_batch_end(outputs, batch, batch_idx)
            self.steps.append(teacher.step)
            if batch_idx == 0:
                put(checkpoints[1], tmp_path, 200)

    student = Following(HFStudent(config=tiny.config), teacher)
    trainer(4, enable_checkpointing=False).fit(student, TokenBlocks(str(blocks), batch_size=2))
    assert Following.steps == [1, 1, 3, 3]


def test_no_checkpoint_yet_and_none_of_ours(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"must hold a checkpoint, got .*, where there is none yet\. Wait"):
        CheckpointTeacher(str(tmp_path)).setup(Surroundings(CPU))
    torch.save({"pytorch-lightning_version": "2", "state_dict": {}}, tmp_path / "foreign.ckpt")
    with pytest.raises(ValueError, match=r"checkpoints of a Hugging Face student, got .*foreign.ckpt, which has no"):
        CheckpointTeacher(str(tmp_path)).setup(Surroundings(CPU))
    with pytest.raises(ValueError, match="every_n_steps must be at least 1, got 0"):
        CheckpointTeacher("anywhere", every_n_steps=0)


def test_another_tokenizer_is_found_out(checkpoints: list[Path], tmp_path: Path, blocks: Path) -> None:
    from transformers import AutoTokenizer

    put(checkpoints[0], tmp_path, 100)
    CheckpointTeacher(str(tmp_path)).setup(Surroundings(CPU, tokenizer_dir=blocks / "tokenizer"))
    other = AutoTokenizer.from_pretrained(blocks / "tokenizer")
    other.add_tokens(["another"])
    other.save_pretrained(tmp_path / "tokenizer")
    with pytest.raises(ValueError, match="must use the same tokenizer"):
        CheckpointTeacher(str(tmp_path)).setup(Surroundings(CPU, tokenizer_dir=tmp_path / "tokenizer"))
