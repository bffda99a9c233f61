"""The objective of pre-training distillation: (1 - kd_weight) · LM loss + kd_weight · KD loss."""

from pd_lightning.objective.objective import Objective

__all__ = ["Objective"]
