"""RS-KD: a few ids drawn at random instead of the most probable ones."""

from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pd_lightning.context import Context, Progress
from pd_lightning.targets import DenseTargets, Form
from pd_lightning.transforms.base import AnyTargets, Transform


class SampleTokens(Transform):
    """Draw n ids with replacement from q ∝ t^s, t the teacher's probabilities, and keep what was drawn.

    Of c draws of an id, c/n · t/q is an unbiased estimate of t: the mean over many draws is the dense target, where
    truncation that is renormalised never is. The draws are those of the seed and of the place in the run: a resumed
    run draws the same, on the same kind of device, and the global random numbers are left alone.

    Args:
        n: Draws at each position.
        s: Exponent of the proposal, above 0: 1 draws from the teacher itself, less draws rare ids more often.
        seed: Seed of the draws.
        target: `counts`, the unbiased estimates; `probabilities`, the teacher's own probabilities of the ids drawn,
            scaled to sum to 1, as Gemma 3 does with n 256; this is biased.

    Raises:
        ValueError: If `n` or `s` is not positive, or `seed` is negative.

    Source: Anshumann et al., Sparse Logit Sampling (arXiv 2503.16870); Gemma 3 (arXiv 2503.19786).
    """

    def __init__(
        self, n: int = 50, s: float = 1.0, seed: int = 0, target: Literal["counts", "probabilities"] = "counts"
    ) -> None:
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}. Set init_args.n of SampleTokens, 50 say.")
        if not 0 < s < float("inf"):
            raise ValueError(f"s must be positive, got {s}. Set init_args.s of SampleTokens, 1.0 say.")
        if seed < 0:
            raise ValueError(f"seed must be at least 0, got {seed}. Set init_args.seed of SampleTokens.")
        self.n = n
        self.s = s
        self.seed = seed
        self.target = target

    def form(self, before: Form) -> Form:
        """Refuse to sample from truncated targets, and with a temperature to estimate probabilities.

        Raises:
            ValueError: Saying what to use instead.
        """
        remedy = (
            "Sampling from truncated targets is biased: set model.teacher to pd_lightning.teachers.FrozenTeacher, and "
            "leave truncation out of model.transforms."
        )
        before.require_kind(("dense",), "SampleTokens", remedy)
        if not before.whole:
            raise ValueError(f"SampleTokens must have all of the teacher's targets, got truncated ones. {remedy}")
        if self.target == "probabilities":
            return replace(before, kind="renormalized", has_logits=False)
        if before.tempered:
            raise ValueError(
                "SampleTokens must have targets at temperature 1, got a temperature before it: one over its estimates "
                "is biased. Leave the temperature out of model.transforms, or set init_args.target of SampleTokens to "
                "probabilities."
            )
        return replace(before, kind="sampled", has_logits=False)

    def teacher(self, targets: AnyTargets, ctx: Context) -> AnyTargets:
        """Draw from the targets of n positions."""
        assert isinstance(targets, DenseTargets), "form refuses others"
        drawn, log_total = self._draw(targets.logprobs, ctx.progress)
        ids, counts = _counted(drawn)
        logprobs = targets.logprobs.gather(-1, ids)
        if self.target == "probabilities":
            own = logprobs.masked_fill(counts == 0, -torch.inf).log_softmax(dim=-1)
            return replace(targets.keep(ids, own), kind="renormalized")
        # t / q = t^(1-s) · Σ t^s
        importance = (1.0 - self.s) * logprobs + log_total
        return replace(targets.keep(ids, (counts.to(logprobs) / self.n).log() + importance), kind="sampled")

    def _draw(self, logprobs: Tensor, progress: Progress) -> tuple[Tensor, Tensor]:
        """Draw ids, int64 `[N, n]`, and give the log of Σ t^s, float `[N, 1]`."""
        (state,) = np.random.SeedSequence((self.seed, *progress.draw)).generate_state(1, np.uint64)
        generator = torch.Generator(logprobs.device).manual_seed(int(state))
        # float64: in float32 the running sum over a large vocabulary loses the rare ids.
        wide = logprobs.dtype if logprobs.device.type == "mps" else torch.float64
        running = (self.s * logprobs).to(wide).exp_().cumsum(dim=-1)
        total = running[:, -1:]
        shape = (len(logprobs), self.n)
        points = total * torch.rand(shape, generator=generator, dtype=wide, device=logprobs.device)
        points = torch.minimum(points, total.nextafter(torch.zeros_like(total)))  # the product may round up to it
        return torch.searchsorted(running, points, right=True), total.log().to(logprobs.dtype)


def _counted(drawn: Tensor) -> tuple[Tensor, Tensor]:
    """Give each row's distinct ids, `[N, n]`, and how often each occurs: unused slots repeat the first, 0 times."""
    drawn = drawn.sort(dim=-1).values
    is_new = drawn.diff(dim=-1, prepend=drawn[:, :1]) != 0
    slot = is_new.cumsum(dim=-1)
    ids = drawn[:, :1].expand_as(drawn).scatter(-1, slot, drawn)
    return ids, torch.zeros_like(drawn).scatter_add_(-1, slot, torch.ones_like(drawn))
