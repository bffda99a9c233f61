"""Line charts as inline SVG, drawn by hand: no plotting package, no script, nothing fetched."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape

from pd_lightning.report.chart_axes import LETTER_WIDTH, SLANT, Scale, columns_scale, names_scale, rows_scale

# Colours are classes of the page (`STYLE`), so that they follow its light or dark scheme; dashes tell lines apart too.
DASHES = ("none", "7 4", "2 3", "10 3 2 3", "12 5", "5 2 2 2")
LIGHT = ("#0072b2", "#c04f00", "#007a5a", "#a0408a", "#7a5c00", "#4b4ba8")
DARK = ("#6cb8f0", "#f5a05a", "#3fcf9f", "#e89ad0", "#e6d24a", "#a9a9f5")

STYLES = 18  # pairs of a colour and dashes, then they come again
FONT_SIZE = 12
LINE_HEIGHT = 15.0
MOST_POINTS_MARKED = 12
CAP = 3.0  # half the width of an interval's ends
BESIDE = 5.0  # between the intervals of two lines at the same place

Points = list[tuple[float, float]]
Ranges = Mapping[str, Sequence[tuple[float, float, float]]]


@dataclass(frozen=True)
class Chart:
    """A line chart. What is not finite, or has no place on a logarithmic axis, is left out.

    Args:
        title: What it shows.
        x_label: Quantity and unit along the horizontal axis.
        y_label: Quantity and unit along the vertical axis.
        series: Points (x, y) of each line, by name.
        caption: What to see in it.
        intervals: Error bars (x, low, high) of lines, by name.
        bands: Shaded ranges (x, low, high) around lines, by name, as of an extrapolation.
        scatter: Names of those whose points no line joins.
        like: Names in the colour of another, as measured points in that of their curve, by name.
        x_names: Names along the horizontal axis instead of numbers; they stand at x = 0, 1, 2, …
        log_x: Whether the horizontal axis is logarithmic.
        log_y: Whether the vertical axis is logarithmic.
    """

    title: str
    x_label: str
    y_label: str
    series: Mapping[str, Sequence[tuple[float, float]]]
    caption: str = ""
    intervals: Ranges = field(default_factory=dict)
    bands: Ranges = field(default_factory=dict)
    scatter: Collection[str] = ()
    like: Mapping[str, str] = field(default_factory=dict)
    x_names: Sequence[str] = ()
    log_x: bool = False
    log_y: bool = False

    def __post_init__(self) -> None:
        named = {*self.intervals, *self.bands, *self.scatter, *self.like, *self.like.values()}
        assert named <= self.series.keys(), f"no lines named {named - self.series.keys()} in {self.title!r}"


@dataclass(frozen=True)
class _Frame:
    """The plot's place in the drawing, in pixels, and its axes."""

    left: float
    right: float
    top: float
    bottom: float
    columns: Scale
    rows: Scale

    def x(self, value: float) -> float:
        return self.left + self.columns.place(value) * (self.right - self.left)

    def y(self, value: float) -> float:
        return self.bottom - self.rows.place(value) * (self.bottom - self.top)

    @property
    def crowded(self) -> bool:
        """Whether names along the horizontal axis would run into each other."""
        return max(map(len, self.columns.texts)) * LETTER_WIDTH > (self.right - self.left) / len(self.columns.texts)


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


def _lines(chart: Chart) -> dict[str, Points]:
    lines = {name: sorted(p for p in points if _has_place(chart, *p)) for name, points in chart.series.items()}
    return {name: points for name, points in lines.items() if points}


def _ranges(chart: Chart, ranges: Ranges, name: str) -> list[tuple[float, float, float]]:
    return sorted(each for each in ranges.get(name, ()) if _has_place(chart, *each))


def _has_place(chart: Chart, x: float, *ys: float) -> bool:
    return (
        all(math.isfinite(value) for value in (x, *ys))
        and (x > 0 or not chart.log_x)
        and (min(ys) > 0 or not chart.log_y)
    )


