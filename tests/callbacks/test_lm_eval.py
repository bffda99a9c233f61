"""lm-evaluation-harness on a live student, on exports, and beside Evaluation: one score, whoever computes it."""

import copy
import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import yaml
from lightning.pytorch.loggers import TensorBoardLogger
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tokenizers.processors import TemplateProcessing
from torch.nn import functional as F
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer

from pd_lightning.callbacks import Evaluation, LMEval
from pd_lightning.callbacks.harness_model import LiveLM
from pd_lightning.data import TokenBlocks
from pd_lightning.export import export
from pd_lightning.language_model import LanguageModel
from pd_lightning.module import DistillationModule
from pd_lightning.students import HFStudent

NAMES = ["choices", "texts", "generated"]


@pytest.fixture(scope="session")
def model(teacher_dir: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(teacher_dir)


@pytest.fixture(scope="session")
def tokenizer(teacher_dir: Path) -> Any:
    return AutoTokenizer.from_pretrained(teacher_dir)


@torch.no_grad()
def by_hand(model: Any, tokenizer: Any, question: dict[str, Any]) -> list[float]:
    """Log-probability of each choice after its question."""
    scores = []
    for choice in question["choices"]:
        whole, start = (
            tokenizer(question["question"] + choice).input_ids,
            len(tokenizer(question["question"]).input_ids),
        )
        log_p = model(torch.tensor([whole])).logits[0].double().log_softmax(-1)
        scores.append(float(sum(log_p[at - 1, whole[at]] for at in range(start, len(whole)))))
    return scores


def expected(model: Any, tokenizer: Any, tasks: Path) -> dict[str, float]:
    questions = [json.loads(line) for line in (tasks / "choices.jsonl").read_text().splitlines()]
    scores = [by_hand(model, tokenizer, question) for question in questions]
    lengths = [[len(choice) for choice in question["choices"]] for question in questions]
    answers = [question["answer"] for question in questions]
    right = [max(range(3), key=s.__getitem__) == answer for s, answer in zip(scores, answers, strict=True)]
    normed = [[s / n for s, n in zip(*pair, strict=True)] for pair in zip(scores, lengths, strict=True)]
    right_normed = [max(range(3), key=s.__getitem__) == answer for s, answer in zip(normed, answers, strict=True)]
    return {"acc": sum(right) / len(questions), "acc_norm": sum(right_normed) / len(questions)}


def harness(lm: Any, tasks: Path, names: list[str], **settings: Any) -> dict[str, dict[str, Any]]:
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    options = {"task_manager": manager, "bootstrap_iters": 0, "verbosity": None, **settings}
    return simple_evaluate(lm, tasks=names, **options)["results"]  # type: ignore[index, return-value]


@pytest.mark.parametrize("begins", [False, True], ids=["plain", "beginning-of-text"])
def test_the_live_model_scores_as_the_harness_s_own(
    model: Any, tokenizer: Any, tasks: Path, monkeypatch: Any, begins: bool
) -> None:
    """Each number of each kind of request, with contexts longer than the model's among them."""
    if begins:  # as of Llama
        tokenizer = copy.deepcopy(tokenizer)
        special = [("<|endoftext|>", tokenizer.bos_token_id)]
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing("<|endoftext|> $A", None, special)
        assert tokenizer("a").input_ids[0] == tokenizer.bos_token_id
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)
    kept: dict[str, list[Any]] = {}
    for name, lm in (
        ("ours", LiveLM(LanguageModel(model), tokenizer, 32, 3, torch.device("cpu"))),
        ("theirs", HFLM(pretrained=model, tokenizer=tokenizer, batch_size=2)),
    ):
        with torch.no_grad():
            results = simple_evaluate(
                lm,
                tasks=NAMES,
                task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
                bootstrap_iters=0,
                num_fewshot=0,
            )
        assert results is not None
        samples = results["samples"]
        kept[name] = [
            [response for sample in sorted(samples[task], key=lambda s: s["doc_id"]) for response in sample["resps"]]
            for task in NAMES
        ]
        kept[f"{name} results"] = [results["results"][task] for task in NAMES]
    (choices, texts, generated), (their_choices, their_texts, their_generated) = kept["ours"], kept["theirs"]
    assert [greedy for ((_, greedy),) in choices] == [greedy for ((_, greedy),) in their_choices]
    assert [nats for ((nats, _),) in choices] == pytest.approx([nats for ((nats, _),) in their_choices], rel=1e-5)
    assert [nats for (nats,) in texts] == pytest.approx([nats for (nats,) in their_texts], rel=1e-5)
    assert generated == their_generated
    assert len({text for (text,) in generated}) > 2
    for ours, theirs in zip(kept["ours results"], kept["theirs results"], strict=True):
        numbers = {key for key, value in theirs.items() if isinstance(value, float)}
        assert {key: ours[key] for key in numbers} == pytest.approx({key: theirs[key] for key in numbers}, rel=1e-5)


