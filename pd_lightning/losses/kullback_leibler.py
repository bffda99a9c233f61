"""Kullback–Leibler divergence and mixtures, on log-probabilities: what several losses are made of."""

import math

import torch
from torch import Tensor


def kl(log_a: Tensor, log_b: Tensor) -> Tensor:
    """Compute KL(a ‖ b) = Σ a (log a - log b), where 0 log 0 is 0.

    Args:
        log_a: Log-probabilities, float `[n, W]`; -inf for 0, where no gradient is asked for.
        log_b: Log-probabilities of the same outcomes, float `[n, W]`, finite wherever `log_a` is.

    Returns:
        The divergence of each position in nats, float `[n]`.
    """
    return torch.where(log_a > -torch.inf, log_a.exp() * (log_a - log_b), 0.0).sum(dim=-1)


def mixture(log_a: Tensor, log_b: Tensor, share: float) -> Tensor:
    """Compute log(share · a + (1 - share) · b).

    Args:
        log_a: Log-probabilities, float `[n, W]`.
        log_b: Log-probabilities of the same outcomes, float `[n, W]`.
        share: Share of `a`, above 0 and below 1.

    Returns:
        Log-probabilities of the mixture, float `[n, W]`.
    """
    return torch.logaddexp(log_a + math.log(share), log_b + math.log1p(-share))