def _draw(chart: Chart, lines: dict[str, Points], width: float, height: float) -> str:
    frame = _frame(chart, lines, width, height, right=16.0)
    longest = max(map(len, lines)) * LETTER_WIDTH + 16
    labelled = _frame(chart, lines, width, height, right=longest)
    heights = _label_heights(lines, labelled) if longest <= width / 4 and not chart.scatter else None
    if heights is not None:
        frame = labelled
    marks = ["".join(_marks(chart, name, lines, frame)) for name in lines]
    ends = [_text(frame.right + 8, y, name, _style(chart, lines, name)) for name, y in (heights or {}).items()]
    body = "\n".join([*_axes(chart, frame, width, height), *marks, *ends])
    legend = "" if heights else _legend(chart, lines)
    return (
        f'{legend}<svg role="img" aria-label="{escape(_summary(chart, lines))}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}">\n{body}\n</svg>'
    )


def _frame(chart: Chart, lines: dict[str, Points], width: float, height: float, right: float) -> _Frame:
    ranges = [each for name in lines for kind in (chart.intervals, chart.bands) for each in _ranges(chart, kind, name)]
    xs = [x for points in lines.values() for x, _ in points] + [x for x, *_ in ranges]
    ys = [y for points in lines.values() for _, y in points] + [y for _, *ends in ranges for y in ends]
    rows = rows_scale(ys, log=chart.log_y)
    count = 7 if width > 500 else 4
    columns = names_scale(chart.x_names) if chart.x_names else columns_scale(xs, count, log=chart.log_x)
    left = 26 + LETTER_WIDTH * max(map(len, rows.texts))
    frame = _Frame(left, width - right, 12, height - 46, columns, rows)
    return _room_for_slant(frame) if chart.x_names and frame.crowded else frame


def _room_for_slant(frame: _Frame) -> _Frame:
    """Room below the longest name, and left of the first."""
    lengths, angle = [len(text) * LETTER_WIDTH for text in frame.columns.texts], math.radians(SLANT)
    before = lengths[0] * math.cos(angle) - (frame.right - frame.left) / len(lengths) / 2
    return replace(frame, bottom=frame.bottom - max(lengths) * math.sin(angle), left=max(frame.left, before))


def _label_heights(lines: dict[str, Points], frame: _Frame) -> dict[str, float] | None:
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


def _style(chart: Chart, lines: Mapping[str, Points], name: str) -> str:
    """The class of a name's colour."""
    shown = list(lines)
    other = chart.like.get(name, name)
    return f"s{shown.index(other if other in lines else name) % STYLES}"


def _marks(chart: Chart, name: str, lines: dict[str, Points], frame: _Frame) -> Iterator[str]:
    """Band, line, intervals and points of one name; intervals at the same place stand beside each other."""
    colour = _style(chart, lines, name)
    barred = [each for each in lines if each in chart.intervals]
    taken = [x for each in barred for x, _ in lines[each]]
    beside = name in barred and len(set(taken)) < len(taken)
    aside = (barred.index(name) - (len(barred) - 1) / 2) * BESIDE if beside else 0.0
    places = [(frame.x(x) + aside, frame.y(y)) for x, y in lines[name]]
    if band := _ranges(chart, chart.bands, name):
        edge = [(frame.x(x), frame.y(low)) for x, low, _ in band] + [(frame.x(x), frame.y(y)) for x, _, y in band[::-1]]
        yield f'<polygon class="band {colour}" points="{_path(edge)}"/>'
    if name not in chart.scatter:
        yield f'<polyline class="line {colour}" points="{_path(places)}"/>'
    for x, low, high in _ranges(chart, chart.intervals, name):
        yield _interval(frame.x(x) + aside, frame.y(low), frame.y(high), colour)
    if len(places) <= MOST_POINTS_MARKED or name in chart.scatter or name in barred:
        for (x, y), (a, b) in zip(places, lines[name], strict=True):
            at = chart.x_names[int(a)] if chart.x_names else f"{a:g}"
            title = f"<title>{escape(at)}, {b:.4g}</title>"
            yield f'<circle class="{colour}" cx="{x:.1f}" cy="{y:.1f}" r="3">{title}</circle>'


