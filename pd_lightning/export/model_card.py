"""The model card of an exported student: how it was trained, in a page."""

import json
from collections.abc import Mapping
from typing import Any

from pd_lightning.version import __version__


def model_card(checkpoint: Mapping[str, Any], name: str, dtype: str) -> str:
    """Write the card in Markdown, with the metadata that the Hugging Face hub reads.

    Args:
        checkpoint: The checkpoint that was exported; what is None in it is not known, and left out.
        name: Name of the model.
        dtype: Data type of its weights.

    Returns:
        The text.
    """
    state = checkpoint["pd_lightning"]
    config, teacher = state["student_config"] or {}, state["teacher"]
    rows = {
        "architecture": config.get("model_type", "see student.yaml"),
        "vocabulary": config.get("vocab_size"),
        "weights": dtype,
        "teacher": None if teacher is None else _teacher(teacher),
        "training tokens": None if state["num_tokens"] is None else f"{state['num_tokens']:,}",
        "optimizer steps": f"{checkpoint['global_step']:,}",
        "seed": state["seed"],
        **_metrics(state, checkpoint["global_step"]),
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items() if value is not None)
    described = "" if teacher is None else f"\n```json\n{json.dumps(teacher, indent=2)}\n```\n"
    unit = "\nLosses are in nats per token.\n" if any(key.startswith("val/") for key in rows) else ""
    return _CARD.format(name=name, table=table, version=__version__, unit=unit, teacher=described)


def _metrics(state: dict[str, Any], step: int) -> dict[str, str]:
    """Figures of the last validation, with its step where that is an earlier one: a checkpoint may come before."""
    validated = state.get("validated_at")
    at = "" if validated in (None, step) else f" at step {validated:,}"
    return {
        f"{name}{at}": f"{value:.4f}" for name, value in sorted(state["metrics"].items()) if name.startswith("val/")
    }


def _teacher(teacher: dict[str, Any]) -> str:
    described = f"{teacher.get('name', '')} ({teacher['kind']})".strip()
    return {"NoTeacher": "none: plain language-model pre-training"}.get(teacher["kind"], described)


_CARD = """---
library_name: transformers
pipeline_tag: text-generation
tags: [pre-training-distillation, pd-lightning]
---

# {name}

A language model pre-trained with pd-lightning {version}.

| | |
|---|---|
{table}
{unit}{teacher}"""
