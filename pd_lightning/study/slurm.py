"""Workers of a study as jobs of a SLURM cluster, submitted through submitit."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from pd_lightning.study.settings import Slurm

LOGS = "slurm"


def submit(slurm: Slurm, workers: int, command: list[str], folder: Path, environment: dict[str, str]) -> list[str]:
    """Submit the workers. The first runs `prepare` while the others wait for it; trials that a job leaves, others take.

    Args:
        slurm: The jobs' settings.
        workers: Number of jobs.
        command: What each runs.
        folder: The study's folder, which all machines see.
        environment: Variables that it needs.

    Returns:
        The ids of the jobs.

    Raises:
        ModuleNotFoundError: submitit is not installed.
        ValueError: A parameter is none of submitit's, or there is no SLURM here.
    """
    try:
        import submitit
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "study with slurm needs submitit, which is not installed. Install it with: pip install "
            "'pd-lightning[slurm]'"
        ) from error
    try:
        executor = submitit.AutoExecutor(folder=folder / LOGS, cluster=slurm.cluster)
        executor.update_parameters(name=f"study-{folder.name}", timeout_min=slurm.timeout_min, **slurm.parameters)
    except (RuntimeError, NameError, TypeError) as error:
        raise ValueError(
            f"slurm.parameters must be those of submitit on a machine with SLURM, got {slurm.parameters} ({error}). "
            "Mend slurm.parameters, or submit where sbatch is."
        ) from error
    with executor.batch():
        jobs = [executor.submit(run_worker, command, environment) for _ in range(workers)]
    ids = [str(job.job_id) for job in jobs]
    print(f"Submitted {workers} workers as jobs {', '.join(ids)}; their output is in {folder / LOGS}.")
    print("The same command with --report_only=true writes the report of what there is at any time.")
    return ids


def run_worker(command: list[str], environment: dict[str, str]) -> None:
    """What a job does.

    Args:
        command: The worker's command.
        environment: Variables that it needs.
    """
    subprocess.run(command, env={**os.environ, **environment}, check=True)
