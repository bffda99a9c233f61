"""What all trials share, made once before the first of them: tokens, teachers, stores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from pd_lightning.composition.yaml_files import as_yaml
from pd_lightning.store.durable import write_durably
from pd_lightning.study.points import merged
from pd_lightning.study.roster import with_folder
from pd_lightning.study.settings import Step, StudySettings
from pd_lightning.study.trial import Lock, command, last_words, size_of


def prepare(study: StudySettings, say: Any = print) -> None:
    """Run the commands of `prepare` that have not run yet, one after the other, whoever else wants to.

    Args:
        study: What is asked.
        say: Told of each.

    Raises:
        ValueError: A command failed, or its settings are others than those that it ran with.
    """
    folder = Path(study.output_dir) / "prepare"
    with Lock(folder / ".lock") as lock:
        for name, step in study.prepare.items():
            _run_once(folder, name, step, study.threads, lock, say)


def _run_once(folder: Path, name: str, step: Step, threads: int | None, lock: Lock, say: Any) -> None:
    settings = merged(step.config)
    asked = yaml.safe_dump({"command": step.command, "config": settings}, sort_keys=True)
    done, log = folder / f"{name}.done.yaml", folder / f"{name}.log"
    if done.exists():
        if done.read_text(encoding="utf-8") != asked:
            raise ValueError(
                f"prepare.{name} must be as it was when it ran, got other settings. Take another output_dir, or remove "
                f"{done} and what the command wrote, to run it again."
            )
        return
    say(f"prepare: {step.command} ({name})")
    arguments: list[str] = []
    if step.command == "fit":
        root = (settings.get("trainer") or {}).get("default_root_dir")
        if root is None:
            raise ValueError(f"prepare.{name} must have a trainer.default_root_dir, got none. Set it in its config.")
        settings = with_folder(settings, root)
        arguments = ["--ckpt_path", "auto"]
    used = folder / f"{name}.yaml"
    write_durably(used, as_yaml(settings).encode())
    before = size_of(log)
    code = command([step.command, "--config", str(used), *arguments], log, threads, lock)
    if code != 0:
        words = last_words(log, before, code)
        raise ValueError(f"prepare.{name} must run to its end, got exit code {code} ({log}):\n{words}")
    write_durably(done, asked.encode())
