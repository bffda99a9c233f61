"""`pd-lightning plan --config`: a fit for 32 GPUs, checked and planned on this machine."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.strategies import FSDPStrategy
from torch.utils.data import DataLoader

from pd_lightning.checkpoints import save_checkpoint
from pd_lightning.cli import main
from pd_lightning.data import TokenBlocks
from pd_lightning.module import DistillationModule
from pd_lightning.plan.rehearsal import Rehearsal
from pd_lightning.plan.settings import Assumptions, Described
from pd_lightning.store.manifest import read_manifest
from pd_lightning.strategies import FSDP2Strategy
from pd_lightning.students import HFStudent, PrunedStudent
from pd_lightning.teachers import CheckpointTeacher, FrozenTeacher, NoTeacher, OfflineTeacher, TeacherEnsemble
from pd_lightning.trainer import ANYWHERE, PDTrainer

OFFLINE = "pd_lightning.teachers.OfflineTeacher"
MACHINES = {"devices": 8, "num_nodes": 4, "strategy": "ddp", "precision": "bf16-mixed", "max_steps": 4}


@pytest.fixture
def rehearsal(blocks: Path, teacher_dir: Path, tiny: Any) -> Callable[..., Rehearsal]:
    """The rehearsal of a run on 32 GPUs."""

    def make(
        teacher: Any = None, path: Path = blocks, config: dict | None = None, batch_size: int = 1, **settings: Any
    ) -> Rehearsal:
        asked = {**MACHINES, **{key: settings.pop(key) for key in MACHINES.keys() & settings.keys()}}
        student = HFStudent({**tiny.config, **(config or {})})
        module = DistillationModule(student, teacher or FrozenTeacher(str(teacher_dir)), kd_weight=0.5)
        options = {
            **ANYWHERE,
            "max_steps": asked["max_steps"],
            "use_distributed_sampler": False,
            "logger": False,
            **settings,
        }
        data, trainer = TokenBlocks(str(path), batch_size=batch_size), PDTrainer(**options)
        return Rehearsal(trainer, asked, module, data, lambda: trainer._planned_steps(module, data))

    return make


def request(rehearsal: Rehearsal, gpus: int | None = None, teacher: Any = None) -> Any:
    rehearsal.check(gpus)
    return rehearsal.request(teacher, None, Assumptions())


def test_a_run_for_32_gpus_is_planned_here(
    run_yaml: Callable[..., Path],
    write_overlay: Callable[..., Path],
    planned: Callable[..., Any],
    tiny: Any,
    tmp_path: Path,
) -> None:
    before = {path: path.stat().st_mtime for path in tmp_path.rglob("*")}
    overlay = write_overlay({"trainer": {"accumulate_grad_batches": 2}})
    plan = planned("--config", run_yaml(), "--config", overlay, "--gpu=a100", "--price=2", "--model.lr=1e-3")
    assert plan["hardware"] == {"name": "A100", "tflops": 312, "memory_gb": 80, "gpus": 32, "price": 2.0}
    assert plan["tokens"] == 3 * 2 * 32 * tiny.block_size
    assert plan["student"]["vocab_size"] == tiny.vocab_size
    assert plan["worth"]["chosen"]["delta_logits"] == 1.0
    assert len(plan["checked"]) == 4
    assert any("3 steps of 64 blocks: 3,072 tokens" in line for line in plan["assumptions"])
    after = {path: path.stat().st_mtime for path in tmp_path.rglob("*")}
    assert after.keys() - before.keys() == {overlay, tmp_path / "run.yaml"}, "a plan writes nothing"


def test_its_mistakes_are_those_of_fit(run_yaml: Callable[..., Path], capsys: pytest.CaptureFixture) -> None:
    here = {"devices": 1, "num_nodes": 1, "accelerator": "cpu", "strategy": "auto"}
    path = run_yaml({"model": {"kd_weight": 1.5}, "trainer": here})
    said = []
    for command in ("fit", "plan"):
        assert main([command, "--config", str(path)]) == 1
        said.append(capsys.readouterr().err.splitlines()[-1])
    assert said[0] == said[1]
    assert "model.kd_weight must stay in [0, 1], got 1.5 at step 0." in said[0]


def test_a_teacher_in_a_store_is_known_by_its_manifest(
    rehearsal: Callable[..., Rehearsal], truncated_store: Path, teacher_dir: Path, tiny: Any
) -> None:
    found = request(rehearsal(OfflineTeacher(), truncated_store))
    manifest = read_manifest(truncated_store)
    assert manifest.teacher is not None
    assert found.teacher.params == manifest.teacher["num_parameters"]
    assert (found.store, found.live, found.gpus) == (str(truncated_store), False, 32)
    available = manifest.splits["train"].num_tokens
    assert found.tokens == 4 * 32 * tiny.block_size
    assert found.epochs == pytest.approx(found.tokens / available)
    other = request(rehearsal(OfflineTeacher(), truncated_store), teacher=Described(params=5e9, tokens=1e12))
    assert (other.teacher.params, other.about_teacher.tokens) == (5e9, 1e12)


def test_what_the_settings_say_goes_before_assumptions(rehearsal: Callable[..., Rehearsal], tiny: Any) -> None:
    spread = FSDP2Strategy(replicas=4)
    found = request(rehearsal(NoTeacher(), batch_size=2, strategy=spread, precision="bf16-true"))
    assert (found.assume.block_size, found.assume.micro_batch) == (tiny.block_size, 2)
    assert (found.assume.precision, found.strategy, found.shards, found.teacher) == ("bf16-true", "fsdp2", 8, None)


def test_several_teachers_count_together(rehearsal: Callable[..., Rehearsal], teacher_dir: Path) -> None:
    two = TeacherEnsemble({name: FrozenTeacher(str(teacher_dir)) for name in "ab"})
    one = request(rehearsal()).teacher
    assert request(rehearsal(two)).teacher.params == 2 * one.params
    assert request(rehearsal(two)).teacher.forward_flops == 2 * one.forward_flops


def test_epochs_are_as_long_as_on_all_gpus(rehearsal: Callable[..., Rehearsal], blocks: Path) -> None:
    of_store = read_manifest(blocks).splits["train"].num_blocks
    found = rehearsal(max_steps=-1, max_epochs=2, devices=4, num_nodes=1, batch_size=8)
    found.check(None)
    assert found.steps == pytest.approx(2 * of_store / 32, abs=2)
    assert found.datamodule.batch_size == 8  # type: ignore[union-attr]


@pytest.mark.parametrize("devices", ["auto", -1])
def test_gpus_may_be_left_open(rehearsal: Callable[..., Rehearsal], devices: Any) -> None:
    assert request(rehearsal(devices=devices, num_nodes=1), gpus=16).gpus == 16
    assert "leaves the number of GPUs open" in request(rehearsal(devices=devices, num_nodes=1)).notes[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": "16-mixed"}, "trainer.precision must not be float16, got 16-mixed"),
        ({"strategy": "fsdp"}, "trainer.strategy must be one that knows the student, got FSDPStrategy."),
        ({"strategy": FSDPStrategy()}, "trainer.strategy must be one that knows the student, got FSDPStrategy."),
        ({"strategy": "fsdp3"}, "trainer.strategy must be a name that Lightning knows or a class, got fsdp3."),
        ({"strategy": FSDP2Strategy(replicas=5)}, "replicas must divide the number of devices, got 5 for 32."),
        ({"config": {"vocab_size": 200}}, "The student's vocabulary must hold every id of the data, got 200 for 300"),
        ({"config": {"max_position_embeddings": 8}}, "A block must fit into the student's context, got 16 positions"),
        ({"teacher": OfflineTeacher()}, "OfflineTeacher must have a logit store to read, got plain token blocks."),
        ({"teacher": FrozenTeacher("no/such/model")}, "model.teacher.init_args.model must be a folder with a causal"),
        ({"path": "nowhere"}, "the data folder must exist, got nowhere."),
        ({"val_check_interval": 7, "accumulate_grad_batches": 2}, "got val_check_interval 7 with"),
    ],
)
def test_what_fit_refuses_is_refused(rehearsal: Callable[..., Rehearsal], settings: dict, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        rehearsal(**settings).check(None)
    assert message in str(error.value)


class Rows(LightningDataModule):
    """Somebody's own data: 96 rows of 17 tokens."""

    batch_size = 3

    def train_dataloader(self) -> DataLoader:
        rows = torch.arange(96)[:, None].expand(-1, 18)
        return DataLoader([{"input_ids": row[:-1], "labels": row[1:]} for row in rows], batch_size=self.batch_size)


