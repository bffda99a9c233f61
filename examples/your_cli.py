"""Your own LightningCLI: the classes of pd-lightning come by class_path, beside yours. Run it as

python your_cli.py fit --config your_cli.yaml
"""

from lightning.pytorch.cli import LightningCLI
from project import LitGPT
from texts import Texts
from torch import Tensor

from pd_lightning.distiller import Distiller
from pd_lightning.losses import ForwardKL, Loss
from pd_lightning.schedules import Schedule
from pd_lightning.teachers import Teacher
from pd_lightning.transforms import Transform


class DistilledGPT(LitGPT):
    """The project's module with a teacher; everything about it is a setting."""

    def __init__(
        self,
        teacher: Teacher,
        transforms: dict[str, Transform] | None = None,
        loss: Loss | None = None,
        kd_weight: Schedule | float = 0.9,
        dim: int = 32,
    ) -> None:
        super().__init__(dim)
        self.distiller = Distiller(teacher, transforms, loss or ForwardKL(), kd_weight=kd_weight)

    def setup(self, stage: str) -> None:
        self.distiller.setup(self)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        distilled = self.distiller(batch, self.model(batch[0]))
        self.log_dict(distilled.metrics("train/" if self.training else "val/"))
        return distilled.loss


if __name__ == "__main__":
    LightningCLI(DistilledGPT, Texts, seed_everything_default=1)
