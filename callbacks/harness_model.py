"""A student in training as lm-evaluation-harness sees a language model."""

from collections.abc import Sequence
from typing import Any

import torch
from lm_eval.api.model import TemplateLM
from torch import Tensor, distributed
from torch.nn.utils.rnn import pad_sequence

from pd_lightning.callbacks.rolling import encode_text, prefix_id, rolling_windows
from pd_lightning.context import IGNORE_INDEX
from pd_lightning.language_model import LanguageModel
from pd_lightning.objective.chunking import rows_per_chunk
from pd_lightning.targets.heads import Head

_MAX_NEW_TOKENS = 256  # where a task does not say, as of HFLM


class LiveLM(TemplateLM):
    """Scores as lm-evaluation-harness's own HFLM, without touching the model: no other mode, no ties made anew.

    Args:
        student: The model, in evaluation mode.
        tokenizer: Its tokenizer.
        max_length: Tokens that the model takes.
        batch_size: Texts at a time.
        device: Where it computes.
        rank: Of this process, which is given its share of the documents.
        num_ranks: Processes that share them; 1 where each shall see all.
    """

    def __init__(
        self,
        student: LanguageModel,
        tokenizer: Any,
        max_length: int,
        batch_size: int,
        device: torch.device,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        super().__init__()
        self.student, self.tokenizer = student, tokenizer
        self.max_length, self.batch_size = max_length, batch_size
        self._device, self._rank, self._world_size = device, rank, num_ranks

    @property
    def eot_token_id(self) -> int:
        """End-of-text, or else beginning-of-text."""
        eos = self.tokenizer.eos_token_id
        return prefix_id(self.tokenizer) if eos is None else int(eos)

    @property
    def prefix_token_id(self) -> int:
        """What a text's first token is predicted from."""
        return prefix_id(self.tokenizer)

    @property
    def tokenizer_name(self) -> str:
        """Name of the tokenizer."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Gather a number of each rank."""
        if self.world_size == 1:
            return tensor
        gathered = [torch.zeros_like(tensor) for _ in range(self.world_size)]
        distributed.all_gather(gathered, tensor)
        return torch.stack(gathered)

    def gather_object(self, obj: Any, dst: int = 0) -> list[Any] | None:
        """Gather an object of each rank on one of them."""
        if self.world_size == 1:
            return [obj]
        gathered: list[Any] = [None] * self.world_size
        distributed.all_gather_object(gathered, obj)
        return gathered if self.rank == dst else None

    def barrier(self) -> None:
        """Wait for the other ranks."""
        if self.world_size > 1:
            distributed.barrier()

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Encode a text."""
        return encode_text(self.tokenizer, string, add_special_tokens=add_special_tokens)

    def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Score continuations of contexts, without a bar of its own."""
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        """Score texts of any length, see `rolling_windows`."""
        windows: list[tuple[list[int], int]] = []
        owners: list[int] = []
        for number, request in enumerate(requests):
            cut = list(rolling_windows(self.tok_encode(request.args[0]), self.prefix_token_id, self.max_length))
            windows += cut
            owners += [number] * len(cut)
        totals = [0.0] * len(requests)
        for owner, (nats, _) in zip(owners, self._score(windows), strict=True):
            totals[owner] += nats
        return totals

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        """Go on from texts, one at a time, until one of the task's stop sequences.

        Raises:
            ValueError: If the student can't generate.
        """
        return [self._generate(*request.args) for request in requests]

    def _loglikelihood_tokens(self, requests: Any, **kwargs: Any) -> list[tuple[float, bool]]:
        cut = [
            ((context + continuation)[-(self.max_length + 1) :], continuation) for _, context, continuation in requests
        ]
        return self._score([(ids, min(len(continuation), len(ids) - 1)) for ids, continuation in cut])

    def _score(self, windows: Sequence[tuple[list[int], int]]) -> list[tuple[float, bool]]:
        """Give log-probability, in nats, of the scored tokens of each window, and whether each is the most probable."""
        order = sorted(range(len(windows)), key=lambda number: -len(windows[number][0]))
        scores: dict[int, tuple[float, bool]] = {}
        for first in range(0, len(order), self.batch_size):
            numbers = order[first : first + self.batch_size]
            scores |= zip(numbers, self._score_batch([windows[number] for number in numbers]), strict=True)
        return [scores[number] for number in range(len(windows))]

    def _score_batch(self, windows: Sequence[tuple[list[int], int]]) -> list[tuple[float, bool]]:
        inputs = pad_sequence([torch.tensor(ids[:-1]) for ids, _ in windows], batch_first=True).to(self._device)
        labels = torch.full_like(inputs, IGNORE_INDEX)
        for row, (ids, scored) in enumerate(windows):
            end = len(ids) - 1
            labels[row, end - scored : end] = torch.tensor(ids[end + 1 - scored :])
        counted = labels != IGNORE_INDEX

        def compare(hidden: Tensor, head: Head) -> dict[str, Any]:
            return {"rows": _label_scores(hidden[counted], head, labels[counted])}

        rows = self.student.compute(compare, inputs)[0]["rows"]
        parts = zip(*(torch.split(values, [scored for _, scored in windows]) for values in rows), strict=True)
        return [(float(nats.sum()), bool(greedy.all())) for nats, greedy in parts]

    def _generate(self, context: str, settings: dict[str, Any]) -> str:
        model = self.student.model
        if not hasattr(model, "generate"):
            raise ValueError(
                f"A task that generates text must have a student that can, got {type(model).__name__} without "
                "`generate`. Leave the task out of tasks of LMEval, or evaluate a Hugging Face student."
            )
        options = dict(settings)
        until = options.pop("until", None) or []
        until = [until] if isinstance(until, str) else list(until)
        number = int(options.pop("max_gen_toks", _MAX_NEW_TOKENS))
        if not options.setdefault("do_sample", False):
            options.pop("temperature", None)
        ids = self.tok_encode(context)[-max(1, self.max_length - number) :] or [self.prefix_token_id]
        stops = {"stop_strings": until, "tokenizer": self.tokenizer} if until else {}
        inputs = torch.tensor([ids], device=self._device)
        made = model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=number,
            eos_token_id=self.eot_token_id,
            pad_token_id=self.eot_token_id,
            **stops,
            **options,
        )
        text = str(self.tokenizer.decode(made[0, len(ids) :], skip_special_tokens=True))
        for stop in until:
            text = text.split(stop)[0] if stop else text
        return text


def _label_scores(hidden: Tensor, head: Head, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Give the log-probability of each label, and whether it is the most probable id, some rows at a time."""
    size = rows_per_chunk(head.vocab_size or hidden.shape[-1], hidden)
    nats, greedy = [], []
    for rows, some in zip(torch.split(hidden, size), torch.split(labels, size), strict=True):
        log_q = head(rows).float().log_softmax(dim=-1)
        nats.append(log_q.gather(-1, some[:, None])[:, 0].cpu().double())
        greedy.append((log_q.argmax(dim=-1) == some).cpu())
    return torch.cat(nats), torch.cat(greedy)