def test_data_of_ones_own_are_counted_by_the_row(rehearsal: Callable[..., Rehearsal]) -> None:
    found = rehearsal(NoTeacher(), config={"vocab_size": 100}, max_steps=-1, max_epochs=2, devices=4, num_nodes=1)
    data = found.datamodule = Rows()
    found._planned_steps = lambda: found.trainer._planned_steps(found.module, data)  # type: ignore[attr-defined]
    planned = request(found)
    assert found.steps == 2 * 96 / (3 * 4)
    assert planned.tokens == 16 * 12 * Assumptions().block_size
    assert planned.student.vocab_size == 100


def test_a_student_that_goes_on_from_a_model(
    rehearsal: Callable[..., Rehearsal], teacher_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", lambda *_: pytest.fail("no weights are needed"))
    found = rehearsal()
    found.module.recipe = HFStudent(model=str(teacher_dir), activation_checkpointing=True)
    planned = request(found)
    assert planned.student.params == planned.teacher.params
    assert planned.assume.activation_checkpointing


def test_a_pruned_student_is_as_small_as_it_gets(rehearsal: Callable[..., Rehearsal], teacher_dir: Path) -> None:
    found = rehearsal()
    found.module.recipe = PrunedStudent(str(teacher_dir), layers=1)
    planned = request(found)
    assert planned.student.params_non_embedding < 0.6 * planned.teacher.params_non_embedding


def test_a_teacher_in_training_is_known_by_its_checkpoint(
    rehearsal: Callable[..., Rehearsal], tmp_path: Path, tiny: Any
) -> None:
    student = HFStudent({**tiny.config, "num_hidden_layers": 3}).build({"vocab_size": tiny.vocab_size})
    state = {f"student.{name}": tensor for name, tensor in student.state_dict().items()}
    ours = {"student_config": student.config(), "tokenizer": None}
    whole = {"global_step": 7, "state_dict": state, "pd_lightning": ours, "pytorch-lightning_version": "2.6.6"}
    save_checkpoint(whole, tmp_path / "last.ckpt")
    planned = request(rehearsal(CheckpointTeacher(str(tmp_path))))
    assert planned.teacher.params == sum(p.numel() for p in student.parameters())
    with pytest.raises(FileNotFoundError, match="folder of CheckpointTeacher must hold a checkpoint"):
        rehearsal(CheckpointTeacher(str(tmp_path / "none"))).check(None)


def test_gpus_that_the_settings_contradict_are_refused(rehearsal: Callable[..., Rehearsal]) -> None:
    with pytest.raises(ValueError, match=r"--gpus must be what trainer\.devices and .* say, got 5 for 32"):
        rehearsal().check(5)


def test_a_folder_without_weights_is_no_teacher(
    rehearsal: Callable[..., Rehearsal], teacher_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text((teacher_dir / "config.json").read_text())
    with pytest.raises(FileNotFoundError, match="must be a folder with weights, got"):
        rehearsal(FrozenTeacher(str(tmp_path))).check(None)
