"""The parts of a plan against formulas written anew, and `pd-lightning plan` from numbers."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pd_lightning.cli import main
from pd_lightning.objective import chunking
from pd_lightning.plan import memory
from pd_lightning.plan.break_even import break_even
from pd_lightning.plan.hardware import gpu_named
from pd_lightning.plan.memory import memory_of
from pd_lightning.plan.settings import Assumptions, Described
from pd_lightning.plan.sizes import size_of
from pd_lightning.plan.worth import compare, optimum, outside
from pd_lightning.scaling.published import distilled_loss, supervised_loss

ROOT = Path(__file__).parents[2]
NUMBERS = ["--student.params=1.9e9", "--tokens=100e9"]
TAUGHT = [*NUMBERS, "--teacher.params=9.4e9"]


def llama(shape: Any) -> Described:
    fields = {
        "model_type": "llama",
        "vocab_size": 151_552,
        "num_hidden_layers": shape.layers,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.ffn,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.groups,
        "tie_word_embeddings": False,
    }
    return Described(config=fields)


def test_memory_is_that_of_the_page_on_scale(benchmark: Any) -> None:
    module = benchmark("scale")  # whose tables docs/scale.md shows
    student = size_of(llama(module.STUDENT), "student", Assumptions())[0]
    teacher = size_of(llama(module.TEACHER), "teacher", Assumptions())[0]
    rows = {row[0]: row[1:] for row in module.memory(module.Assumptions()).rows}
    assume = Assumptions(micro_batch=2)
    for column, gpus in enumerate((1, 8, 64, 1024)):
        strategy: Any = "ddp" if gpus == 1 else "fsdp2"
        offline = memory_of(student, None, strategy, gpus, assume)
        online = memory_of(student, teacher, strategy, gpus, assume)
        again = memory_of(student, teacher, strategy, gpus, replace(assume, activation_checkpointing=True))
        shown = {
            "weights, float32": offline["weights"],
            "Adam, two of float32": offline["optimizer"],
            "activations": offline["activations"],
            "**offline, together**": sum(offline.values()),
            "**online, together**, with the teacher's logits of a chunk": sum(online.values()),
            "online, activations computed again": sum(again.values()),
        }
        for name, value in shown.items():
            assert value / 1e9 == pytest.approx(float(rows[name][column]), abs=0.15), (name, gpus)


def test_a_chunk_of_logits_is_that_of_the_objective() -> None:
    assert (memory.CHUNK_BYTES, memory.FEWEST_ROWS) == (chunking._DEVICE_BYTES, chunking._FEWEST_ROWS)


def test_ranks_share_weights_alone() -> None:
    student = size_of("1B", "student", Assumptions())[0]
    one, eight = (memory_of(student, None, "fsdp2", gpus, Assumptions()) for gpus in (1, 8))
    assert eight["weights"] == one["weights"] / 8
    assert eight["activations"] == one["activations"]
    whole = memory_of(student, None, "ddp", 8, Assumptions(precision="bf16-true"))
    assert (whole["weights"], whole["optimizer"], whole["weights at work"]) == (2e9, 4e9, 0)


def test_recording_pays_from_the_second_pass_and_later_with_storage() -> None:
    assert break_even(100.0, 1, None, 0.0) == {
        "passes_to_pay": 2,
        "planned_passes": 1,
        "offline_gpu_hours": 100.0,
        "online_gpu_hours": 100.0,
        "storage_cost": 0.0,
        "cheaper": "equal",
    }
    dear = break_even(100.0, 3, 2.0, 400.0)  # storage costs as much as 200 hours: three passes cost the same
    assert (dear["passes_to_pay"], dear["offline_gpu_hours"], dear["online_gpu_hours"]) == (4, 300.0, 300.0)
    assert break_even(100.0, 4, 2.0, 400.0)["cheaper"] == "offline"
    assert break_even(100.0, 2, 2.0, 400.0)["cheaper"] == "online"


def test_plain_training_is_given_as_much_compute() -> None:
    student, teacher = (size_of(text, "student", Assumptions())[0] for text in ("1B", "8B"))
    found = compare(student, teacher, 20e9, 160e9, 2.0, (0.5, 0.0))
    assert found["distilled_loss"] == distilled_loss(1e9, 20e9, 2.0)
    assert found["scenarios"]["logits are there"]["plain_loss"] == found["plain_loss_at_equal_tokens"]
    for each in [found["chosen"], *found["scenarios"].values()]:
        paid = 6 * 1e9 * 20e9 + 2 * 8e9 * (each["delta_logits"] * 20e9 + each["delta_pretrain"] * 3 * 160e9)
        assert 6 * 1e9 * each["plain_tokens"] == pytest.approx(paid)
        assert each["plain_loss"] == supervised_loss(1e9, each["plain_tokens"])
        assert each["distilling_wins"] == (found["distilled_loss"] < each["plain_loss"])
    # The paper's conclusion: it pays where the teacher is there, not where it is trained for one student.
    assert found["scenarios"]["logits are there"]["distilling_wins"]
    assert not found["scenarios"]["teacher trained for this"]["distilling_wins"]


@pytest.mark.parametrize("teacher", [None, (2.2, 16e9, 1e20)])
def test_no_other_student_is_better_for_the_budget(teacher: tuple[float, float, float] | None) -> None:
    budget = 1e21
    best = optimum(budget, 2.0, teacher)
    loss, forward, paid = teacher or (0.0, 0.0, 0.0)
    assert best is not None
    assert 6 * best["params"] * best["tokens"] + forward * best["tokens"] + paid == pytest.approx(budget)
    for factor in (0.5, 0.9, 1.1, 2.0):
        params = factor * best["params"]
        tokens = (budget - paid) / (6 * params + forward)
        other = supervised_loss(params, tokens) if teacher is None else distilled_loss(params, tokens, loss)
        assert other > best["loss"]
    assert not best["at_edge"]
    assert optimum(1e19, 2.0, (2.0, 16e9, 1e20)) is None


def test_the_best_student_stays_within_the_data_of_the_law() -> None:
    smallest, largest = (optimum(budget, 2.0) for budget in (1e15, 1e26))
    assert smallest is not None
    assert largest is not None
    assert (smallest["params"], largest["params"]) == pytest.approx((143e6, 12.6e9))
    assert smallest["at_edge"]
    assert largest["at_edge"]


def test_extrapolation_is_named() -> None:
    assert outside("student", 1e9, 100e9) is None
    said = str(outside("student", 2e10, 3e9))
    assert "the student has 2e+10 parameters, outside the law's data (143M to 12.6B" in said
    assert "6e+11 tokens" in str(outside("teacher", 1e9, 600e9))


@pytest.mark.parametrize("name", ["H100", "h100", "RTX 4090", "rtx-4090", "NVIDIA A100"])
def test_gpus_are_found_however_they_are_written(name: str) -> None:
    assert gpu_named(name).tflops in (989, 165, 312)
    assert gpu_named(name, memory_gb=7).memory_gb == 7
    assert gpu_named("of tomorrow", 5000, 300).tflops == 5000


def test_hours_are_work_by_speed(planned: Callable[..., Any]) -> None:
    plan = planned(*TAUGHT, "--gpus=64", "--price=2.5", "--epochs=2", "--assume.mfu=0.3", "--assume.teacher_mfu=0.6")
    student, recording = 6 * 1.9e9 * 100e9, 2 * 9.4e9 * 50e9
    runs = plan["runs"]
    assert plan["flops"]["student_training"] == pytest.approx(student)
    assert runs["plain or offline"]["gpu_hours"] == pytest.approx(student / (989e12 * 0.3) / 3600)
    assert runs["recording"]["gpu_hours"] == pytest.approx(recording / (989e12 * 0.6) / 3600)
    together = runs["plain or offline"]["gpu_hours"] + 2 * runs["recording"]["gpu_hours"]
    assert runs["online"]["gpu_hours"] == pytest.approx(together)
    assert runs["online"]["wall_hours"] == pytest.approx(together / 64)
    assert runs["online"]["price"] == pytest.approx(together * 2.5)
    store = plan["store"]
    assert store["bytes"] == pytest.approx(store["bytes_per_token"] * 50e9)
    seconds = runs["plain or offline"]["wall_hours"] * 3600
    assert store["read_bytes_per_second"] == pytest.approx(100e9 / seconds * store["bytes_per_token"])
    assert store["read_bytes_per_second_per_gpu"] == pytest.approx(store["read_bytes_per_second"] / 64)
    assert plan["break_even"]["planned_passes"] == 2
    assert plan["worth"]["chosen"]["delta_logits"] == 0.5
    assert plan["optimum"]["budget"] == pytest.approx(student + 0.5 * 2 * 9.4e9 * 100e9)


def test_a_teacher_of_which_more_is_known(planned: Callable[..., Any]) -> None:
    guessed = planned(*TAUGHT)["teacher"]
    assert guessed["tokens"] == 20 * 9.4e9
    assert guessed["loss"] == supervised_loss(9.4e9, 188e9)
    told = planned(*TAUGHT, "--teacher.tokens=10e12", "--teacher.loss=1.9")
    assert (told["teacher"]["tokens"], told["teacher"]["loss"]) == (10e12, 1.9)
    assert told["flops"]["teacher_training"] == pytest.approx(6 * 9.4e9 * 10e12)
    assert not any("what the law gives" in line for line in told["assumptions"])


def test_without_a_teacher_there_is_no_store(planned: Callable[..., Any]) -> None:
    plan = planned(*NUMBERS)
    assert plan["teacher"] is None
    assert not plan.keys() & {"store", "break_even", "worth", "optimum"}
    assert list(plan["runs"]) == ["plain or offline"]


def test_every_assumption_is_printed(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    path = tmp_path / "new" / "plan.json"
    flags = ["--assume.storage_price=200", "--price=2", "--students=4", f"--output_path={path}"]
    assert main(["plan", *TAUGHT, *flags]) == 0
    out = capsys.readouterr().out
    for field in ("mfu", "teacher_mfu", "block_size", "micro_batch", "precision", "optimizer_bytes", "vocab_size"):
        assert f"--assume.{field}" in out
    for field in ("teacher_bytes", "delta_logits", "delta_pretrain", "storage_price", "storage_months"):
        assert f"--assume.{field}" in out
    for said in ("989 TFLOPS", "142.8 bytes a token", "42.5 ids", "arXiv 2502.08606", "recording pays from 3 passes"):
        assert said in out
    plan = json.loads(path.read_text())
    assert plan["break_even"]["storage_cost"] == pytest.approx(plan["store"]["bytes"] / 1e12 * 200)
    assert all(line in out for line in plan["assumptions"])


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--teacher.loss=0.5", "the teacher's loss 0.5 is below 1.22, which no model reaches by this law"),
        ("--teacher.loss=50", "the teacher's loss 50.0000 is no better than the student's without it, 2."),
        ("--selection.k=200000", "a position has 128,256 ids, of which no 200,000 can be kept (--selection.k)"),
        (
            "--selection.k=1000",
            "sizes of stores were measured up to k 100, so that of k 1,000 is a guess: record a pilot",
        ),
    ],
)
def test_figures_beyond_what_is_known_are_warned_of(capsys: pytest.CaptureFixture, flag: str, message: str) -> None:
    assert main(["plan", *TAUGHT, "--json"]) == 0
    before = json.loads(capsys.readouterr().out)["warnings"]
    assert main(["plan", *TAUGHT, flag, "--json"]) == 0
    (new,) = set(json.loads(capsys.readouterr().out)["warnings"]) - set(before)
    assert message in new


def test_what_does_not_fit_is_warned_of(planned: Callable[..., Any]) -> None:
    (said,) = planned("--student=7B", "--tokens=1e9", "--gpu=a100", "--assume.micro_batch=2")["warnings"]
    assert said.startswith("plain or offline needs 188 GB of a GPU's 80: more GPUs under fsdp2, fewer")
    (said,) = planned("--student=4B", "--tokens=1e9", "--gpu=a100", "--assume.micro_batch=2")["warnings"]
    assert said.endswith("it fits with activation checkpointing")
    assert planned("--student=7B", "--tokens=1e9", "--gpus=64", "--strategy=fsdp2")["warnings"] == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tokens=1e9"], "plan must know the student, got none. Set --student.params"),
        (["--student=1B"], "plan must know how long the run is, got no tokens. Set --tokens"),
        (["--student=1B", "--tokens=-5"], "tokens must be above 0, got -5. Set --tokens above 0"),
        (["--student=1B", "--tokens=1e300"], "tokens must be at most 1e+30, got 1e+300. Lower --tokens."),
        (["--student=1e40", "--tokens=1e9"], "student.params must be at most 1e+30, got 1e+40."),
        ([*NUMBERS, "--gpus=0"], "gpus must be above 0, got 0. Set --gpus above 0"),
        ([*NUMBERS, "--gpu=H1000"], "gpu must be one of the table, got H1000. Did you mean H100"),
        ([*NUMBERS, "--gpu=abacus"], "Known are A10, A100,"),
        ([*NUMBERS, "--assume.mfu=40"], "assume.mfu must be above 0 and at most 1, got 40"),
        ([*TAUGHT, "--selection.p=95"], "selection.p must be above 0 and at most 1, got 95"),
        ([*TAUGHT, "--selection.k=0"], "selection.k must be above 0, got 0."),
        ([*TAUGHT, "--store=nowhere"], "the data folder must exist, got nowhere."),
        ([*TAUGHT, "--assume.storage_price=20"], "Set --price in the same currency."),
        ([*TAUGHT, "--assume.delta_logits=-1"], "assume.delta_logits must be at least 0, got -1."),
        (["--student.parms=1e9", "--tokens=1e9"], "has no setting 'parms'. Did you mean 'params'?"),
    ],
)
def test_nonsense_is_refused(capsys: pytest.CaptureFixture, flags: list[str], message: str) -> None:
    assert main(["plan", *flags]) in (1, 2)
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_numbers_are_finite(planned: Callable[..., Any]) -> None:
    def numbers(node: Any) -> Any:
        if isinstance(node, dict):
            for value in node.values():
                yield from numbers(value)
        elif isinstance(node, float):
            yield node

    assert all(math.isfinite(number) for number in numbers(planned(*TAUGHT)))
