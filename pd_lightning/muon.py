"""Muon for the matrices of hidden layers, AdamW for everything else, as one optimizer."""

from collections.abc import Iterable
from typing import Any

from torch.optim import AdamW, Muon, Optimizer


class MuonWithAdamW(Optimizer):
    """Orthogonalised momentum for hidden matrices; AdamW for embeddings, biases and norms, which Muon is not for.

    Args:
        params: Parameter groups; those with `hidden` true go to Muon, as `DistillationModule` marks them.
        lr: Learning rate of both; Muon's updates are scaled to AdamW's size. `model.lr` sets it.
        weight_decay: Decoupled weight decay where a group has none of its own.
        momentum: Momentum of Muon.
        betas: Decay rates of AdamW's moments.

    Raises:
        ValueError: If no group is for Muon.

    Source: Jordan et al. (2024), Muon; Liu et al. (arXiv 2502.16982) for the scale.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.95),
    ) -> None:
        groups = list(params)
        hidden = [group for group in groups if group.get("hidden")]
        others = [group for group in groups if not group.get("hidden")]
        if not hidden:
            raise ValueError(
                "MuonWithAdamW must have matrices of hidden layers, got none. Set model.optimizer to torch.optim.AdamW."
            )
        self.muon = Muon(hidden, lr=lr, weight_decay=weight_decay, momentum=momentum, adjust_lr_fn="match_rms_adamw")
        self.adamw = AdamW(others, lr=lr, weight_decay=weight_decay, betas=betas) if others else None
        super().__init__([*self.muon.param_groups, *(self.adamw.param_groups if self.adamw else [])], {})
        self._share()

    def step(self, closure: Any = None) -> Any:
        """Take a step with both."""
        loss = self.muon.step(closure)  # type: ignore[no-untyped-call]
        if self.adamw:
            self.adamw.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the state of both."""
        super().load_state_dict(state_dict)
        self._share()

    def _share(self) -> None:
        """One state and one list of groups for all three: whoever saves or schedules them sees them whole."""
        count = len(self.muon.param_groups)
        self.muon.state = self.state
        self.muon.param_groups = self.param_groups[:count]
        if self.adamw:
            self.adamw.state = self.state
            self.adamw.param_groups = self.param_groups[count:]
