"""A rank of two that follows checkpoints; the second can't read the first newer one, as where a file system lags."""

import json
import os
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import distributed

from pd_lightning.teachers import CheckpointTeacher, Surroundings, checkpoint


def missing(*_: Any, **__: Any) -> None:
    raise FileNotFoundError("not there yet")


def main(rank: int, folder: Path, newer: Path, out: Path) -> None:
    distributed.init_process_group("gloo", f"file://{out}/meeting", rank=rank, world_size=2)
    teacher = CheckpointTeacher(str(folder), every_n_steps=1)
    teacher.setup(Surroundings(torch.device("cpu")))
    load, steps = checkpoint.load_checkpoint, []
    for seconds in (200, 300):
        distributed.barrier()
        if rank == 0:
            shutil.copy(newer, folder / "newer.ckpt")
            os.utime(folder / "newer.ckpt", (seconds, seconds))
        distributed.barrier()
        lags = rank == 1 and seconds == 200
        with (
            warnings.catch_warnings(record=True) as said,
            mock.patch.object(checkpoint, "load_checkpoint", missing if lags else load),
        ):
            warnings.simplefilter("always")
            teacher({"input_ids": torch.zeros(1, 4, dtype=torch.long)})
        steps.append([teacher.step, *(str(w.message) for w in said if "CheckpointTeacher" in str(w.message))])
    (out / f"{rank}.json").write_text(json.dumps(steps))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), *map(Path, sys.argv[2:]))
