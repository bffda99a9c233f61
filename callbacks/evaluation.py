"""How a student does on texts of several kinds, against its teacher, and in its own words."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from pd_lightning.callbacks.completions import complete, show
from pd_lightning.callbacks.domain_teachers import around, live_teacher, teacher_of
from pd_lightning.callbacks.domains import BlockDomain, Domain, TextDomain, as_source, is_blocks
from pd_lightning.callbacks.figures import figures, no_sums, sums
from pd_lightning.callbacks.live_student import evaluating, live_student
from pd_lightning.callbacks.token_bytes import token_bytes
from pd_lightning.callbacks.tokenizer import context_length, load_tokenizer
from pd_lightning.callbacks.training_data import tokenizer_of
from pd_lightning.data import Source
from pd_lightning.language_model import LanguageModel
from pd_lightning.store.manifest import tokenizer_digest
from pd_lightning.targets.heads import Head
from pd_lightning.teachers import Teacher

_WHO = "Evaluation"


class Evaluation(pl.Callback):
    """Evaluates the student on domains at each validation, and lets it complete prompts.

    Logged for each domain as `val/<domain>/<figure>`: `lm_loss`, `perplexity`, `bits_per_byte`, `top1_accuracy`,
    `calibration_error`, of texts also `word_perplexity`, and where a teacher has something to say of it
    `top1_agreement`, `top5_agreement`, `kl` and `acceptance`; completions as the text `val/completions`. Defined in
    docs/evaluation.md. The training stays the same to the bit.

    Works on a DistillationModule, and on any LightningModule with a submodule, or a `forward`, that gives logits for
    token ids. Each rank evaluates its share.

    Args:
        domains: By a name of yours, a folder of token blocks or a logit store, of which the validation split is read;
            or texts: a file, a folder, a glob, or a source by class_path.
        every_n_validations: Evaluate at each so many validations.
        module: Dotted name of the submodule that maps token ids `[B, T]` to logits `[B, T, V]`. Default: the student
            of a DistillationModule, or the LightningModule itself.
        teacher: Whom the student is compared with. Default: the teacher that validation of the training has; where
            that reads a store, so do domains that are stores.
        tokenizer: Folder or hub name of the tokenizer; TokenBlocks know theirs.
        batch_size: Blocks or windows at a time.
        limit: Use only the first so many blocks or texts of each domain.
        context_length: Tokens of a window of text. Default: what the student takes, or else a block of the data.
        prompts: Texts to complete.
        max_new_tokens: Tokens of a completion.
        temperature: 0 completes by the most probable tokens; otherwise tokens are drawn at this temperature.
        seed: Of what is drawn.

    Raises:
        ValueError: If a setting is out of range, or there is nothing to evaluate.
    """

    def __init__(
        self,
        domains: dict[str, str | Source] | None = None,
        every_n_validations: int = 1,
        module: str | None = None,
        teacher: Teacher | None = None,
        tokenizer: str | None = None,
        batch_size: int = 8,
        limit: int | None = None,
        context_length: int | None = None,
        prompts: list[str] | None = None,
        max_new_tokens: int = 32,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> None:
        given = {"every_n_validations": every_n_validations, "batch_size": batch_size, "limit": limit}
        given |= {"context_length": context_length, "max_new_tokens": max_new_tokens}
        for name, value in given.items():
            if value is not None and value < 1:
                raise ValueError(f"{name} of {_WHO} must be at least 1, got {value}. Raise it.")
        if temperature < 0:
            raise ValueError(f"temperature of {_WHO} must be at least 0, got {temperature}. Set it to 0, say.")
        if not domains and not prompts:
            raise ValueError(f"{_WHO} must have something to evaluate, got neither. Set its domains or its prompts.")
        self.domains = domains or {}
        self.every_n_validations = every_n_validations
        self.module = module
        self.teacher = teacher
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.limit = limit
        self.context_length = context_length
        self.prompts = prompts or []
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.seed = seed
        self._validations = 0
        self._ready: dict[str, tuple[Domain, Teacher | None]] | None = None
        self._student: LanguageModel | None = None
        self._tokenizer: Any = None
        self._length = 0
        self._bytes: Tensor | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Begin anew."""
        self._ready = self._student = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find student, tokenizer and teacher, and open the domains.

        Raises:
            ValueError: If there is no validation to evaluate at, or one of these is not to be had.
        """
        if not trainer.enable_validation:
            raise ValueError(
                f"{_WHO} must have validations to evaluate at, got a training without. Give it a validation split and "
                "set trainer.limit_val_batches above 0."
            )
        with isolate_rng():
            self._prepare(trainer, pl_module)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Do the same where this is no part of a training."""
        if self._ready is None:
            self._prepare(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Evaluate, and log."""
        if trainer.sanity_checking:
            return
        self._validations += 1
        fitting = trainer.state.fn == TrainerFn.FITTING
        if fitting and self._validations % self.every_n_validations:
            return
        assert self._ready is not None
        with evaluating(trainer, pl_module):
            for name, (domain, teacher) in self._ready.items():
                found = self._evaluate(trainer, domain, teacher)
                # The same on all ranks, but Lightning asks for the flag.
                pl_module.log_dict({f"val/{name}/{key}": value for key, value in found.items()}, sync_dist=True)
            self._complete(trainer)

    @property
    def state_key(self) -> str:
        """Tell several of one training apart."""
        teacher = None if self.teacher is None else [type(self.teacher).__name__, getattr(self.teacher, "name", None)]
        compared = {"module": self.module, "teacher": teacher, "every": self.every_n_validations}
        return self._generate_state_key(domains=sorted(self.domains), prompts=self.prompts, **compared)

    def state_dict(self) -> dict[str, Any]:
        """Keep the count of validations."""
        return {"validations": self._validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self._validations = state_dict["validations"]

    def _prepare(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._check_names(trainer)
        self._student = live_student(trainer, pl_module, self.module, _WHO)
        folder = tokenizer_of(trainer, self.tokenizer, _WHO)
        self._tokenizer = load_tokenizer(folder, _WHO)
        key = f"context_length of {_WHO}"
        self._length = context_length(trainer, pl_module, self._student, self.context_length, key)
        self._bytes = self._count_bytes(trainer)
        domains = {name: self._open(name, path, folder) for name, path in self.domains.items()}
        surroundings = around(trainer, self._student.vocab_size, self._tokenizer, folder, domains.values())
        live = live_teacher(trainer, pl_module, self.teacher, surroundings, _WHO)
        self._ready = {name: (domain, teacher_of(domain, live, surroundings)) for name, domain in domains.items()}

    def _check_names(self, trainer: pl.Trainer) -> None:
        callbacks: Any = trainer.callbacks  # type: ignore[attr-defined]
        for other in callbacks:
            both = self.domains.keys() & other.domains.keys() if isinstance(other, Evaluation) else set()
            if both and other is not self:
                raise ValueError(
                    f"A domain must have another name in each {_WHO}, got {min(both)} in two, whose figures would be "
                    "logged as one. Rename it in domains of one of them."
                )

    def _count_bytes(self, trainer: pl.Trainer) -> Tensor:
        assert self._student is not None
        width = max(self._student.vocab_size or 0, len(self._tokenizer), *self._tokenizer.get_vocab().values()) + 1
        return token_bytes(self._tokenizer, width).to(trainer.strategy.root_device)

    def _open(self, name: str, path: str | Source, tokenizer: str) -> Domain:
        if not is_blocks(path):
            source = as_source(path, f"domains.{name} of {_WHO}")
            return TextDomain(source, self._tokenizer, self._length, self.batch_size, self.limit)
        assert isinstance(path, str)
        assert self._student is not None
        domain = BlockDomain(Path(path), self.batch_size, self.limit)
        assert domain.manifest is not None
        if (Path(tokenizer) / "tokenizer.json").is_file() and tokenizer_digest(tokenizer) != (
            domain.manifest.tokenizer.digest
        ):
            raise ValueError(
                f"A domain must hold blocks of the training's tokenizer, got {path} for {name}, which has another than "
                f"{tokenizer}. Tokenize it with --tokenizer {tokenizer}, or name its text instead."
            )
        if domain.manifest.block_size > self._length:
            raise ValueError(
                f"A block of a domain must fit into the student's context, got {domain.manifest.block_size} positions "
                f"of {name} for {self._length}. Tokenize it with a smaller block_size, or name its text instead."
            )
        if domain.manifest.document_attention == "isolated":
            self._student.check_isolation("student")
        return domain

    def _evaluate(self, trainer: pl.Trainer, domain: Domain, teacher: Teacher | None) -> dict[str, float]:
        share = trainer.distributed_sampler_kwargs or {"rank": 0, "num_replicas": 1}
        device, total = trainer.strategy.root_device, no_sums()
        for batch in domain.share(share["rank"], share["num_replicas"]):
            # Not by the strategy: it asks the project's own hooks, which are there for other batches.
            moved = {name: tensor.to(device) for name, tensor in batch.items()}
            total += self._sums(moved, teacher, None if domain.num_bytes is not None else self._bytes)
        if trainer.world_size > 1:
            summed: Any = trainer.strategy.reduce(total.to(device), reduce_op="sum")
            # Ranks of tensor parallelism have found the same.
            total = summed * (share["num_replicas"] / trainer.world_size)
        form = None if teacher is None or teacher.form is None else teacher.form.kind
        return figures(total.cpu(), form, domain.num_bytes, domain.num_words)

    def _sums(self, batch: dict[str, Tensor], teacher: Teacher | None, sizes: Tensor | None) -> Tensor:
        assert self._student is not None
        targets = None if teacher is None else teacher(batch)
        shared = None if teacher is None else teacher.shared_vocab_size

        def compare(hidden: Tensor, head: Head) -> dict[str, Any]:
            return {"sums": sums(hidden.flatten(0, 1), head, batch["labels"].flatten(), targets, sizes, shared)}

        found, _ = self._student.compute(compare, batch["input_ids"], batch.get("position_ids"))
        return found["sums"]

    def _complete(self, trainer: pl.Trainer) -> None:
        assert self._student is not None
        settings = (self.max_new_tokens, self.temperature, self.seed, self._length, trainer.strategy.root_device)
        said = [complete(self._student, self._tokenizer, prompt, *settings) for prompt in self.prompts]
        if said:
            show(trainer, "val/completions", self.prompts, said)