def test_an_export_scores_what_is_computed_by_hand(
    tmp_path: Path, teacher_dir: Path, blocks: Path, tasks: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)
    module = DistillationModule(HFStudent(model=str(teacher_dir)))
    trainer = quiet_trainer(max_steps=1)
    trainer.fit(module, TokenBlocks(str(blocks)))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    export(str(tmp_path / "last.ckpt"), str(tmp_path / "out"))
    lm = HFLM(pretrained=str(tmp_path / "out"), device="cpu", batch_size=2)
    found = harness(lm, tasks, ["choices"])["choices"]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    right = expected(model, AutoTokenizer.from_pretrained(tmp_path / "out"), tasks)
    assert {name: found[f"{name},none"] for name in right} == right
    assert 0 < right["acc"] < 1


def quiet_trainer(**settings: Any) -> pl.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    return pl.Trainer(accelerator="cpu", **{"logger": False, "limit_val_batches": 0, **quiet, **settings})


def test_perplexity_is_the_harness_s(tiny: Any, blocks: Path, tasks: Path, monkeypatch: Any, teacher_dir: Path) -> None:
    """Of texts that are longer than the context: each token once, with as much before it as the harness gives."""
    callback = Evaluation({"texts": str(tasks / "texts")})
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)
    module = DistillationModule(HFStudent(model=str(teacher_dir)))
    trainer = quiet_trainer(max_steps=2, limit_val_batches=1, val_check_interval=2, callbacks=[callback])
    trainer.fit(module, TokenBlocks(str(blocks)))
    assert module.student is not None
    lm = HFLM(pretrained=module.student.model, tokenizer=AutoTokenizer.from_pretrained(teacher_dir), batch_size=2)
    theirs = harness(lm, tasks, ["texts"])["texts"]
    ours = {name: float(trainer.callback_metrics[f"val/texts/{name}"]) for name in ("word_perplexity", "bits_per_byte")}
    assert ours["word_perplexity"] == pytest.approx(theirs["word_perplexity,none"], rel=1e-4)
    assert ours["bits_per_byte"] == pytest.approx(theirs["bits_per_byte,none"], rel=1e-4)
    assert 2 ** ours["bits_per_byte"] == pytest.approx(theirs["byte_perplexity,none"], rel=1e-4)


def test_every_n_steps_and_at_the_end_in_the_log(tiny: Any, blocks: Path, tasks: Path, tmp_path: Path) -> None:
    callback = LMEval(["choices", "texts"], str(tasks), every_n_steps=2)
    module = DistillationModule(HFStudent(config={**tiny.config, "initializer_range": 0.3}))
    trainer = quiet_trainer(max_steps=5, logger=TensorBoardLogger(tmp_path), callbacks=[callback])
    trainer.fit(module, TokenBlocks(str(blocks)))
    events = EventAccumulator(str(next(tmp_path.rglob("events.*"))))
    events.Reload()
    names = {"choices/acc", "choices/acc_norm", "texts/word_perplexity", "texts/byte_perplexity", "texts/bits_per_byte"}
    assert {tag for tag in events.Tags()["scalars"] if tag.startswith("eval/")} == {f"eval/{name}" for name in names}
    assert [event.step for event in events.Scalars("eval/choices/acc")] == [2, 4, 5]
    module.eval()
    tokenizer = AutoTokenizer.from_pretrained(blocks / "tokenizer")
    right = expected(lambda ids: module.student.model(ids), tokenizer, tasks)  # type: ignore[union-attr]
    assert events.Scalars("eval/choices/acc")[-1].value == pytest.approx(right["acc"])
    (validated,) = quiet_trainer(limit_val_batches=1, callbacks=[callback]).validate(
        module, TokenBlocks(str(blocks)), verbose=False
    )
    assert validated["eval/choices/acc"] == pytest.approx(right["acc"])


