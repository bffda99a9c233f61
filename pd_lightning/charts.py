"""Line charts as inline SVG, drawn by hand: no plotting package, no script, nothing fetched."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

# Colours are classes of the page (`STYLE`), so that they follow its light or dark scheme; dashes tell lines apart too.
DASHES = ("none", "7 4", "2 3", "10 3 2 3", "12 5", "5 2 2 2")
LIGHT = ("#0072b2", "#c04f00", "#007a5a", "#a0408a", "#7a5c00", "#4b4ba8")
DARK = ("#6cb8f0", "#f5a05a", "#3fcf9f", "#e89ad0", "#e6d24a", "#a9a9f5")

FONT_SIZE = 12
LETTER_WIDTH = 7.0
LINE_HEIGHT = 15.0
MOST_POINTS_MARKED = 12


@dataclass(frozen=True)
class Chart:
    """A line chart.

    Args:
        title: What it shows.
        x_label: Quantity and unit along the horizontal axis.
        y_label: Quantity and unit along the vertical axis.
        series: Points (x, y) of each line, by name; those that are not finite are left out.
        caption: What to see in it.
    """

    title: str
    x_label: str
    y_label: str
    series: Mapping[str, Sequence[tuple[float, float]]]
    caption: str = ""


@dataclass(frozen=True)
class _Frame:
    """The plot's place in the drawing, in pixels, and the ranges of values that it shows."""

    left: float
    right: float
    top: float
    bottom: float
    x_ticks: list[float]
    y_ticks: list[float]
    x_range: tuple[float, float]

    def x(self, value: float) -> float:
        low, high = self.x_range
        return self.left + (value - low) / (high - low) * (self.right - self.left)

    def y(self, value: float) -> float:
        low, high = self.y_ticks[0], self.y_ticks[-1]
        return self.bottom - (value - low) / (high - low) * (self.bottom - self.top)


def line_chart(chart: Chart) -> str:
    """Draw a chart twice, for wide and for narrow windows; the page's `STYLE` shows the one that fits.

    Args:
        chart: What to draw.

    Returns:
        HTML with two inline SVG drawings.
    """
    lines = _lines(chart)
    if not lines:
        return "<p>No data.</p>"
    drawings = (("wide", 720.0, 380.0), ("narrow", 400.0, 300.0))
    return "\n".join(f'<div class="{name}">{_draw(chart, lines, *size)}</div>' for name, *size in drawings)


def drawing(chart: Chart, width: float, height: float) -> str:
    """Draw a chart once.

    Args:
        chart: What to draw, with one finite point at least.
        width: Width of its coordinates; text is 12 of them high.
        height: Height of its coordinates.

    Returns:
        Inline SVG, after an HTML list of the lines' names where these don't fit to their ends.
    """
    return _draw(chart, _lines(chart), width, height)


def _lines(chart: Chart) -> dict[str, list[tuple[float, float]]]:
    lines = {name: sorted(filter(_finite, points)) for name, points in chart.series.items()}
    return {name: points for name, points in lines.items() if points}


def _finite(point: tuple[float, float]) -> bool:
    return math.isfinite(point[0]) and math.isfinite(point[1])


def _draw(chart: Chart, lines: dict[str, list[tuple[float, float]]], width: float, height: float) -> str:
    frame = _frame(lines, width, height, right=16.0)
    longest = max(map(len, lines)) * LETTER_WIDTH + 16
    labelled = _frame(lines, width, height, right=longest)
    heights = _label_heights(lines, labelled) if longest <= width / 4 else None
    if heights is not None:
        frame = labelled
    marks = [_line(i, points, frame) for i, points in enumerate(lines.values())]
    ends = [_text(frame.right + 8, y, name, f"s{i % 6}") for i, (name, y) in enumerate((heights or {}).items())]
    body = "\n".join([*_axes(chart, frame, width, height), *marks, *ends])
    legend = "" if heights else _legend(lines)
    return (
        f'{legend}<svg role="img" aria-label="{escape(_summary(chart, lines))}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}">\n{body}\n</svg>'
    )


def _frame(lines: dict[str, list[tuple[float, float]]], width: float, height: float, right: float) -> _Frame:
    xs = [x for points in lines.values() for x, _ in points]
    ys = [y for points in lines.values() for _, y in points]
    start = 0.0 if 0 < min(xs) < 0.1 * max(xs) else min(xs)
    x_range = _widened(start, max(xs))
    y_ticks = nice_ticks(min(ys), max(ys), 6)
    left = 26 + LETTER_WIDTH * max(map(len, tick_texts(y_ticks)))
    slack = 1e-6 * (x_range[1] - x_range[0])
    x_ticks = nice_ticks(*x_range, 7 if width > 500 else 4)
    x_ticks = [tick for tick in x_ticks if x_range[0] - slack <= tick <= x_range[1] + slack]
    return _Frame(left, width - right, 12, height - 46, x_ticks, y_ticks, x_range)


def nice_ticks(low: float, high: float, count: int) -> list[float]:
    """Choose round numbers that enclose a range.

    Args:
        low: Smallest value.
        high: Largest value; may equal `low`.
        count: About how many ticks there should be.

    Returns:
        Two ticks or more, evenly spaced by 1, 2, 2.5 or 5 times a power of ten.
    """
    low, high = _widened(low, high)
    rough = (high - low) / max(1, count - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [tick * step for tick in range(first, last + 1)]


def _widened(low: float, high: float) -> tuple[float, float]:
    """Make room around a range that is no wider than rounding errors."""
    if high - low > 1e-9 * max(abs(low), abs(high)):
        return low, high
    margin = abs(low) * 0.05 or 0.5
    return low - margin, high + margin


def tick_texts(ticks: Sequence[float]) -> list[str]:
    """Write ticks with as many decimals as their distance asks for, and thousands and millions as k and M."""
    largest = max(map(abs, ticks))
    size, unit = next(((s, u) for s, u in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e4, "k")) if largest >= s), (1.0, ""))
    size = 1e3 if unit == "k" else size
    step = abs(ticks[1] - ticks[0]) / size if len(ticks) > 1 else largest / size or 1.0
    decimals = next((n for n in range(10) if abs(round(step, n) - step) < step * 1e-6), 10)
    return ["0" if unit and tick == 0 else f"{tick / size:.{decimals}f}{unit}" for tick in ticks]


