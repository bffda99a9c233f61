"""Several teachers as one."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from transformers import AutoTokenizer

from pd_lightning.data import TokenBlocks
from pd_lightning.language_model import build_causal_lm
from pd_lightning.module import DistillationModule
from pd_lightning.record import Recorder
from pd_lightning.recording.recompute import recompute
from pd_lightning.selection import Selection
from pd_lightning.students import HFStudent
from pd_lightning.teachers import FrozenTeacher, NoTeacher, OfflineTeacher, Surroundings, TeacherEnsemble
from pd_lightning.trainer import PDTrainer

CPU = torch.device("cpu")
BATCH = {"input_ids": torch.arange(24).view(2, 12)}
EVERYTHING = slice(None)


@pytest.fixture(scope="module")
def second_dir(tmp_path_factory: pytest.TempPathFactory, tiny: Any, blocks: Path) -> Path:
    """A teacher of another architecture and width, with 20 ids of padding."""
    folder = tmp_path_factory.mktemp("second")
    torch.manual_seed(9)
    config = {**tiny.config, "model_type": "qwen3", "hidden_size": 48, "head_dim": 16, "vocab_size": 320}
    model: Any = build_causal_lm({**config, "initializer_range": 0.3})
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(blocks / "tokenizer").save_pretrained(folder)
    return folder


def make(one: Path, other: Path, weights: dict | None = None, **settings: Any) -> TeacherEnsemble:
    dtype = settings.pop("dtype", "auto")
    teachers = {"one": FrozenTeacher(str(one)), "other": FrozenTeacher(str(other), dtype=dtype)}
    ensemble = TeacherEnsemble(teachers, weights, **settings)
    ensemble.setup(Surroundings(CPU, tokenizer_vocab_size=300))
    return ensemble


def reference(ensemble: TeacherEnsemble, weights: list[float], mean: str) -> Tensor:
    """Log-probabilities of the mean from the formula, in float64."""
    each = []
    for teacher in ensemble.teachers.values():
        with torch.no_grad():
            logits = teacher.model.model(BATCH["input_ids"]).logits  # type: ignore[attr-defined]
        each.append(logits.double().flatten(0, 1)[:, :300].softmax(-1))
    if mean == "arithmetic":
        return (weights[0] * each[0] + weights[1] * each[1]).log()
    product = each[0] ** weights[0] * each[1] ** weights[1]
    return (product / product.sum(-1, keepdim=True)).log()


@pytest.mark.parametrize("mean", ["arithmetic", "geometric"])
@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
def test_the_mean_of_two_teachers(teacher_dir: Path, second_dir: Path, mean: Any, dtype: str) -> None:
    ensemble = make(teacher_dir, second_dir, {"one": 3.0, "other": 1.0}, mean=mean, dtype=dtype)
    targets = ensemble(BATCH)
    assert (ensemble.vocab_size, targets.head.vocab_size, len(targets)) == (300, 300, 24)
    assert targets.hidden.shape == (24, 32 + 48)
    whole = targets.rows(EVERYTHING)
    expected = reference(ensemble, [0.75, 0.25], mean)
    torch.testing.assert_close(whole.logprobs.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(whole.logprobs.double().exp().sum(-1), torch.ones(24).double())
    entropy = -(expected.exp() * expected).sum(-1)
    torch.testing.assert_close(whole.statistic("entropy").double(), entropy, rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", dtype=torch.float16):  # the student's, and no business of its teachers
        assert torch.equal(ensemble(BATCH).rows(EVERYTHING).logprobs, whole.logprobs)
    for start in range(0, 24, 5):
        rows = slice(start, start + 5)
        torch.testing.assert_close(targets.rows(rows).logprobs, whole.logprobs[rows], rtol=1e-5, atol=1e-5)
    assert ensemble.forward_seconds > 0


@pytest.mark.parametrize("mean", ["arithmetic", "geometric"])
def test_limits(teacher_dir: Path, second_dir: Path, mean: Any) -> None:
    """A teacher of weight 0 is left out; the mean of a teacher with itself is the teacher."""
    alone = FrozenTeacher(str(teacher_dir))
    alone.setup(Surroundings(CPU))
    expected = alone(BATCH).rows(EVERYTHING)
    certain = make(teacher_dir, second_dir, {"one": 2.0, "other": 0.0}, mean=mean)
    found = certain(BATCH).rows(EVERYTHING)
    assert torch.equal(found.logprobs, expected.logprobs)
    assert torch.equal(found.statistics["log_z"], expected.statistics["log_z"])
    twice = make(teacher_dir, teacher_dir, mean=mean)(BATCH).rows(EVERYTHING)
    torch.testing.assert_close(twice.logprobs, expected.logprobs, rtol=1e-5, atol=1e-5)


class Certain(nn.Module):
    """Gives one id all probability."""

    def __init__(self, token: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.full((5,), -torch.inf))
        self.logits.data[token] = 0.0

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.logits.expand(*input_ids.shape, 5)


def test_teachers_that_exclude_one_another() -> None:
    ensemble = TeacherEnsemble({"a": FrozenTeacher(Certain(1)), "b": FrozenTeacher(Certain(3))}, {"a": 1, "b": 3})
    ensemble.setup(Surroundings(CPU))
    found = ensemble({"input_ids": torch.zeros(1, 2, dtype=torch.long)}).rows(EVERYTHING).logprobs.exp()
    torch.testing.assert_close(found, torch.tensor([[0, 0.25, 0, 0.75, 0]] * 2))


def test_it_is_described(teacher_dir: Path, second_dir: Path) -> None:
    ensemble = make(teacher_dir, second_dir, {"one": 3.0, "other": 1.0})
    described = ensemble.describe()
    assert described["name"] == "0.75 one + 0.25 other"
    assert described["weights"] == {"one": 0.75, "other": 0.25}
    assert described["teachers"] == {name: teacher.describe() for name, teacher in ensemble.teachers.items()}
    same, others = make(teacher_dir, second_dir, {"one": 6.0, "other": 2.0}), make(teacher_dir, second_dir)
    geometric = make(teacher_dir, second_dir, {"one": 3.0, "other": 1.0}, mean="geometric")
    assert same.describe() == described
    digests = {described["weights_digest"], others.describe()["weights_digest"], geometric.describe()["weights_digest"]}
    assert len(digests) == 3
    assert ensemble.form.kind == "dense"
    assert ensemble.form.vocab_size == 300


def test_mistakes(teacher_dir: Path, second_dir: Path) -> None:
    frozen: Any = FrozenTeacher(str(teacher_dir))
    for teacher in (OfflineTeacher(), NoTeacher()):
        with pytest.raises(ValueError, match=rf"must compute their logits, got {type(teacher).__name__} as b\. Set"):
            TeacherEnsemble({"a": frozen, "b": teacher})
    with pytest.raises(ValueError, match=r"must have a teacher, got none\. Set model\.teacher\.init_args\.teachers"):
        TeacherEnsemble({})
    with pytest.raises(ValueError, match=r"must name its teachers a, b, got a, c\. Correct .*weights"):
        TeacherEnsemble({"a": frozen, "b": frozen}, {"a": 1.0, "c": 1.0})
    for weights in ({"a": -1.0}, {"a": 0.0}, {"a": float("nan")}, {"a": float("inf")}):
        with pytest.raises(ValueError, match="must be 0 or more, one of them above, got"):
            TeacherEnsemble({"a": frozen}, weights)
    ensemble = TeacherEnsemble({"a": frozen, "b": FrozenTeacher(str(second_dir))})
    with pytest.raises(ValueError, match=r"share a vocabulary, got 300 ids \(a\) and 320 ids \(b\)\. Set"):
        ensemble.setup(Surroundings(CPU))
    with pytest.raises(ValueError, match=r"got 300 ids \(a\) and 320 ids \(b\) for 310 tokens\. Set"):
        ensemble.setup(Surroundings(CPU, tokenizer_vocab_size=310))
    missing = TeacherEnsemble({"a": frozen, "b": FrozenTeacher("./none")})
    with pytest.raises(FileNotFoundError, match=r"Set model\.teacher\.init_args\.teachers\.b\.init_args\.model\."):
        missing.setup(Surroundings(CPU))
    with pytest.raises(ValueError, match="Teacher and student must share a vocabulary, got 300 and 250 ids"):
        ensemble.setup(Surroundings(CPU, vocab_size=250, tokenizer_vocab_size=300))


@pytest.fixture
def mesh() -> Iterator[DeviceMesh]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1, 1), mesh_dim_names=("data_parallel", "tensor_parallel"))
    distributed.destroy_process_group()


def test_each_teacher_is_spread_over_the_ranks(teacher_dir: Path, second_dir: Path, mesh: DeviceMesh) -> None:
    from torch.distributed.tensor import DTensor

    whole = make(teacher_dir, second_dir)
    spread = TeacherEnsemble({"one": FrozenTeacher(str(teacher_dir)), "other": FrozenTeacher(str(second_dir))})
    spread.setup(Surroundings(CPU, tokenizer_vocab_size=300, device_mesh=mesh))
    for teacher in spread.teachers.values():
        parameters = teacher.model.parameters()  # type: ignore[attr-defined]
        assert all(isinstance(parameter, DTensor) for parameter in parameters)
    assert torch.equal(spread(BATCH).rows(EVERYTHING).logprobs, whole(BATCH).rows(EVERYTHING).logprobs)
    assert spread.describe() == whole.describe()


def quiet(**settings: Any) -> PDTrainer:
    return PDTrainer(accelerator="cpu", logger=False, enable_progress_bar=False, barebones=False, **settings)


def test_recorded_or_live_it_trains_alike(tmp_path: Path, teacher_dir: Path, second_dir: Path, blocks: Path) -> None:
    """The store of an ensemble, all ids of it in float32, is as good as the ensemble; and is computed again."""
    teachers: Any = {"one": FrozenTeacher(str(teacher_dir)), "other": FrozenTeacher(str(second_dir))}
    ensemble = TeacherEnsemble(teachers, {"one": 3.0, "other": 1.0})
    recorder = Recorder(ensemble, str(tmp_path / "store"), Selection(p=1.0, k=300), "exact")
    quiet().record(recorder, TokenBlocks(str(blocks), batch_size=4, max_train_blocks=8, max_val_blocks=4))
    config = {"model_type": "llama", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    ends = []
    for teacher, path in ((ensemble, blocks), (OfflineTeacher(), tmp_path / "store")):
        student = HFStudent(config={**config, "num_attention_heads": 2, "initializer_range": 0.2})
        module = DistillationModule(student, teacher, kd_weight=0.5)
        data = TokenBlocks(str(path), batch_size=4, max_train_blocks=8, max_val_blocks=4, seed=1)
        fitting = {"enable_checkpointing": False, "enable_model_summary": False, "max_steps": 2, "limit_val_batches": 0}
        quiet(**fitting).fit(module, data)
        assert module.teacher_seconds > 0 or teacher is not ensemble
        ends.append(module.state_dict())
    for name, tensor in ends[0].items():
        torch.testing.assert_close(tensor, ends[1][name], rtol=1e-4, atol=1e-5)
    again = recompute(tmp_path / "store", 4)
    assert again["same_weights"]
    assert again["mean_kl"] < 1e-5
    assert again["worst"]["logprobs"]["difference"] < 1e-4


def test_no_logits_of_all_positions_are_made(
    teacher_dir: Path, second_dir: Path, blocks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    head = FrozenTeacher._head
    monkeypatch.setattr(FrozenTeacher, "_head", lambda self, hidden: seen.append(len(hidden)) or head(self, hidden))
    teachers: Any = {"one": FrozenTeacher(str(teacher_dir)), "other": FrozenTeacher(str(second_dir))}
    config = {"model_type": "llama", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    student = HFStudent(config={**config, "num_attention_heads": 2})
    module = DistillationModule(student, TeacherEnsemble(teachers), kd_weight=0.5, chunk_size=7)
    fitting = {"enable_checkpointing": False, "enable_model_summary": False, "max_steps": 1, "limit_val_batches": 0}
    quiet(**fitting).fit(module, TokenBlocks(str(blocks), batch_size=4))
    assert max(seen) == 7
    assert sum(seen) == 2 * 4 * 16, "each teacher says each position once"


@pytest.mark.slow
def test_two_ranks_record_what_one_does(tmp_path: Path, teacher_dir: Path, second_dir: Path, blocks: Path) -> None:
    """Both teachers spread over the ranks by FSDP2, in processes of their own."""
    frozen = "pd_lightning.teachers.FrozenTeacher"
    models = {"one": teacher_dir, "other": second_dir}
    teachers = {name: {"class_path": frozen, "init_args": {"model": str(path)}} for name, path in models.items()}
    teacher = {"class_path": "pd_lightning.teachers.TeacherEnsemble", "init_args": {"teachers": teachers}}
    data = {"path": str(blocks), "batch_size": 4, "max_train_blocks": 14, "max_val_blocks": 5}
    settings: dict[str, Any] = {
        "model": {"teacher": teacher, "selection": {"p": 0.9, "k": 20}, "blocks_per_chunk": 8},
        "data": {"class_path": "pd_lightning.data.TokenBlocks", "init_args": data},
        "trainer": {"accelerator": "cpu", "enable_progress_bar": False, "logger": False},
    }
    sharded = {"strategy": {"class_path": "pd_lightning.strategies.FSDP2Strategy"}, "devices": 2}
    for name, trainer in (("one", {}), ("two", sharded)):
        settings["model"]["output_dir"] = str(tmp_path / name)
        settings["trainer"] |= trainer
        config = tmp_path / f"{name}.yaml"
        config.write_text(yaml.safe_dump(settings))
        command = [sys.executable, "-m", "pd_lightning", "record", "--config", str(config)]
        subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, timeout=200)
    files = {path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file()}
    assert len(files) > 6
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in files)
