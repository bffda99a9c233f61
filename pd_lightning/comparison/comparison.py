"""`pd-lightning compare`: what a student costs in use, beside its teacher, on this machine."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from pd_lightning.comparison.model_figures import Measurement
from pd_lightning.store.json_files import read_json

_LAST = Path("checkpoints", "last.ckpt")


def compare(
    student: str,
    teacher: str,
    output_path: str | None = None,
    prompt_tokens: int = 64,
    new_tokens: int = 64,
    batch_sizes: list[int] | None = None,
    repeats: int = 5,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    device: Literal["auto", "cpu", "cuda"] = "auto",
    blocks: str | None = None,
    num_blocks: int = 64,
) -> None:
    """Compare a student with its teacher in use: parameters, size on disk, memory, speed, and perplexity.

    Each model is measured in a process of its own. Speeds are of greedy generation by transformers, medians after a
    warm-up; inference engines are faster. The figures are of this machine, which is named with them.

    Args:
        student: Hugging Face folder, such as an export; a run folder of `pd-lightning fit`, or a checkpoint.
        teacher: The same of the teacher.
        output_path: Also write the figures to this JSON file.
        prompt_tokens: Tokens of each prompt.
        new_tokens: Tokens to generate after it.
        batch_sizes: Prompts at once; by default 1 and 8.
        repeats: Timed runs of each.
        dtype: Data type to load the weights in; auto takes that of the folder.
        device: Where to run; auto takes a GPU where there is one.
        blocks: Data folder of `pd-lightning tokenize` or `record`; adds the perplexity on its validation split.
        num_blocks: Blocks of it to take, at most.

    Raises:
        FileNotFoundError: There is no such folder or checkpoint.
        ValueError: It is no causal language model, or a setting is out of its range.
    """
    sizes = tuple(batch_sizes or (1, 8))
    limits = {"prompt_tokens": (prompt_tokens, 1), "new_tokens": (new_tokens, 2), "repeats": (repeats, 1)}
    limits |= {"num_blocks": (num_blocks, 1), "batch_sizes": (min(sizes), 1)}
    for name, (value, least) in limits.items():
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}. Raise --{name}.")
    if output_path is not None and Path(output_path).is_dir():
        raise ValueError(f"output_path must be a file, got the folder {output_path}. Add a name, such as compare.json.")
    figures: dict[str, Any] = {}
    with TemporaryDirectory() as temporary:
        folders = {
            "student": _hf_folder("student", Path(student), Path(temporary)),
            "teacher": _hf_folder("teacher", Path(teacher), Path(temporary)),
        }
        for role, folder in folders.items():
            _check_length(role, folder, prompt_tokens + new_tokens)
        for role, folder in folders.items():
            what = Measurement(
                str(folder), prompt_tokens, new_tokens, sizes, repeats, dtype, device, blocks, num_blocks
            )
            figures[role] = _apart(role, what)
    machine = figures["teacher"].pop("machine")
    figures["student"].pop("machine")
    settings = {"prompt_tokens": prompt_tokens, "new_tokens": new_tokens, "repeats": repeats, "blocks": blocks}
    report = {"machine": machine, "settings": settings, **figures}
    _show(report)
    if output_path is not None:
        Path(output_path).parent.mkdir(parents=True, exist_ok=True)
        Path(output_path).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _hf_folder(role: str, path: Path, temporary: Path) -> Path:
    """The Hugging Face folder of a model; one that is exported for the occasion where there is but a checkpoint."""
    if (path / "config.json").is_file():
        return path
    checkpoint = path / _LAST if (path / _LAST).exists() else path
    if not checkpoint.is_file() and not (checkpoint / "rest.ckpt").is_file():  # a file, or a folder of all ranks' files
        raise FileNotFoundError(
            f"{role} must be a Hugging Face folder, a run folder with {_LAST}, or a checkpoint, got {path}, which is "
            "none. Give the folder that `pd-lightning export` wrote."
        )
    from pd_lightning.export import export

    with redirect_stdout(io.StringIO()):
        export(str(checkpoint), str(temporary / role))
    if not (temporary / role / "config.json").is_file():
        raise ValueError(
            f"{role} must be a Hugging Face model to generate with, got {path}, which is a module of yours. Give "
            "another."
        )
    return temporary / role


def _check_length(role: str, folder: Path, length: int) -> None:
    most = read_json(folder / "config.json").get("max_position_embeddings")
    if most is not None and length > most:
        raise ValueError(
            f"prompt_tokens and new_tokens must together be at most {most}, the {role}'s max_position_embeddings, got "
            f"{length}. Lower --prompt_tokens or --new_tokens."
        )


def _apart(role: str, what: Measurement) -> dict[str, Any]:
    """The figures of one model, from a process of its own."""
    command = [sys.executable, "-m", "pd_lightning.comparison.model_figures", what.as_json()]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise ValueError(
            f"{role} must be a causal language model that transformers loads and generates with, got {what.folder}, "
            f"which ended in: {reason.rstrip('.')}. Mend the folder, or give another."
        )
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _rows(figures: dict[str, Any]) -> Iterator[tuple[str, float, str]]:
    """Name, value and format of each figure."""
    yield "parameters", figures["parameters"], ",.0f"
    yield "non-embedding parameters", figures["non_embedding_parameters"], ",.0f"
    yield "MB on disk", figures["disk_mb"], ",.1f"
    for run in figures["generation"]:
        batch = f", batch {run['batch_size']}"
        yield f"peak MB while generating{batch}", run["peak_memory_mb"], ",.1f"
        yield f"prompt tokens a second{batch}", run["prefill_tokens_per_second"], ",.0f"
        yield f"new tokens a second{batch}", run["decode_tokens_per_second"], ",.1f"
    if "perplexity" in figures:
        yield "perplexity", figures["perplexity"], ",.2f"


def _show(report: dict[str, Any]) -> None:
    table = Table("")
    for heading in ("student", "teacher", "student to teacher"):
        table.add_column(heading, justify="right")
    for (name, ours, form), (_, theirs, _) in zip(_rows(report["student"]), _rows(report["teacher"]), strict=True):
        table.add_row(name, f"{ours:{form}}", f"{theirs:{form}}", f"{ours / theirs:.3f}" if theirs else "")
    console, machine, settings = Console(), report["machine"], report["settings"]
    console.print(table)
    types = {role: report[role]["dtype"] for role in ("student", "teacher")}
    console.print(
        f"{settings['prompt_tokens']} prompt and {settings['new_tokens']} new tokens, median of {settings['repeats']}; "
        f"weights in {' and '.join(dict.fromkeys(types.values()))}; "
        f"{machine.get('gpu', machine['cpu'])}, {machine['threads']} of {machine['cores']} cores, "
        f"torch {machine['torch']}, transformers {machine['transformers']}",
        highlight=False,
    )
