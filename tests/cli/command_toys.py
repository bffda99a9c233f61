"""Small classes for the command line to build, importable by class_path as ``command_toys.X``."""

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import nn


def raise_as_ours(error: Exception) -> None:
    """Raise as a module of the package would."""
    exec("raise error", {"__name__": "pd_lightning.somewhere", "error": error})


class Ramp:
    """A schedule's base."""


class Up(Ramp):
    """Goes up.

    Args:
        peak: The highest value.
        warmup: The part of the run that it takes.
    """

    def __init__(self, peak: float = 1.0, warmup: float = 0.1) -> None:
        self.peak, self.warmup = peak, warmup
        if peak < 0:
            raise_as_ours(ValueError(f"peak must be at least 0, got {peak}. Set peak."))


class Down(Ramp):
    """Goes down.

    Args:
        peak: Where it begins.
        name: Its name.
    """

    def __init__(self, peak: float = 0.25, name: str = "down") -> None:
        self.peak, self.name = peak, name


class Toy(LightningModule):
    """A linear map.

    Args:
        lr: The learning rate over the run.
        transforms: What is done to the data, by name.
        width: The number of outputs.
        fail: Where to fail, and how.
    """

    built: "list[Toy]" = []  # noqa: RUF012 - shared on purpose: tests look at what main() has built

    def __init__(
        self,
        lr: Ramp | None = None,
        transforms: dict[str, Ramp] | None = None,
        width: int = 3,
        fail: str | None = None,
    ) -> None:
        super().__init__()
        self.lr, self.transforms, self.fail, self.width = lr, transforms, fail, width
        self.net = nn.Linear(2, width)
        Toy.built.append(self)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        if self.fail == "bug":
            raise ValueError("a bug of the toy")
        if self.fail == "ours":
            raise_as_ours(ValueError("the batch must be fine, got a bad one. Set data."))
        if self.fail == "interrupt":
            raise KeyboardInterrupt
        if self.fail is not None and self.fail.isdigit() and self.global_step == int(self.fail):
            raise RuntimeError("stopped")
        loss = self.net(batch).pow(2).mean()
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.log("val/loss", self.net(batch).pow(2).mean())

    def predict_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return self.net(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


class ToyRecorder(Toy):
    """A recorder that keeps what happened."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def attach(self, datamodule: LightningDataModule | None) -> None:
        self.seen.append(type(datamodule).__name__)

    def predict_dataloader(self) -> torch.utils.data.DataLoader:
        return torch.utils.data.DataLoader(torch.ones(2, 2))

    def predict_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.seen.append(f"batch {batch_idx}")

    def finish(self) -> None:
        self.seen.append("finish")


class Rows(LightningDataModule):
    """Rows of ones.

    Args:
        path: Where they come from.
        num_rows: How many.
    """

    def __init__(self, path: str = "here", num_rows: int = 40) -> None:
        super().__init__()
        self.path, self.num_rows = path, num_rows

    def _loader(self) -> torch.utils.data.DataLoader:
        return torch.utils.data.DataLoader(torch.ones(self.num_rows, 2), batch_size=2)

    def train_dataloader(self) -> torch.utils.data.DataLoader:
        return self._loader()

    def val_dataloader(self) -> torch.utils.data.DataLoader:
        return self._loader()

    def predict_dataloader(self) -> torch.utils.data.DataLoader:
        return self._loader()


def copy(source: str, times: int = 1, loud: bool = False, ramp: Ramp | None = None) -> None:
    """Copy something.

    Args:
        source: What to copy.
        times: How often.
        loud: Whether to say so.
        ramp: At which speed.
    """
    print("copied", source, times, loud, ramp and ramp.peak)
