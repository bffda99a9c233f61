"""Whom a student is compared with on each of several domains."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from pd_lightning.callbacks.distilling import distilling
from pd_lightning.callbacks.domains import Domain
from pd_lightning.module.surroundings import surroundings_of
from pd_lightning.teachers import NoTeacher, OfflineTeacher, Surroundings, Teacher


def live_teacher(
    trainer: pl.Trainer, pl_module: pl.LightningModule, given: Teacher | None, surroundings: Surroundings, who: str
) -> Teacher | None:
    """Find the teacher that computes on all domains.

    Args:
        trainer: Its callbacks may have the training's.
        pl_module: May have it.
        given: The user's choice, which is made ready; None for the teacher that validation of the training has.
        surroundings: What it has to fit to.
        who: The callback that asks, for messages.

    Returns:
        The teacher, or None where there is none that computes.

    Raises:
        ValueError: If the one that is given does not fit.
    """
    found = None if given is not None else distilling(trainer, pl_module)
    teacher = given if found is None else getattr(found, "val_teacher", None) or found.teacher
    if isinstance(teacher, (NoTeacher, OfflineTeacher)):
        return None
    if given is not None:
        try:
            given.setup(surroundings)
        except ValueError as error:
            remedy = f"It is the teacher of {who}: set another there, or change its domains or its context_length."
            raise ValueError(f"{error} {remedy}") from error
    return teacher


def teacher_of(domain: Domain, live: Teacher | None, surroundings: Surroundings) -> Teacher | None:
    """Find whom a domain's batches are compared with: a teacher that computes, or what a store keeps.

    Args:
        domain: The domain.
        live: The teacher that computes, if there is one.
        surroundings: What another has to fit to.
    """
    if live is not None:
        return live if live.form is not None and live.form.kind in ("dense", "bucket") else None
    manifest = domain.manifest
    if manifest is None or manifest.kind != "logits" or manifest.sampled:
        return None
    teacher = OfflineTeacher()
    store: Mapping[str, Any] = {"data_vocab_size": manifest.vocab_size, "columns": manifest.columns}
    teacher.setup(replace(surroundings, data_kind="logits", **store))
    return teacher


def around(
    trainer: pl.Trainer, vocab_size: int | None, tokenizer: Any, folder: str, domains: Collection[Domain]
) -> Surroundings:
    """Tell a teacher what it has to fit to: all the domains, and not the data that the student is trained on.

    Args:
        trainer: Tells of devices.
        vocab_size: Width of the student's logits, where it is known.
        tokenizer: The tokenizer of the domains.
        folder: Its folder, or its name on the hub.
        domains: The domains.
    """
    isolated = any(domain.manifest and domain.manifest.document_attention == "isolated" for domain in domains)
    return replace(
        surroundings_of(trainer, vocab_size),
        data_kind=None,
        data_vocab_size=None,
        columns=(),
        selection=None,
        tokenizer_vocab_size=max(tokenizer.get_vocab().values()) + 1,
        tokenizer_dir=Path(folder) if Path(folder).is_dir() else None,
        block_size=max((domain.length for domain in domains), default=None),
        document_attention="isolated" if isolated else "full",
    )
