"""No teacher: plain language-model pre-training."""

from pd_lightning.teachers.base import Batch, Teacher


class NoTeacher(Teacher):
    """Gives no targets, so that the LM loss alone is trained on: how teachers are trained and baselines run."""

    def __call__(self, batch: Batch) -> None:
        """Give None."""
        return None
