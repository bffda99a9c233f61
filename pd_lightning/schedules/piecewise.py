"""One schedule after another."""

from bisect import bisect_right
from dataclasses import dataclass

from typing_extensions import override

from pd_lightning.schedules.base import Schedule
from pd_lightning.schedules.constant import as_schedule

TOLERANCE = 1e-9  # 0.7 + 0.2 + 0.1 is 1 but for the last bits


@dataclass
class Part:
    """A part of a run, and the schedule over it.

    Args:
        schedule: The schedule, or a number; this part is the whole run to it.
        length: Below 1 a fraction of the run, from 1 on a number of steps. The last part may leave it out: it then
            takes the rest of the run.
    """

    schedule: Schedule | float
    length: float | None = None


class Piecewise(Schedule):
    """One schedule after another, each over its own part of the run.

    Args:
        parts: The parts by name, in order; together they must fill the run.

    Raises:
        ValueError: If there is no part, a length is not positive, one is left out before the last part, or the parts
            exceed the run or do not fill it.
    """

    def __init__(self, parts: dict[str, Part]) -> None:
        if not parts:
            raise ValueError("parts must name a part at least, got none. Set init_args.parts.")
        _check_each(parts)
        lengths = [part.length for part in parts.values()]
        fractions = sum(length for length in lengths if length is not None and length < 1)
        alone = all(length is not None and length < 1 for length in lengths)
        if fractions > 1 + TOLERANCE or (alone and fractions < 1 - TOLERANCE):
            raise ValueError(_unfit(parts, f"fractions that sum to {fractions:g}"))
        self.parts = parts

    @override
    def __call__(self, step: int, total_steps: int) -> float:
        edges = [0, *self._ends(total_steps)]
        step = min(step, total_steps - 1)
        index = bisect_right(edges, step)  # of the first edge beyond
        name, part = list(self.parts.items())[index - 1]
        start, end = edges[index - 1 : index + 1]
        try:
            return as_schedule(part.schedule)(step - start, end - start)
        except ValueError as error:
            raise ValueError(f"parts.{name}: {error}") from error

    @override
    def __repr__(self) -> str:
        lengths = {name: "" if part.length is None else f"[{part.length:g}]" for name, part in self.parts.items()}
        return f"Piecewise({', '.join(f'{name}{lengths[name]}={part.schedule}' for name, part in self.parts.items())})"

    def _ends(self, total_steps: int) -> list[int]:
        """Give the steps at which the parts end, the last one with the run."""
        ends, steps, fractions = [], 0, 0.0
        for part in self.parts.values():
            if part.length is None:
                # Where rounding alone leaves nothing for it, in a very short run, it is no mistake.
                left = steps + fractions * total_steps < total_steps
                ends.append(total_steps if left else -1)
                break
            if part.length < 1:
                fractions += part.length
            else:
                steps += round(part.length)
            # Fractions are rounded as a sum: rounded one by one, they would not tile the run.
            ends.append(steps + round(fractions * total_steps))
        if ends[-1] != total_steps:
            taken = steps + round(fractions * total_steps)
            raise ValueError(_unfit(self.parts, f"lengths of {taken} steps in a run of {total_steps}"))
        return ends


def _check_each(parts: dict[str, Part]) -> None:
    *_, last = parts
    for name, part in parts.items():
        if part.length is None and name != last:
            raise ValueError(
                f"parts.{name}.length must be set, got none: only the last part can take the rest of the run. Set "
                f"init_args.parts.{name}.length."
            )
        if part.length is not None and not part.length > 0:
            raise ValueError(
                f"parts.{name}.length must be above 0, got {part.length}. Set init_args.parts.{name}.length to a "
                "fraction of the run below 1, or to a number of steps."
            )


def _unfit(parts: dict[str, Part], got: str) -> str:
    *_, last = parts
    return (
        f"The parts of a Piecewise schedule must fill the run, got {got}. Change the lengths in init_args.parts; "
        f"without init_args.parts.{last}.length, the last part takes the rest, a step at least."
    )
