"""The model card of an exported student: how it was trained, in a page."""

import json
from typing import Any

from pd_lightning.version import __version__


def model_card(checkpoint: dict[str, Any], name: str, dtype: str) -> str:
    """Write the card in Markdown, with the metadata that the Hugging Face hub reads.

    Args:
        checkpoint: The checkpoint that was exported.
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
        "teacher": _teacher(teacher),
        "training tokens": f"{state['num_tokens']:,}",
        "optimizer steps": f"{checkpoint['global_step']:,}",
        "seed": state["seed"],
        **{metric: f"{value:.4f}" for metric, value in sorted(state["metrics"].items()) if metric.startswith("val/")},
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items() if value is not None)
    return _CARD.format(name=name, table=table, version=__version__, teacher=json.dumps(teacher, indent=2))


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

Losses are in nats per token.

```json
{teacher}
```
"""
