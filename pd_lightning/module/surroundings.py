"""What the Trainer and its data tell student and teacher about what they have to fit to."""

import warnings
from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch import Tensor

from pd_lightning.language_model import LanguageModel
from pd_lightning.language_model.isolation import logits_width
from pd_lightning.strategies import FSDP2Strategy
from pd_lightning.students import Student
from pd_lightning.teachers import Surroundings


def make_student(recipe: Student | None, seed: int, trainer: pl.Trainer | None) -> LanguageModel:
    """Make a student's weights.

    Args:
        recipe: Describes the student.
        seed: Its weights are drawn from; students of one seed start alike, whatever was drawn before.
        trainer: Tells of the data, which know a part of its configuration.
    """
    assert recipe is not None, "a student that is no recipe is there already"
    defaults = {} if trainer is None else student_defaults(trainer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return recipe.build(defaults)


def student_defaults(trainer: pl.Trainer) -> dict[str, Any]:
    """Give the fields of a student's configuration that the data know: vocabulary size and special token ids."""
    manifest = manifest_of(trainer)
    if manifest is None:
        return {}
    tokenizer = manifest.tokenizer
    special = {
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        # Blocks have no padding, and transformers never trains the embedding of the padding id: where that is
        # end-of-text, as in many tokenizers, the student would be blind to where documents begin.
        "pad_token_id": None,
    }
    # Not the width of a store's teacher, which may have padding: the same student on the fly and from a store.
    return {"vocab_size": manifest.tokenizer_vocab_size or manifest.vocab_size, **special}


def look_around(trainer: pl.Trainer, student: LanguageModel) -> Surroundings:
    """Find out what teacher and student have to fit to, and check the student.

    Raises:
        ValueError: If the data's ids or blocks don't fit into the student, or it can't keep to one document where it
            must.
    """
    manifest = manifest_of(trainer)
    found = surroundings_of(trainer, student.vocab_size or logits_width(student, student))
    if manifest is None or found.block_size is None:
        return found
    if getattr(_datamodule(trainer), "layout", None) is not None:
        raise ValueError(
            "A DistillationModule must be given batches as they are, got a batch_map. Remove data.init_args.batch_map."
        )
    num_ids = manifest.tokenizer_vocab_size or manifest.vocab_size
    if found.vocab_size is not None and num_ids > found.vocab_size:
        raise ValueError(
            f"The student's vocabulary must hold every id of the data, got {found.vocab_size} for {num_ids} ids. Set "
            f"model.student.init_args.config.vocab_size to {manifest.vocab_size}, or leave it out."
        )
    if student.context_length is not None and found.block_size > student.context_length:
        raise ValueError(
            f"A block must fit into the student's context, got {found.block_size} positions for "
            f"{student.context_length}. Set model.student.init_args.config.max_position_embeddings to at least "
            f"{found.block_size}, or run `pd-lightning tokenize` with a smaller block_size."
        )
    if manifest.document_attention == "isolated":
        student.check_isolation("student")
    return found


def surroundings_of(trainer: pl.Trainer, vocab_size: int | None) -> Surroundings:
    """Find out what a teacher has to fit to.

    Args:
        trainer: Tells of device and data.
        vocab_size: Width of the student's logits, where it is known.
    """
    device, mesh = trainer.strategy.root_device, getattr(trainer.strategy, "device_mesh", None)
    manifest = manifest_of(trainer)
    if manifest is None:
        return Surroundings(device, vocab_size, device_mesh=mesh)
    return Surroundings(
        device=device,
        vocab_size=vocab_size,
        data_kind=_datamodule(trainer).kind,
        data_vocab_size=manifest.vocab_size,
        columns=manifest.columns,
        selection=_selection(manifest.selection),
        tokenizer_vocab_size=manifest.tokenizer_vocab_size,
        tokenizer_dir=Path(_datamodule(trainer).tokenizer_dir),
        block_size=max(manifest.block_size, _datamodule(trainer).block_size),
        document_attention=manifest.document_attention,
        device_mesh=mesh,
    )


def _selection(recorded: Mapping[str, Any] | None) -> tuple[float, int, int] | None:
    known = recorded is not None and {"p", "k", "min_k"} <= recorded.keys()
    return (recorded["p"], recorded["k"], recorded["min_k"]) if recorded is not None and known else None


def check_trainer(trainer: pl.Trainer) -> None:
    """Refuse what is accepted elsewhere and would go wrong here without a word.

    Raises:
        ValueError: For float16, and for strategies that shard the model in a way of their own.
    """
    check_precision(trainer)
    strategy = trainer.strategy
    if isinstance(strategy, (FSDPStrategy, ModelParallelStrategy)) and not isinstance(strategy, FSDP2Strategy):
        raise ValueError(
            f"trainer.strategy must be one that knows the student, got {type(strategy).__name__}. Set trainer.strategy "
            "to pd_lightning.strategies.FSDP2Strategy to shard it, or to ddp."
        )


def check_precision(trainer: pl.Trainer) -> None:
    """Refuse a precision that overflows.

    Raises:
        ValueError: For float16.
    """
    if trainer.precision in ("16-mixed", "16-true"):
        raise ValueError(
            f"trainer.precision must not be float16, got {trainer.precision}: sums over a batch overflow in it at any "
            "loss scale. Set trainer.precision to bf16-mixed."
        )


def keep_targets_exact(trainer: pl.Trainer) -> None:
    """Leave batches as they are in precision `bf16-true`: stored log-probabilities would be rounded to 3 digits."""
    plugin: Any = trainer.precision_plugin
    if trainer.precision == "bf16-true":
        plugin.convert_input = lambda batch: batch


def is_logged(trainer: pl.Trainer, total_steps: int) -> bool:
    """Tell whether loggers see the figures of the optimizer step at hand, or it is the last of `total_steps`."""
    every: int = attrgetter("log_every_n_steps")(trainer)
    step = trainer.fit_loop.epoch_loop._batches_that_stepped + 1
    return (every > 0 and step % every == 0) or trainer.global_step + 1 >= total_steps


def warn_of_no_effect() -> None:
    """Warn of settings of the KD loss where there is no teacher."""
    warnings.warn(
        "model.kd_weight, model.loss, model.transforms and routing by model.weighting have no effect with NoTeacher: "
        "the LM loss alone is trained on. Set model.teacher, or leave them out.",
        stacklevel=2,
    )


def check_validation_interval(trainer: pl.Trainer) -> None:
    """Refuse checkpoints in the middle of an accumulation, which could not be gone on from exactly.

    Raises:
        ValueError: If validation, after which checkpoints are taken, comes between micro-batches of a step.
    """
    accumulate, every = trainer.accumulate_grad_batches, trainer.val_check_batch
    whole_epoch = every == trainer.num_training_batches
    if isinstance(every, int) and every % accumulate and not whole_epoch:
        raise ValueError(
            f"Validation must come between optimizer steps, got val_check_interval {every} with "
            f"accumulate_grad_batches {accumulate}. Set trainer.val_check_interval to a multiple of {accumulate}."
        )


def check_same_tensors(own: Mapping[str, Tensor], loaded: Mapping[str, Tensor]) -> None:
    """Refuse a checkpoint whose tensors are not the student's.

    Args:
        own: The state of the module.
        loaded: The state in the checkpoint.

    Raises:
        ValueError: Naming the first tensor that differs.
    """
    for name in [*own, *(name for name in loaded if name not in own)]:
        here, there = (state[name].shape if name in state else None for state in (own, loaded))
        if here != there:
            found = f"{name} with shape {_shape(there)} in place of {_shape(here)}"
            raise ValueError(
                f"The checkpoint must be of the same student, got {found}. Set model.student as in the config.yaml of "
                "the checkpoint's run, or start another run without --ckpt_path in another trainer.default_root_dir."
            )


def _shape(shape: Any) -> str:
    return "none" if shape is None else str(list(shape))


def tokenizer_dir(trainer: pl.Trainer) -> str | None:
    """Give the folder of the data's tokenizer; other people's data have none that we know of."""
    return None if manifest_of(trainer) is None else str(_datamodule(trainer).tokenizer_dir)


def manifest_of(trainer: pl.Trainer) -> Any:
    """The manifest of our data folders; other people's data have none."""
    return getattr(_datamodule(trainer), "manifest", None)


def _datamodule(trainer: pl.Trainer) -> Any:
    return getattr(trainer, "datamodule", None)
