"""`pd-lightning study` as it is typed."""

import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from pd_lightning.cli import main
from pd_lightning.study import command as study_command
from pd_lightning.study import prepare as preparing
from pd_lightning.study import slurm
from pd_lightning.study.settings import Axis, Step, StudySettings
from pd_lightning.study.slurm import submit
from pd_lightning.study.trial import command as real_command

pytest.importorskip("optuna")
Ask = Callable[..., StudySettings]


@pytest.fixture(autouse=True)
def checked(monkeypatch: pytest.MonkeyPatch) -> list[StudySettings]:
    """Keeps the process out that parses options, which takes seconds; gives what it would have been asked."""
    asked: list[StudySettings] = []
    monkeypatch.setattr(study_command, "check_options", asked.append)
    return asked


def write(study: StudySettings) -> None:
    settings = {name: value for name, value in asdict(study).items() if value is not None}
    Path("study.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))


def test_a_study_from_its_yaml_to_its_report(ask: Ask, trainings: list[str], capsys: pytest.CaptureFixture) -> None:
    write(ask(seeds=[1, 2], title="Mine"))
    assert main(["study", "--config", "study.yaml", "--dry_run"]) == 0
    shown = capsys.readouterr().out
    assert "12 runs, 120 optimizer steps in all." in shown
    assert "Controls at equal FLOPs come on top" in shown
    assert trainings == []
    assert main(["study", "--config", "study.yaml", "--seeds", "[1, 2, 3]"]) == 0
    shown = capsys.readouterr().out
    assert len(trainings) == 24
    assert "[24/24] " in shown
    assert f"Wrote {Path('out/report.html')}" in shown
    assert "<h1>Mine</h1>" in Path("out/report.html").read_text()
    best = yaml.safe_load(Path("out/best.yaml").read_text())
    assert best["model"]["transforms"]["truncate"]["init_args"]["k"] == 50
    Path("out/report.html").unlink()
    assert main(["study", "--config", "study.yaml", "--seeds=[1, 2, 3]", "--report_only", "--threads=1"]) == 0
    assert Path("out/report.html").exists()
    assert "take a new start" not in capsys.readouterr().out
    assert main(["study", "--config", "study.yaml", "--seeds=[1, 2]", "--metric=val/kd_loss", "--report_only"]) == 0
    assert "as it was started; other values of seeds, metric take a new start." in capsys.readouterr().out
    assert len(trainings) == 24


def test_a_file_in_the_place_of_its_folder(ask: Ask, trainings: list[str], capsys: pytest.CaptureFixture) -> None:
    write(ask())
    Path("out").write_text("mine")
    assert main(["study", "--config", "study.yaml"]) == 1
    assert "out. Choose another path: a file stands where a folder must be" in capsys.readouterr().err


def test_options_are_checked_where_they_are_new(ask: Ask, trainings: list[str], checked: list[StudySettings]) -> None:
    """A study that goes on and its workers don't wait for it."""
    write(ask())
    numbers = []
    for arguments in (["--dry_run"], [], [], ["--seeds=[1, 2]"], ["--report_only"]):
        assert main(["study", "--config", "study.yaml", *arguments]) == 0
        numbers.append(len(checked))
    assert numbers == [1, 2, 2, 3, 3]


def test_what_is_saved_is_what_was_asked(ask: Ask, trainings: list[str]) -> None:
    """A worker is told by the file alone, classes and nulls included."""
    overlay = {"model": {"transforms": {"truncate": None}, "loss": {"class_path": "MeanSquaredError"}}}
    study = ask(fit=[*ask().fit, {"trainer": {"callbacks": [{"class_path": "RunProgress"}]}}])
    write(study)
    assert (
        main(["study", "--config", "study.yaml", f"--axes.cut={{options: {{0.5: {overlay}}}}}".replace("None", "null")])
        == 0
    )
    saved = yaml.safe_load(Path("out/study.yaml").read_text())
    assert saved["fit"] == study.fit
    assert saved["axes"]["cut"]["options"] == {"0.5": overlay}
    assert len(trainings) == 9
    assert main(["study", "--config", "out/study.yaml", "--workers=1", "--report=false"]) == 0
    assert len(trainings) == 9, "it asks for the same"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers=0"], "workers must be at least 1 and gpus_per_worker not negative, got 0 and 0"),
        (["--report_only"], "output_dir must hold a study, got out, which has no study.json"),
        (["--teachers.store=3"], "teachers"),
        (["--teachers={store: {param: 3}}"], "teachers.store must be the run folder of a fit, or figures named params"),
        (["--fit+={trainer: {logger: {init_args: {api_key: abc}}}}"], "trainer.logger.init_args.api_key must hold no"),
        (["--fit=[{model: {}}]"], "fit must have data as a mapping of settings, got None"),
        (["--slurm.timeout_min=5", "--gpus_per_worker=1"], "gpus_per_worker must be left out with slurm"),
        (["--controls.blocks=nowhere"], "controls.blocks must be a folder of token blocks, got nowhere, which is none"),
        (["--teachers={store: nowhere}"], "teachers.store must be the run folder of a fit with a summary.json, got no"),
        (["--fit+=nowhere.yaml"], "of a study must name YAML files, got nowhere.yaml, which does not exist"),
        (["--prepare={x: {command: tokenise}}"], "tokenise"),
        (["--seeds=3"], "seeds: the value must be of type list, got 3. Write [3]."),
        (["--metric=val/top1_agreement"], "direction must be maximize for val/top1_agreement, got minimize."),
        (["--direction=maximize"], "direction must be minimize for val/lm_loss, got maximize."),
        (["--axes.k.values=5"], "the value must be of type list, got 5. Write [5]."),
        (["--axes.k.path=model.nothing.k"], "axes.k.path: model.nothing.k must name a setting below one that"),
    ],
)
def test_mistakes_are_told_before_anything_runs(
    ask: Ask, trainings: list[str], capsys: pytest.CaptureFixture, arguments: list[str], message: str
) -> None:
    write(ask())
    assert main(["study", "--config", "study.yaml", *arguments]) in (1, 2)
    said = capsys.readouterr().err
    assert message in said
    assert "abc" not in said
    assert trainings == []


