"""The demo: the whole of pre-training distillation on this machine, by the commands that a user types.

Text to blocks; a teacher, trained here; its logits, recorded; then the same student three times on the same tokens in
the same order: alone, with the recorded teacher, with the live one. What is there already is used again.
"""

import argparse
import csv
import hashlib
import json
import shlex
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pd_lightning.cli.command_line import COMMANDS
from pd_lightning.report import Table, write_report
from pd_lightning.report.charts import Chart

CONFIGS = Path("configs/demo")
ROOT = Path("runs/demo")
PROMPT = "def __init__(self"
STUDENTS = {"lm": "LM only", "offline": "offline PD", "online": "online PD"}
METRICS = ("val_lm_loss", "val_perplexity", "top1_agreement", "train_seconds", "teacher_forward_seconds")


def main(argv: list[str] | None = None) -> int:
    """Run the demo.

    Args:
        argv: `--seeds N` runs every student with N seeds.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m pd_lightning.demo", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds that every student is trained with")
    seeds = parser.parse_args(argv).seeds
    _check_folder()
    teacher = _train_teacher()
    store = _record()
    runs = {seed: {name: _train_student(name, seed) for name in STUDENTS} for seed in range(1, seeds + 1)}
    results = _results(teacher, store, runs)
    (ROOT / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    _report(results)
    _print_table(results)
    return 0


def _check_folder() -> None:
    """Refuse to mix results of two configurations."""
    if not CONFIGS.is_dir():
        raise FileNotFoundError(
            f"The demo must run in a checkout of pd-lightning, got a folder without {CONFIGS}. Run `make demo` there."
        )
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(CONFIGS.glob("*.yaml")))).hexdigest()
    stamp = ROOT / "configs.sha256"
    if stamp.exists() and stamp.read_text() != digest:
        raise ValueError(f"{ROOT} must hold runs of {CONFIGS} as it is now, got others. Remove {ROOT}.")
    ROOT.mkdir(parents=True, exist_ok=True)
    stamp.write_text(digest)


def _run(command: str, *arguments: str) -> Any:
    """Run a command of pd-lightning here and now: importing torch again for each would take longer than some."""
    print(f"\n$ pd-lightning {command} {shlex.join(arguments)}", flush=True)
    if COMMANDS[command].trainer:
        from pd_lightning.trainer import run

        return run(command, COMMANDS[command], arguments)
    from pd_lightning.cli.commands import run as run_function

    return run_function(command, COMMANDS[command], arguments)


def _once(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Give the result that is there from an earlier demo, else make it."""
    if not path.exists():
        path.write_text(json.dumps(make(), indent=1), encoding="utf-8")
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return result


def _config(*names: str) -> list[str]:
    return [part for name in names for part in ("--config", str(CONFIGS / f"{name}.yaml"))]


def _train_teacher() -> dict[str, Any]:
    _run("tokenize", *_config("tokenize"))

    def train() -> dict[str, Any]:
        fitted = _run("fit", *_config("teacher"), "--ckpt_path", "auto")
        _export(ROOT / "teacher")
        return {
            "val_lm_loss": float(fitted.trainer.callback_metrics["val/lm_loss"]),
            "num_parameters": sum(p.numel() for p in fitted.model.parameters()),
        }

    (ROOT / "teacher").mkdir(exist_ok=True)
    return _once(ROOT / "teacher" / "result.json", train)


def _record() -> dict[str, Any]:
    import time

    def record() -> dict[str, Any]:
        started = time.perf_counter()
        _run("record", *_config("record"))
        manifest = json.loads((ROOT / "store" / "manifest.json").read_text(encoding="utf-8"))
        return {
            "bytes_per_token": manifest["statistics"]["bytes_per_token"],
            "kept_mass": manifest["statistics"]["kept_mass_per_token"],
            "record_seconds": time.perf_counter() - started,
        }

    return _once(ROOT / "record.json", record)


def _train_student(name: str, seed: int) -> dict[str, Any]:
    folder = _folder(name, seed)
    place = [f"--trainer.default_root_dir={folder}"]
    if seed != 1:
        place += [f"--seed_everything={seed}", f"--data.init_args.seed={seed}"]

    def train() -> dict[str, Any]:
        overlay = [] if name == "lm" else [name]
        fitted = _run("fit", *_config("student", *overlay), *place, "--ckpt_path", "auto")
        # All are judged by the live teacher, on the same blocks.
        judged = _run("validate", *_config("student", "online"), *place, "--ckpt_path", "last")
        _export(folder)
        metrics = {key: float(value) for key, value in judged.trainer.callback_metrics.items()}
        return {
            "val_lm_loss": metrics["val/lm_loss"],
            "val_perplexity": metrics["val/perplexity"],
            "top1_agreement": metrics["val/top1_agreement"],
            "val_kd_loss": metrics["val/kd_loss"],
            "train_seconds": fitted.model.train_seconds,
            "teacher_forward_seconds": fitted.model.teacher_seconds,
            "tokens": int(fitted.model.num_tokens),
            "num_parameters": sum(p.numel() for p in fitted.model.parameters()),
        }

    folder.mkdir(parents=True, exist_ok=True)
    return _once(folder / "result.json", train)