def _path(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _interval(x: float, low: float, high: float, colour: str) -> str:
    caps = " ".join(f"M{x - CAP:.1f},{y:.1f}h{2 * CAP:.0f}" for y in (low, high))
    return f'<path class="interval {colour}" d="M{x:.1f},{low:.1f}V{high:.1f} {caps}"/>'


def _axes(chart: Chart, frame: _Frame, width: float, height: float) -> list[str]:
    parts = []
    for tick, text in zip(frame.rows.ticks, frame.rows.texts, strict=True):
        y = frame.y(tick)
        parts.append(f'<line class="grid" x1="{frame.left:.1f}" x2="{frame.right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(frame.left - 6, y, text, "end"))
    slanted = bool(chart.x_names) and frame.crowded
    for tick, text in zip(frame.columns.ticks, frame.columns.texts, strict=True):
        x = frame.x(tick)
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{frame.bottom}" y2="{frame.bottom + 4}"/>')
        if slanted:
            turn = f' transform="rotate({-SLANT:.0f} {x:.1f} {frame.bottom + 14:.1f})"'
            parts.append(_text(x, frame.bottom + 14, text, "end", turn))
        else:
            parts.append(_text(x, frame.bottom + 14, text, "middle"))
    parts.append(f'<line class="axis" x1="{frame.left}" x2="{frame.right}" y1="{frame.bottom}" y2="{frame.bottom}"/>')
    parts.append(_text((frame.left + frame.right) / 2, height - 10, chart.x_label, "middle label"))
    middle = (frame.top + frame.bottom) / 2
    turn = f' transform="rotate(-90 10 {middle:.1f})"'
    return [*parts, _text(10, middle, chart.y_label, "middle label", turn)]


def _text(x: float, y: float, text: str, classes: str, extra: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{classes}"{extra}>{escape(text)}</text>'


def _legend(chart: Chart, lines: dict[str, Points]) -> str:
    line, point = '<line class="line {}" x1="1" x2="27" y1="4" y2="4"/>', '<circle class="{}" cx="14" cy="4" r="3"/>'
    samples = [(point if name in chart.scatter else line).format(_style(chart, lines, name)) for name in lines]
    items = [
        f'<li><svg aria-hidden="true" viewBox="0 0 28 8">{sample}</svg>{escape(name)}</li>'
        for sample, name in zip(samples, lines, strict=True)
    ]
    return f'<ul class="legend">{"".join(items)}</ul>'


def _summary(chart: Chart, lines: dict[str, Points]) -> str:
    """Say for those who cannot see it what a chart shows."""
    ways = [f"{name} goes from {points[0][1]:.4g} to {points[-1][1]:.4g}" for name, points in lines.items()]
    return f"Line chart: {chart.title}. {chart.y_label} over {chart.x_label}. {'; '.join(ways)}."


def _colours(colours: Sequence[str]) -> str:
    return " ".join(f"--s{index}: {colour};" for index, colour in enumerate(colours))


STYLE = "\n".join(
    [
        f":root {{ {_colours(LIGHT)} }}",
        f"@media (prefers-color-scheme: dark) {{ :root {{ {_colours(DARK)} }} }}",
        *(f".s{i} {{ --c: var(--s{i % 6}); stroke-dasharray: {DASHES[(i + i // 6) % 6]}; }}" for i in range(STYLES)),
        "svg { display: block; width: 100%; height: auto; overflow: visible; }",
        f"svg text {{ font-size: {FONT_SIZE}px; fill: var(--c, var(--faint)); dominant-baseline: central; }}",
        "svg .end { text-anchor: end; } svg .middle { text-anchor: middle; } svg .label { fill: var(--text); }",
        "svg .grid { stroke: var(--rule); } svg .axis { stroke: var(--faint); }",
        "svg .line { fill: none; stroke: var(--c); stroke-width: 2; stroke-linejoin: round; }",
        "svg circle { fill: var(--c); }",
        "svg .band { fill: var(--c); fill-opacity: .16; stroke: none; }",
        "svg .interval { fill: none; stroke: var(--c); stroke-width: 1.5; stroke-dasharray: none; }",
        ".legend { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; list-style: none; padding: 0; }",
        ".legend { margin: .5rem 0; font-size: .9rem; }",
        ".legend li { display: flex; align-items: center; gap: .5rem; } .legend svg { width: 28px; }",
        ".narrow { display: none; }",
        "@media (max-width: 560px) { .wide { display: none; } .narrow { display: block; } }",
    ]
)