def test_a_group_and_examples_before_questions_as_in_the_harness(
    blocks: Path, teacher_dir: Path, tasks: Path, monkeypatch: Any
) -> None:
    """And again in the second run: the same examples are drawn."""
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)
    module, callback = (
        DistillationModule(HFStudent(model=str(teacher_dir))),
        LMEval(["both"], str(tasks), num_fewshot=2),
    )
    trainer = quiet_trainer(limit_val_batches=1, callbacks=[callback])
    found = [trainer.validate(module, TokenBlocks(str(blocks)), verbose=False)[0] for _ in range(2)]
    lm = HFLM(pretrained=str(teacher_dir), device="cpu", batch_size=2)
    theirs = harness(lm, tasks, ["both"], num_fewshot=2)
    names = {("both", "acc"), ("choices", "acc"), ("choices", "acc_norm"), ("texts", "bits_per_byte")}
    for task, metric in names:
        expected = pytest.approx(theirs[task][f"{metric},none"], rel=1e-5)
        assert [run[f"eval/{task}/{metric}"] for run in found] == [expected, expected]


class Foreign(pl.LightningModule):
    """Other people's module, with dropout, that draws from the global random state."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = torch.nn.Sequential(torch.nn.Embedding(300, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 300))
        self.losses: list[float] = []

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        loss = F.cross_entropy(self.net(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.5)


def test_other_peoples_training_is_the_same_to_the_bit(teacher_dir: Path, tasks: Path) -> None:
    data = torch.randint(0, 300, (32, 9), generator=torch.Generator().manual_seed(0))
    settings: dict[str, Any] = {"module": "net", "tokenizer": str(teacher_dir), "max_length": 16, "every_n_steps": 1}
    runs = []
    for callbacks in ([], [LMEval(["choices", "texts"], str(tasks), limit=2, **settings)]):
        pl.seed_everything(1, verbose=False)
        module = Foreign()
        quiet_trainer(max_steps=4, callbacks=callbacks).fit(module, DataLoader(data, batch_size=4, shuffle=True))
        runs.append(module)
    assert runs[0].losses == runs[1].losses
    for one, other in zip(runs[0].parameters(), runs[1].parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_task_that_generates_needs_a_student_that_can(teacher_dir: Path, tasks: Path) -> None:
    data = DataLoader(torch.randint(0, 300, (4, 9)), batch_size=4)
    callback = LMEval(["generated"], str(tasks), module="net", tokenizer=str(teacher_dir), max_length=16)
    with pytest.raises(ValueError, match="must have a student that can, got Sequential without `generate`"):
        quiet_trainer(max_steps=1, callbacks=[callback]).fit(Foreign(), data)
    callback = LMEval(["choices"], "my_taskz", module="net", tokenizer=str(teacher_dir), max_length=16)
    with pytest.raises(FileNotFoundError, match=r"include_path of LMEval must be a folder of tasks, got 'my_taskz'"):
        quiet_trainer(max_steps=1, callbacks=[callback]).fit(Foreign(), data)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": []}, "tasks of LMEval must name at least one task"),
        ({"limit": 0}, "limit of LMEval must be above 0, got 0"),
        ({"every_n_steps": 0}, "every_n_steps of LMEval must be at least 1, got 0"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LMEval(**{"tasks": ["choices"], **settings})


def test_an_unknown_task_is_told_before_training(
    tiny: Any, blocks: Path, tasks: Path, monkeypatch: Any, tmp_path: Path
) -> None:
    # The harness's own tasks take seconds to list.
    monkeypatch.setattr(
        "lm_eval.tasks.TaskManager", lambda **options: TaskManager(include_path=str(tasks), include_defaults=False)
    )
    module = DistillationModule(HFStudent(config=tiny.config))
    with pytest.raises(ValueError, match=r"got 'choice'\. Close to it: choices\. `lm_eval ls tasks` lists them"):
        quiet_trainer(max_steps=1, callbacks=[LMEval(["choice"], str(tasks))]).fit(module, TokenBlocks(str(blocks)))
    assert module.num_tokens == 0


def test_data_that_are_not_there_are_told_before_training(tiny: Any, blocks: Path, tasks: Path, tmp_path: Path) -> None:
    task = yaml.safe_load((tasks / "choices.yaml").read_text())
    task["dataset_kwargs"]["data_files"]["test"] = str(tmp_path / "nowhere.jsonl")
    (tmp_path / "choices.yaml").write_text(yaml.safe_dump(task))
    module = DistillationModule(HFStudent(config=tiny.config))
    with pytest.raises(ValueError, match=r"data of tasks of LMEval must be at hand, got: .*nowhere\.jsonl"):
        quiet_trainer(max_steps=1, callbacks=[LMEval(["choices"], str(tmp_path))]).fit(module, TokenBlocks(str(blocks)))


def test_without_the_harness_the_extra_is_named(monkeypatch: Any) -> None:
    monkeypatch.setattr("pd_lightning.callbacks.lm_eval_tasks.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"LMEval needs the package 'lm-eval'.*'pd-lightning\[eval\]'"):
        LMEval(["choices"])