def _folder(name: str, seed: int) -> Path:
    return ROOT / name if seed == 1 else ROOT / f"seed-{seed}" / name


def _export(run: Path) -> None:
    _run("export", "--ckpt_path", f"{run}/checkpoints/last.ckpt", "--output_dir", f"{run}/export", "--overwrite=true")


def _results(teacher: dict[str, Any], store: dict[str, Any], runs: dict[int, dict[str, Any]]) -> dict[str, Any]:
    results: dict[str, Any] = {
        "tokens": runs[1]["lm"]["tokens"],
        "students": {name: {key: runs[1][name][key] for key in METRICS} for name in STUDENTS},
        "teacher": teacher,
        "store": store,
        "student": {"num_parameters": runs[1]["lm"]["num_parameters"]},
    }
    if len(runs) > 1:
        results["seeds"] = {
            name: {"val_lm_loss": _spread([run[name]["val_lm_loss"] for run in runs.values()])} for name in STUDENTS
        }
    return results


def _spread(values: list[float]) -> dict[str, Any]:
    return {"mean": statistics.mean(values), "std": statistics.stdev(values), "values": values}


def _rows(results: dict[str, Any]) -> list[list[str]]:
    rows = []
    for name, label in STUDENTS.items():
        student = results["students"][name]
        rows.append(
            [
                label,
                f"{student['val_lm_loss']:.3f}",
                f"{student['val_perplexity']:.1f}",
                f"{student['top1_agreement']:.1%}",
                f"{student['train_seconds']:.0f} s",
                f"{student['teacher_forward_seconds']:.0f} s",
            ]
        )
    return rows


COLUMNS = ["student", "val LM loss", "perplexity", "agrees with teacher", "training", "of it in the teacher"]


def _print_table(results: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table as RichTable

    table = RichTable(title=f"The same student on the same {results['tokens']:,} tokens")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "student" else "right")
    for row in _rows(results):
        table.add_row(*row)
    console = Console()
    console.print(table)
    for name, spread in results.get("seeds", {}).items():
        loss = spread["val_lm_loss"]
        console.print(f"{STUDENTS[name]}: {loss['mean']:.3f} ± {loss['std']:.3f} over {len(loss['values'])} seeds")
    teacher, store = results["teacher"], results["store"]
    console.print(
        f"Teacher: val LM loss {teacher['val_lm_loss']:.3f}. Store: {store['bytes_per_token']:.0f} bytes a token, "
        f"{store['kept_mass']:.0%} of the probability kept, recorded in {store['record_seconds']:.0f} s."
    )
    console.print(f"Wrote {ROOT / 'results.json'} and {ROOT / 'report.html'}")


def _report(results: dict[str, Any]) -> None:
    samples = {label: _complete(_folder(name, 1) / "export") for name, label in STUDENTS.items()}
    samples["teacher"] = _complete(ROOT / "teacher" / "export")
    curves = {
        metric: {label: _curve(_folder(name, 1), metric) for name, label in STUDENTS.items()}
        for metric in ("val/lm_loss", "train/lm_loss")
    }
    store = results["store"]
    write_report(
        ROOT / "report.html",
        title="Pre-training distillation, in small",
        intro=(
            f"The same student of {results['student']['num_parameters']:,} parameters, trained three times on the same "
            f"{results['tokens']:,} tokens in the same order: on the text alone, with what was recorded of a teacher "
            f"of {results['teacher']['num_parameters']:,} parameters, and with that teacher live."
        ),
        tables=[
            Table(
                "Results",
                COLUMNS,
                _rows(results),
                caption=(
                    "Losses in nats a token on held-out text. The teacher itself has "
                    f"{results['teacher']['val_lm_loss']:.3f}. The store takes {store['bytes_per_token']:.0f} bytes a "
                    f"token, keeps {store['kept_mass']:.0%} of the probability and was recorded once, in "
                    f"{store['record_seconds']:.0f} s, for any number of students."
                ),
            )
        ],
        charts=[
            Chart("Validation loss", "optimizer steps", "LM loss, nats", curves["val/lm_loss"], caption=""),
            Chart("Training loss", "optimizer steps", "LM loss, nats", curves["train/lm_loss"], caption=""),
        ],
        samples=samples,
        prompt=PROMPT,
        footer="Written by pd-lightning: make demo",
    )


def _curve(run: Path, metric: str) -> list[tuple[float, float]]:
    with (run / "logs" / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return [(float(row["step"]) + 1, float(row[metric])) for row in csv.DictReader(file) if row.get(metric)]


def _complete(folder: Path) -> str:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False, use_safetensors=True)
    inputs = tokenizer(PROMPT, return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=60, do_sample=False, repetition_penalty=1.2)
    new = output[0, inputs.input_ids.shape[1] :]
    return str(tokenizer.decode(new, skip_special_tokens=True))


if __name__ == "__main__":
    from pd_lightning.cli.errors import exit_code

    try:
        raise SystemExit(main())
    except (ValueError, OSError) as error:
        code = exit_code(error)
        if code is None:
            raise
        raise SystemExit(code) from None
