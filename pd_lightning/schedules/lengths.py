"""Lengths of the parts of a schedule: below 1 a fraction of the run, from 1 on a number of optimizer steps."""


def in_steps(length: float, total_steps: int) -> int:
    """Give a length in optimizer steps.

    Args:
        length: Below 1 a fraction of the run, from 1 on a number of steps.
        total_steps: Optimizer steps of the run.

    Returns:
        The steps, rounded.
    """
    return round(length * total_steps) if length < 1 else round(length)


def check_lengths(**lengths: float) -> None:
    """Refuse negative lengths.

    Args:
        lengths: Lengths by the names of their settings.

    Raises:
        ValueError: Naming the setting.
    """
    for name, length in lengths.items():
        if not length >= 0:
            raise ValueError(
                f"{name} must be at least 0, got {length}. Set init_args.{name} to a fraction of the run below 1, "
                "or to a number of steps."
            )
