import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

CODE = """
import sys
from pd_lightning.cli import main
for arguments in (["fit"], ["fit", "--ckpt_path", "last", "--trainer.max_steps=2"], ["record"], ["record"]):
    assert main([arguments[0], "--config", arguments[0] + ".yaml", *arguments[1:]]) == 0
"""
SAID = (
    "Seed set to",
    "GPU available: False, used: False",
    "Restoring states from the checkpoint path at run/checkpoints/last.ckpt",
    "Restored all states from the checkpoint at run/checkpoints/last.ckpt",
    "`Trainer.fit` stopped: `max_steps=",
    "Loading weights:",
    "The store will have about",
    "Recorded 640 tokens",
    "store is complete",
)


def test_a_user_reads_what_concerns_them(
    write: Callable[..., Path], tiny: Any, blocks: Path, teacher_dir: Path
) -> None:
    sizes = {"path": str(blocks), "batch_size": 8, "max_train_blocks": 32, "max_val_blocks": 8}
    data = {"class_path": "pd_lightning.data.TokenBlocks", "init_args": sizes}
    trainer = {"accelerator": "cpu", "enable_progress_bar": False}
    student = {"class_path": "pd_lightning.students.HFStudent", "init_args": {"config": tiny.config}}
    teacher = {"class_path": "pd_lightning.teachers.FrozenTeacher", "init_args": {"model": str(teacher_dir)}}
    training = {**trainer, "max_steps": 1, "log_every_n_steps": 1, "default_root_dir": "run", "precision": "bf16-mixed"}
    write("fit.yaml", {"model": {"student": student}, "data": data, "trainer": training})
    write("record.yaml", {"model": {"teacher": teacher, "output_dir": "store"}, "data": data, "trainer": trainer})
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    said = {start for start in SAID if any(start in line for line in lines)}
    assert said == set(SAID)
    unwanted = [line for line in lines if not any(start in line for start in (*SAID, "Automatic Mixed Precision"))]
    assert unwanted == []
