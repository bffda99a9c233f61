"""Tasks of lm-evaluation-harness with their data in a folder."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

QUESTIONS = [
    {"question": question, "choices": [" os", " = 1:\n", "€ def"], "answer": number % 3}
    for number, question in enumerate(["import", "def f(", "class A", "return", "# a", "x", '"""', "if", "é"])
]
TEXTS = ["class Naïve:\n    '''Words, words, words — and € signs.'''\n" * 4, "import re", " a b\n\tc "]
TASKS: dict[str, dict[str, Any]] = {
    "choices": {
        "output_type": "multiple_choice",
        "doc_to_text": "question",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "texts": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "text",
        "metric_list": [{"metric": name} for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")],
    },
    "generated": {
        "output_type": "generate_until",
        "doc_to_text": "question",
        "doc_to_target": "",
        "generation_kwargs": {"until": ["\n", "  "], "max_gen_toks": 8},
        "metric_list": [{"metric": "exact_match"}],
    },
}


@pytest.fixture(scope="session")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of three tasks with their data."""
    import datasets

    folder = tmp_path_factory.mktemp("tasks")
    rows = {"choices": QUESTIONS, "generated": QUESTIONS, "texts": [{"text": text} for text in TEXTS]}
    for name, settings in TASKS.items():
        file = folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows[name]))
        task = {"task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(file)}}}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({**task, "test_split": "test", **settings}))
    group = {
        "group": "both",
        "task": ["choices", "texts"],
        "aggregate_metric_list": [{"metric": "acc", "aggregation": "mean"}],
    }
    (folder / "both.yaml").write_text(yaml.safe_dump(group))
    (folder / "texts").mkdir()
    for number, text in enumerate(TEXTS):
        (folder / "texts" / f"{number}.txt").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        yield folder
