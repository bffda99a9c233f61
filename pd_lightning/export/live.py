"""A student in training as the checkpoint that `export` would read."""

from typing import Any

import lightning.pytorch as pl
from torch.distributed.tensor import DTensor

from pd_lightning.checkpoints.sharded import whole
from pd_lightning.export.exporting import PREFIX
from pd_lightning.language_model import LanguageModel
from pd_lightning.module import DistillationModule
from pd_lightning.module.checkpoint_state import checkpoint_state
from pd_lightning.version import __version__

_COMPILED = "_orig_mod."


def live_checkpoint(
    trainer: pl.Trainer,
    pl_module: pl.LightningModule,
    student: LanguageModel,
    module: str | None,
    teacher: dict[str, object] | None,
) -> dict[str, Any] | None:
    """Give what an export needs of a module in training; all ranks must take part.

    Args:
        trainer: Of the training.
        pl_module: The module.
        student: The student in it.
        module: Dotted name of the submodule that it is; None for the student of a DistillationModule, or the module
            itself.
        teacher: What it is distilled from, where that is known.

    Returns:
        On the first rank the checkpoint, weights on the CPU where they were spread over ranks; None on others.
    """
    state: dict[str, Any] = pl_module.state_dict()
    if any(isinstance(tensor, DTensor) for tensor in state.values()):
        state = whole(state)
    if not trainer.is_global_zero:
        return None
    if module is None and isinstance(pl_module, DistillationModule):
        known = checkpoint_state(pl_module)
    else:
        known = _known(trainer, student, teacher)
    named = {PREFIX + name: tensor for name, tensor in _weights(state, pl_module, student, module).items()}
    return {"state_dict": named, "global_step": trainer.global_step, "pd_lightning": known}


def check_exportable(pl_module: pl.LightningModule, student: LanguageModel, module: str | None, who: str) -> None:
    """Refuse a student that is not the Hugging Face causal model that its configuration makes.

    Args:
        pl_module: The module in training.
        student: The student in it, with a Hugging Face configuration.
        module: As of `live_checkpoint`.
        who: The callback that asks, for the message.

    Raises:
        ValueError: If the export could not be made, or would not take the student's weights.
    """
    settings = student.config()
    assert settings is not None
    given = _weights(pl_module.state_dict(), pl_module, student, module)
    try:
        made = _made_of(settings)
    except (ImportError, KeyError, ValueError) as error:
        got = f"whose config makes none: {str(error).strip().splitlines()[0].rstrip('.')}"
    else:
        names = [*given, *made]
        other = [n for n in names if not (n in given and n in made and given[n].shape == made[n].shape)]
        if not other:
            return
        got = f"which has other weights than a {settings.get('model_type')} of its config, {other[0]!r} for one"
    raise ValueError(
        f"{who} must find a Hugging Face causal model, got {type(student.model).__name__}, {got}. Set module of {who} "
        "to the submodule that is one, model say."
    )


def _made_of(settings: dict[str, Any]) -> dict[str, Any]:
    """Give the weights of the model that an export makes, without their values."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    fields = dict(settings)
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    with torch.device("meta"):
        made: dict[str, Any] = AutoModelForCausalLM.from_config(config, trust_remote_code=False).state_dict()
    return made


def _weights(
    state: dict[str, Any], pl_module: pl.LightningModule, student: LanguageModel, module: str | None
) -> dict[str, Any]:
    """Pick the student's weights, by the names that they have in its model."""
    own = PREFIX if getattr(pl_module, "student", None) is student else ""
    prefix = own if module is None else f"{module}."
    return {
        name.removeprefix(prefix).replace(_COMPILED, ""): tensor
        for name, tensor in state.items()
        if name.startswith(prefix)
    }


def _known(trainer: pl.Trainer, student: LanguageModel, teacher: dict[str, object] | None) -> dict[str, Any]:
    """What there is to say of other people's training, by the names of `checkpoint_state`."""
    return {
        "version": __version__,
        "seed": None,
        "num_tokens": None,
        "student_config": student.config(),
        "teacher": teacher,
        "tokenizer": None,
        "metrics": {name: float(value) for name, value in trainer.callback_metrics.items()},
    }