def test_commands_before_the_trials_run_once(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(preparing, "command", lambda arguments, *_: ran.append(arguments) or 0)
    steps = {
        "blocks": Step("tokenize", [{"output_dir": "blocks"}, {"vocab_size": 300}]),
        "teacher": Step("fit", [{"trainer": {"default_root_dir": "teacher"}}]),
    }
    said: list[str] = []
    preparing.prepare(ask(prepare=steps), said.append)
    preparing.prepare(ask(prepare=steps), said.append)
    assert [arguments[0] for arguments in ran] == ["tokenize", "fit"]
    assert ran[1][-2:] == ["--ckpt_path", "auto"]
    assert said == ["prepare: tokenize (blocks)", "prepare: fit (teacher)"]
    assert yaml.safe_load(Path(ran[0][2]).read_text()) == {"output_dir": "blocks", "vocab_size": 300}
    assert "RunSummary" in Path(ran[1][2]).read_text()
    changed = {**steps, "blocks": Step("tokenize", [{"output_dir": "blocks", "vocab_size": 400}])}
    with pytest.raises(ValueError, match=r"prepare\.blocks must be as it was when it ran, got other settings"):
        preparing.prepare(ask(prepare=changed))


def test_a_command_that_fails_before_the_trials_is_told(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(arguments: list[str], log: Path, *_: Any) -> int:
        log.write_text("at work\npd-lightning: error: no text there.\n")
        return 1

    monkeypatch.setattr(preparing, "command", failing)
    with pytest.raises(ValueError, match=r"prepare\.blocks must run to its end, got exit code 1 .*:\nno text there\."):
        preparing.prepare(ask(prepare={"blocks": Step("tokenize", [])}), lambda _: None)
    with pytest.raises(ValueError, match=r"prepare\.teacher must have a trainer\.default_root_dir"):
        preparing.prepare(ask(prepare={"teacher": Step("fit", [])}), lambda _: None)


@pytest.mark.parametrize(
    ("visible", "worker", "expected"), [(None, 1, "2,3"), ("4,5,6,7", 0, "4,5"), ("4,5,6,7", 1, "6,7")]
)
def test_workers_have_gpus_of_their_own(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, worker: int, expected: str
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert study_command._gpus(worker, 2) == {"CUDA_VISIBLE_DEVICES": expected}
    assert study_command._gpus(worker, 0) == {}


def test_more_gpus_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(ValueError, match="must be at most the GPUs in CUDA_VISIBLE_DEVICES, got 0,1 and worker 2"):
        study_command._gpus(1, 2)


def test_no_worker_starts_where_another_has_no_gpu(
    ask: Ask, trainings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr(study_command.subprocess, "Popen", lambda *_, **__: pytest.fail("a worker was left alone"))
    with pytest.raises(ValueError, match="and worker 3 with 1"):
        study_command._run(ask(), None, workers=3, gpus_per_worker=1)
    assert trainings == []


def test_jobs_run_what_failed_again_on_their_own_cores(
    ask: Ask, trainings: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    write(ask(axes={"lr": Axis(path="model.lr.peak", values=[0.01, 666])}))
    assert main(["study", "--config", "study.yaml", "--report=false"]) == 0
    submitted: list[int] = []
    monkeypatch.setattr(slurm, "submit", lambda _, workers, *__: submitted.append(workers))
    assert main(["study", "--config", "study.yaml", "--retry_failed", "--slurm.timeout_min=5", "--workers=9"]) == 0
    assert "2 trials that failed run again." in capsys.readouterr().out
    assert submitted == [9]
    assert yaml.safe_load(Path("out/study.yaml").read_text())["threads"] is None


def test_parameters_that_are_none_of_submitit(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    from pd_lightning.study.settings import Slurm

    with pytest.raises(ValueError, match=r"slurm\.parameters must be those of submitit"):
        submit(Slurm(parameters={"nonsense": 1}, cluster="local"), 1, ["true"], tmp_path, {})


def test_a_command_s_output_is_kept(tmp_path: Path) -> None:
    assert real_command(["--version"], tmp_path / "x" / "log", threads=1) == 0
    assert (tmp_path / "x" / "log").read_text().startswith("pd-lightning ")


def test_a_worker_that_ends_badly_costs_no_report(
    ask: Ask, trainings: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(study_command, "_worker_command", lambda _: [sys.executable, "-c", "raise SystemExit(3)"])
    write(ask())
    assert main(["study", "--config", "study.yaml", "--workers=2"]) == 1
    assert "All workers must end well, got exit codes [3] of the others." in capsys.readouterr().err
    assert Path("out/report.html").exists()
    assert len(trainings) == 8
