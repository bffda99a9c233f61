"""What a student says, as text: prompts completed, and shown where loggers can show text."""

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from pd_lightning.callbacks.live_student import logged_step
from pd_lightning.callbacks.rolling import encode_text, prefix_id
from pd_lightning.language_model import LanguageModel
from pd_lightning.targets.heads import Head


def complete(
    student: LanguageModel,
    tokenizer: Any,
    prompt: str,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    length: int,
    device: torch.device,
) -> str:
    """Complete a prompt token by token, each from a pass over the whole context: any model will do.

    Args:
        student: The model.
        tokenizer: Its tokenizer.
        prompt: The text to go on from; empty to begin one.
        max_new_tokens: Tokens at most; end-of-text ends it earlier.
        temperature: 0 for the most probable token, else what logits are divided by before one is drawn.
        seed: Of what is drawn; no other random state is used.
        length: Tokens of the context that the model takes; of more, the last ones are seen.
        device: Where the model computes.

    Returns:
        The completion alone.
    """
    generator = torch.Generator().manual_seed(seed)
    ids = encode_text(tokenizer, prompt) or [prefix_id(tokenizer)]
    start = len(ids)
    for _ in range(max_new_tokens):
        context = torch.tensor([ids[-length:]], device=device)
        logits = student.compute(_last_logits, context)[0]["logits"].float().cpu()
        if temperature == 0:
            chosen = int(logits.argmax())
        else:
            chosen = int(torch.multinomial((logits / temperature).softmax(dim=-1), 1, generator=generator))
        if chosen == tokenizer.eos_token_id:
            break
        ids.append(chosen)
    return str(tokenizer.decode(ids[start:], skip_special_tokens=True))


def show(trainer: pl.Trainer, name: str, prompts: Sequence[str], completions: Sequence[str]) -> None:
    """Give completions to the loggers that take text (TensorBoard, W&B), or print them where none does.

    Args:
        trainer: Has the loggers; its first rank shows.
        name: What they are shown under; TensorBoard's have the number of the prompt behind it.
        prompts: The prompts.
        completions: What the student said.
    """
    if not trainer.is_global_zero:
        return
    shown = [_show_in(logger, name, prompts, completions, logged_step(trainer)) for logger in trainer.loggers]
    if not any(shown):
        for prompt, completion in zip(prompts, completions, strict=True):
            rank_zero_info(f"{name}: {prompt!r} → {completion!r}")


def _show_in(logger: Any, name: str, prompts: Sequence[str], completions: Sequence[str], step: int) -> bool:
    rows = list(zip(prompts, completions, strict=True))
    if hasattr(logger, "log_text"):  # WandbLogger
        logger.log_text(name, columns=["prompt", "completion"], data=[list(row) for row in rows])
        return True
    experiment: Any = getattr(logger, "experiment", None)
    if not hasattr(experiment, "add_text"):
        return False
    for number, (prompt, completion) in enumerate(rows):
        experiment.add_text(f"{name}/{number}", f"{_as_it_is(prompt)}\n\n→\n\n{_as_it_is(completion)}", step)
    return True


def _last_logits(hidden: Tensor, head: Head) -> dict[str, Tensor]:
    return {"logits": head(hidden[:, -1:])[0, -1]}


def _as_it_is(text: str) -> str:
    """Indent a text by four, so that Markdown shows it as it is."""
    return "\n".join(f"    {line}" for line in text.splitlines())
