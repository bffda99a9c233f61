"""A plan as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Row = tuple[str, ...]


def as_text(plan: dict[str, Any]) -> str:
    """Write a plan for a terminal.

    Args:
        plan: What `make_plan` gave.
    """
    parts = [_models(plan), _runs(plan), _memory(plan)]
    if plan["teacher"] is not None:
        parts += [_store(plan), _break_even(plan), _worth(plan), _optimum(plan)]
    for name in ("checked", "not checked", "warnings", "assumptions"):
        if plan.get(name):
            parts.append("\n".join([name.capitalize(), *(f"- {line}" for line in plan[name])]))
    return "\n\n".join(parts)


def _models(plan: dict[str, Any]) -> str:
    rows = []
    for who, work, total in (("student", "training", "student_training"), ("teacher", "forward", "teacher_forward")):
        model = plan[who]
        if model is not None:
            rows.append(
                (
                    who,
                    count(model["params"]),
                    count(model["params_non_embedding"]),
                    f"{count(model['flops_per_token'])} {work}",
                    f"{plan['flops'][total]:.3g}",
                )
            )
    header = ("", "parameters", "non-embedding", "FLOPs a token", f"FLOPs, {count(plan['tokens'])} tokens")
    return _table("Models", header, rows)


def _runs(plan: dict[str, Any]) -> str:
    hardware = plan["hardware"]
    rows = [
        (
            name,
            number(run["gpu_hours"]),
            hours(run["wall_hours"]),
            "–" if run["price"] is None else number(run["price"]),
            "–" if run["tokens_per_second"] is None else count(run["tokens_per_second"]),
        )
        for name, run in plan["runs"].items()
    ]
    title = f"Time on {hardware['gpus']} × {hardware['name']}"
    return _table(title, ("", "GPU-hours", "wall time", "price", "tokens/s"), rows)


def _memory(plan: dict[str, Any]) -> str:
    memory = plan["memory"]
    ways = [name for name in ("plain or offline", "online") if name in memory]
    rows = [
        (part, *(f"{memory[way][part] / 1e9:.1f}" if part in memory[way] else "–" for way in ways))
        for part in memory[ways[-1]]
        if not part.startswith("together")
    ]
    totals = ("together", "together, checkpointed")
    rows += [(part, *(f"{memory[way][part] / 1e9:.1f}" for way in ways)) for part in totals]
    title = f"GB of a GPU's {memory['gpu_bytes'] / 1e9:.0f}, {memory['strategy']}"
    return _table(title, ("", *ways), rows)


def _store(plan: dict[str, Any]) -> str:
    store = plan["store"]
    return "\n".join(
        [
            "Store",
            f"  {size(store['bytes'])}: {count(store['tokens'])} tokens at {store['bytes_per_token']:.4g} bytes",
            f"  read at {size(store['read_bytes_per_second'])}/s in training "
            f"({size(store['read_bytes_per_second_per_gpu'])}/s and GPU), written at "
            f"{size(store['write_bytes_per_second'])}/s",
        ]
    )


def _break_even(plan: dict[str, Any]) -> str:
    found = plan["break_even"]
    way = {"offline": "record", "online": "run the teacher live", "equal": "either costs the same"}[found["cheaper"]]
    return "\n".join(
        [
            "Record, or run the teacher live",
            f"  recording pays from {found['passes_to_pay']} passes over the data on (students × epochs)",
            f"  for {found['planned_passes']:g}: {number(found['offline_gpu_hours'])} GPU-hours of the teacher "
            f"recorded, {number(found['online_gpu_hours'])} live: {way}",
        ]
    )


def _worth(plan: dict[str, Any]) -> str:
    worth = plan["worth"]
    rows = [
        (
            name,
            count(each["plain_tokens"]),
            f"{each['plain_loss']:.3f}",
            f"{each['gain']:+.3f}",
            "distil" if each["distilling_wins"] else "train plainly",
        )
        for name, each in {"this plan": worth["chosen"], **worth["scenarios"]}.items()
    ]
    title = (
        f"Distil, or train plainly for as much compute: distilled {worth['distilled_loss']:.3f} nats, teacher "
        f"{worth['teacher_loss']:.3f}"
    )
    return _table(title, ("what is paid", "plain tokens", "plain loss", "gain", "better"), rows)


def _optimum(plan: dict[str, Any]) -> str:
    best = plan["optimum"]
    rows = [
        (
            f"{name}, at an edge of the law's data" if best[name]["at_edge"] else name,
            count(best[name]["params"]),
            count(best[name]["tokens"]),
            f"{best[name]['loss']:.3f}",
        )
        for name in ("plain", "distilled")
        if best[name] is not None
    ]
    title = f"The best student for {best['budget']:.3g} FLOPs"
    return _table(title, ("", "non-embedding", "tokens", "loss"), rows)


def _table(title: str, header: Row, rows: Sequence[Row]) -> str:
    """Columns as wide as they need; the first is text, others are figures."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = [
        "  "
        + "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in (header, *rows)
    ]
    return "\n".join([title, *(line.rstrip() for line in lines)])


def count(value: float) -> str:
    """A number with three or four digits and K, M, B or T."""
    for unit, name in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if value >= unit:
            return f"{value / unit:.2f}{name}" if value < 1000 * unit else f"{value / unit:,.0f}{name}"
    return f"{value:.0f}"


def size(value: float) -> str:
    """Bytes with three digits and a unit."""
    for unit, name in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "KB")):
        if value >= unit:
            return f"{value / unit:.3g} {name}"
    return f"{value:.3g} B"


def number(value: float) -> str:
    """A number with separators, and digits after the point where it is small."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def hours(value: float) -> str:
    """A time with its unit."""
    for unit, name in ((1 / 24, "d"), (1.0, "h"), (60.0, "min")):
        if value * unit >= 1.0 and not (name == "d" and value < 48):
            return f"{value * unit:.3g} {name}"
    return f"{value * 3600:.3g} s"
