"""docs/evaluation.md says what there is: its YAML runs, and all that it names is logged."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pd_lightning.cli import main

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```yaml\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
FIGURES = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", PAGE, flags=re.MULTILINE))))
OF_TEXTS, OF_STORES, OF_TEACHERS = {"word_perplexity"}, {"kl_bucket", "acceptance_bucket"}, {"kl", "acceptance"}
FOLDER = "runs/demo/offline"


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Any, blocks: Path, truncated_store: Path, teacher_dir: Path
) -> Any:
    """Run a command with the page's three callbacks, and the teacher that is asked for."""
    monkeypatch.chdir(tmp_path)
    Path("runs/demo").mkdir(parents=True)
    Path("runs/demo/blocks").symlink_to(truncated_store)
    Path("texts/prose").mkdir(parents=True)
    Path("texts/prose/one.txt").write_text("Some words, and a few more.\n" * 8)
    Path("texts/chats.jsonl").write_text(json.dumps({"text": "Hello? Hello!"}) + "\n")
    Path("my_tasks").mkdir()
    Path("my_tasks/choices.yaml").write_text(BLOCKS[2])
    rolling = {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "question"}
    texts = {**yaml.safe_load(BLOCKS[2]), "task": "texts", **rolling, "metric_list": [{"metric": "bits_per_byte"}]}
    Path("my_tasks/texts.yaml").write_text(yaml.safe_dump(texts))
    question = {"question": "import", "choices": [" os", " def"], "answer": 0}
    Path("my_tasks/choices.jsonl").write_text(json.dumps(question) + "\n")
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    callbacks = [entry for number in (0, 1, 3) for entry in yaml.safe_load(BLOCKS[number])["trainer"]["callbacks"]]
    for entry in callbacks[1:]:
        entry["init_args"]["every_n_steps"] = 2
    teachers = {
        "OfflineTeacher": {"class_path": "pd_lightning.teachers.OfflineTeacher"},
        "FrozenTeacher": {
            "class_path": "pd_lightning.teachers.FrozenTeacher",
            "init_args": {"model": str(teacher_dir)},
        },
    }

    def run(command: str, teacher: str, *arguments: str) -> EventAccumulator:
        settings = {
            "model": {
                "student": {"class_path": "pd_lightning.students.HFStudent", "init_args": {"config": tiny.config}},
                "teacher": teachers[teacher],
            },
            "data": {"class_path": "pd_lightning.data.TokenBlocks", "init_args": {"path": str(truncated_store)}},
            "trainer": {
                "accelerator": "cpu",
                "max_steps": 2,
                "val_check_interval": 2,
                "limit_val_batches": 1,
                "default_root_dir": FOLDER,
                "enable_progress_bar": False,
                "callbacks": callbacks,
            },
        }
        Path("settings.yaml").write_text(yaml.safe_dump(settings))
        assert main([command, "--config", "settings.yaml", *arguments]) == 0
        newest = max(Path(FOLDER).rglob("events.*"), key=lambda path: path.stat().st_mtime_ns)
        events = EventAccumulator(str(newest))
        events.Reload()
        return events

    return run


def figures(events: EventAccumulator, domain: str) -> set[str]:
    start = f"val/{domain}/"
    return {tag.removeprefix(start) for tag in events.Tags()["scalars"] if tag.startswith(start)}


def test_its_yaml_logs_every_figure_that_it_names(run: Any) -> None:
    events = run("fit", "FrozenTeacher")
    for domain in ("prose", "chats"):
        assert figures(events, domain) == FIGURES - OF_STORES
    assert figures(events, "code") == FIGURES - OF_STORES - OF_TEXTS
    assert {"val/completions/0/text_summary", "val/completions/1/text_summary"} <= set(events.Tags()["tensors"])
    tasks = {tag for tag in events.Tags()["scalars"] if tag.startswith("eval/")}
    assert tasks == {"eval/choices/acc", "eval/choices/acc_norm", "eval/texts/bits_per_byte"}
    assert [path.name for path in Path(FOLDER, "exports").iterdir()] == ["step-00000002"]


def test_of_a_store_it_is_the_bucket(run: Any, capsys: Any) -> None:
    events = run("fit", "OfflineTeacher")
    assert figures(events, "code") == FIGURES - OF_TEACHERS - OF_TEXTS
    agreement = {"top1_agreement", "top5_agreement"}
    assert figures(events, "prose") == FIGURES - OF_TEACHERS - OF_STORES - agreement
    capsys.readouterr()
    run("validate", "OfflineTeacher", "--ckpt_path", "last")
    shown = capsys.readouterr().out
    assert "eval/choices/acc" in shown
    assert "val/code/kl_bucket" in shown


def test_its_python_is_what_the_callbacks_take(monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
    scope: dict[str, Any] = {}
    exec(code.replace("Trainer(", "Trainer(accelerator='cpu', logger=False, "), scope)
    kinds = {type(callback).__name__ for callback in scope["trainer"].callbacks}
    assert {"Evaluation", "LMEval", "ExportHF"} <= kinds