def _label_heights(lines: dict[str, list[tuple[float, float]]], frame: _Frame) -> dict[str, float] | None:
    """Place names at the ends of their lines, pushed apart; None if one would land far from its line."""
    ends = {name: points[-1] for name, points in lines.items()}
    if min(frame.x(x) for x, _ in ends.values()) < frame.right - 0.05 * (frame.right - frame.left):
        return None
    lowest, heights = frame.top, {}
    for name in sorted(ends, key=lambda name: frame.y(ends[name][1])):
        heights[name] = max(frame.y(ends[name][1]), lowest)
        lowest = heights[name] + LINE_HEIGHT
    excess = max(0.0, lowest - LINE_HEIGHT - frame.bottom)
    heights = {name: heights[name] - excess for name in lines}
    far = max(abs(heights[name] - frame.y(ends[name][1])) for name in lines)
    return heights if far <= 1.5 * LINE_HEIGHT else None


def _line(index: int, points: list[tuple[float, float]], frame: _Frame) -> str:
    places = [(frame.x(x), frame.y(y)) for x, y in points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    parts = [f'<polyline class="line s{index % 6}" points="{path}"/>']
    if len(points) <= MOST_POINTS_MARKED:
        parts += [
            f'<circle class="s{index % 6}" cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{a:g}, {b:.4g}</title></circle>'
            for (x, y), (a, b) in zip(places, points, strict=True)
        ]
    return "".join(parts)


def _axes(chart: Chart, frame: _Frame, width: float, height: float) -> list[str]:
    parts = []
    for tick, text in zip(frame.y_ticks, tick_texts(frame.y_ticks), strict=True):
        y = frame.y(tick)
        parts.append(f'<line class="grid" x1="{frame.left:.1f}" x2="{frame.right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(frame.left - 6, y, text, "end"))
    for tick, text in zip(frame.x_ticks, tick_texts(frame.x_ticks), strict=True):
        x = frame.x(tick)
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{frame.bottom}" y2="{frame.bottom + 4}"/>')
        parts.append(_text(x, frame.bottom + 14, text, "middle"))
    parts.append(f'<line class="axis" x1="{frame.left}" x2="{frame.right}" y1="{frame.bottom}" y2="{frame.bottom}"/>')
    parts.append(_text((frame.left + frame.right) / 2, height - 10, chart.x_label, "middle label"))
    middle = (frame.top + frame.bottom) / 2
    turn = f' transform="rotate(-90 10 {middle:.1f})"'
    return [*parts, _text(10, middle, chart.y_label, "middle label", turn)]


def _text(x: float, y: float, text: str, classes: str, extra: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{classes}"{extra}>{escape(text)}</text>'


def _legend(lines: dict[str, list[tuple[float, float]]]) -> str:
    sample = '<svg aria-hidden="true" viewBox="0 0 28 8"><line class="line s{}" x1="1" x2="27" y1="4" y2="4"/></svg>'
    items = [f"<li>{sample.format(index % 6)}{escape(name)}</li>" for index, name in enumerate(lines)]
    return f'<ul class="legend">{"".join(items)}</ul>'


def _summary(chart: Chart, lines: dict[str, list[tuple[float, float]]]) -> str:
    """Say for those who cannot see it what a chart shows."""
    ways = [f"{name} goes from {points[0][1]:.4g} to {points[-1][1]:.4g}" for name, points in lines.items()]
    return f"Line chart: {chart.title}. {chart.y_label} over {chart.x_label}. {'; '.join(ways)}."


def _colours(colours: Sequence[str]) -> str:
    return " ".join(f"--s{index}: {colour};" for index, colour in enumerate(colours))


STYLE = "\n".join(
    [
        f":root {{ {_colours(LIGHT)} }}",
        f"@media (prefers-color-scheme: dark) {{ :root {{ {_colours(DARK)} }} }}",
        *(f".s{i} {{ --c: var(--s{i}); stroke-dasharray: {dash}; }}" for i, dash in enumerate(DASHES)),
        "svg { display: block; width: 100%; height: auto; overflow: visible; }",
        f"svg text {{ font-size: {FONT_SIZE}px; fill: var(--c, var(--faint)); dominant-baseline: central; }}",
        "svg .end { text-anchor: end; } svg .middle { text-anchor: middle; } svg .label { fill: var(--text); }",
        "svg .grid { stroke: var(--rule); } svg .axis { stroke: var(--faint); }",
        "svg .line { fill: none; stroke: var(--c); stroke-width: 2; stroke-linejoin: round; }",
        "svg circle { fill: var(--c); }",
        ".legend { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; list-style: none; padding: 0; }",
        ".legend { margin: .5rem 0; font-size: .9rem; }",
        ".legend li { display: flex; align-items: center; gap: .5rem; } .legend svg { width: 28px; }",
        ".narrow { display: none; }",
        "@media (max-width: 560px) { .wide { display: none; } .narrow { display: block; } }",
    ]
)
