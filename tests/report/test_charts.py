import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from pd_lightning.report.chart_axes import log_ticks, nice_ticks, tick_texts
from pd_lightning.report.charts import STYLE, Chart, line_chart


def drawings(**series) -> list[ElementTree.Element]:
    """The wide and the narrow drawing, each in its div."""
    chart = Chart("Validation loss", "step", "loss (nats)", {name.replace("_", " "): xy for name, xy in series.items()})
    return list(ElementTree.fromstring(f"<root>{line_chart(chart)}</root>"))


def svg(element: ElementTree.Element) -> ElementTree.Element:
    (found,) = (child for child in element.findall("svg") if child.get("role") == "img")
    return found


def points(line: ElementTree.Element) -> list[tuple[float, float]]:
    return [tuple(map(float, pair.split(","))) for pair in line.get("points").split()]


def texts(element: ElementTree.Element, kind: str) -> list[ElementTree.Element]:
    return [text for text in element.iter("text") if kind in text.get("class").split()]


def names(element: ElementTree.Element) -> list[ElementTree.Element]:
    """The names of lines, which have their colours."""
    return [text for text in element.iter("text") if re.match(r"s\d", text.get("class"))]


def test_lines_are_drawn_to_the_scale_of_the_ticks():
    xy = [(0, 8.3), (100, 6.2), (250, 5.0), (600, 4.3)]
    for drawing in map(svg, drawings(lm=xy)):
        heights = [(float(text.text), float(text.get("y"))) for text in texts(drawing, "end")]
        (low, y_low), (high, y_high) = heights[0], heights[-1]
        widths = [(float(text.text), float(text.get("x"))) for text in texts(drawing, "middle") if text.text.isdigit()]
        (start, x_start), (end, x_end) = widths[0], widths[-1]
        expected = [
            (
                x_start + (x - start) / (end - start) * (x_end - x_start),
                y_low + (y - low) / (high - low) * (y_high - y_low),
            )
            for x, y in xy
        ]
        assert points(drawing.find("polyline")) == [pytest.approx(pair, abs=0.11) for pair in expected]


def test_values_that_are_not_finite_are_left_out():
    line = [(0, 1.0), (1, math.nan), (math.inf, 1.0), (2, -math.inf), (3, 2.0)]
    wide = svg(drawings(lm=line, nothing=[(0, math.nan)])[0])
    assert [len(points(found)) for found in wide.findall("polyline")] == [2]
    assert "nan" not in ElementTree.tostring(wide, encoding="unicode")


@pytest.mark.parametrize("series", [{}, {"lm": []}, {"lm": [(0.0, math.nan)]}])
def test_a_chart_of_nothing_says_so(series):
    assert line_chart(Chart("Loss", "step", "nats", series)) == "<p>No data.</p>"


@pytest.mark.parametrize("value", [0.0, 4.2, -3.0, 1e10, 1e-12])
def test_one_point_and_a_constant_can_be_drawn(value):
    for xy in ([(value, value)], [(0, value), (1, value)], [(0, value), (1, value * (1 + 1e-15))]):
        for drawing in drawings(lm=xy):
            assert all(map(math.isfinite, sum(points(svg(drawing).find("polyline")), ())))


def test_names_stand_at_the_ends_of_their_lines_apart_from_each_other():
    for drawing in drawings(lm=[(0, 8), (9, 4.6)], offline=[(0, 8), (9, 4.3)], online=[(0, 8), (9, 4.29)]):
        assert drawing.find("ul") is None
        labels = {text.text: float(text.get("y")) for text in names(drawing)}
        assert list(labels) == ["lm", "offline", "online"]
        heights = sorted(labels.values())
        assert min(b - a for a, b in pairwise(heights)) >= 15
        ends = [points(line)[-1][1] for line in svg(drawing).findall("polyline")]
        assert max(abs(y - end) for y, end in zip(labels.values(), ends, strict=True)) <= 1.5 * 15


@pytest.mark.parametrize(
    "series",
    [
        {"a_name_too_long_to_stand_beside_its_line": [(0, 8), (9, 4.6)]},
        {"short": [(0, 8), (4, 4.6)], "long": [(0, 8), (9, 4.6)]},
        {f"name{n}": [(0, 8), (9, 4.6)] for n in range(5)},
    ],
    ids=["long name", "early end", "crowd"],
)
def test_a_legend_takes_the_place_of_names_that_do_not_fit(series):
    for drawing in drawings(**series):
        assert ["".join(item.itertext()) for item in drawing.find("ul")] == [name.replace("_", " ") for name in series]
        assert names(drawing) == []


def test_lines_differ_in_colour_and_dashes():
    pairs = re.findall(r"--c: var\(--(s\d)\); stroke-dasharray: ([^;]+);", STYLE)
    assert len(pairs) == len(set(pairs)) == 18
    assert len({dash for _, dash in pairs[:6]}) == 6
    for scheme in re.findall(r":root {(.*?)}", STYLE):
        assert len(set(re.findall(r"#[0-9a-f]{6}", scheme))) == 6


@pytest.mark.parametrize(("scheme", "page"), [(0, "#ffffff"), (1, "#14171a")])
def test_colours_can_be_read_on_their_page(scheme, page):
    """WCAG 2.1, 1.4.3: text has a contrast of 4.5 to 1 at least."""

    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for colour in re.findall(r"#[0-9a-f]{6}", re.findall(r":root {(.*?)}", STYLE)[scheme]):
        low, high = sorted([luminance(colour), luminance(page)])
        assert (high + 0.05) / (low + 0.05) >= 4.5, colour


def test_a_chart_says_in_words_what_it_shows():
    label = svg(drawings(lm=[(0, 8.31234), (9, 4.6)])[0]).get("aria-label")
    assert label == "Line chart: Validation loss. loss (nats) over step. lm goes from 8.312 to 4.6."


def test_few_points_are_marked_with_their_values():
    assert [mark.find("title").text for mark in svg(drawings(lm=[(0, 8), (9, 4.65)])[0]).findall("circle")] == [
        "0, 8",
        "9, 4.65",
    ]
    assert svg(drawings(lm=[(x, x) for x in range(60)])[0]).find("circle") is None


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (4.2, 8.3, [4, 5, 6, 7, 8, 9]),
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (-0.3, 0.3, [-0.4, -0.2, 0, 0.2, 0.4]),
        (0, 600, [0, 200, 400, 600]),
        (5, 5, [4.7, 4.8, 4.9, 5, 5.1, 5.2, 5.3]),
        (0, 0, [-0.6, -0.4, -0.2, 0, 0.2, 0.4, 0.6]),
    ],
)
def test_ticks_are_round_and_enclose_the_range(low, high, ticks):
    found = nice_ticks(low, high, 6)
    assert found[0] <= low <= high <= found[-1]
    assert found == pytest.approx(ticks)


@pytest.mark.parametrize(
    ("ticks", "written"),
    [
        ([4, 5, 6], ["4", "5", "6"]),
        ([4, 4.25, 4.5], ["4.00", "4.25", "4.50"]),
        ([0, 2000, 4000], ["0", "2000", "4000"]),
        ([0, 5000, 10000], ["0", "5k", "10k"]),
        ([0, 0.25e6, 0.5e6, 0.75e6, 1e6], ["0", "0.25M", "0.50M", "0.75M", "1.00M"]),
        ([0, 2e-4, 4e-4], ["0.0000", "0.0002", "0.0004"]),
        ([1e9], ["1B"]),
    ],
)
def test_ticks_are_written_with_the_digits_they_need(ticks, written):
    assert tick_texts(ticks) == written


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (1, 100, [1, 2, 5, 10, 20, 50, 100]),
        (1e14, 1e18, [1e14, 1e15, 1e16, 1e17, 1e18]),
        (0.05, 10, [0.1, 0.3, 1, 3, 10]),
        (4, 6, [4, 4.5, 5, 5.5, 6]),
        (1e-3, 1e9, [1e-3, 1e-1, 1e1, 1e3, 1e5, 1e7, 1e9]),
    ],
)
def test_ticks_of_a_logarithmic_axis_are_round_and_inside_the_range(low, high, ticks):
    assert log_ticks(low, high, 6) == pytest.approx(ticks)


def drawn(**options) -> ElementTree.Element:
    """The wide drawing of a chart with these options."""
    chart = Chart("Loss", "k", "loss (nats)", **{"series": {"PD": [(1, 4.0), (100, 3.0)]}, **options})
    return svg(ElementTree.fromstring(f"<root>{line_chart(chart)}</root>")[0])


def test_equal_ratios_are_equal_distances_on_a_logarithmic_axis():
    line = [(1, 1.0), (10, 10.0), (100, 100.0), (0, 5.0), (5, -1.0)]
    places = points(drawn(series={"PD": line}, log_x=True, log_y=True).find("polyline"))
    (x0, y0), (x1, y1), (x2, y2) = places  # what is not positive has no place
    assert (x1 - x0, y1 - y0) == (pytest.approx(x2 - x1, abs=0.2), pytest.approx(y2 - y1, abs=0.2))
    assert x1 - x0 > 100
    assert y0 - y1 > 100


@pytest.mark.parametrize("value", [1e-5, 4.2, 3e17])
def test_one_point_can_be_drawn_on_logarithmic_axes(value):
    drawing = drawn(series={"PD": [(value, value)]}, log_x=True, log_y=True)
    assert all(map(math.isfinite, sum(points(drawing.find("polyline")), ())))


def test_intervals_and_bands_are_drawn_to_the_scale_of_the_ticks():
    drawing = drawn(
        series={"PD": [(0, 4.0), (1, 4.5)], "LM": [(0, 4.2), (1, 4.2)]},
        intervals={"PD": [(0, 3.5, 4.5), (1, 4.0, math.inf)]},
        bands={"LM": [(0, 4.0, 4.4), (1, 4.1, 4.3)]},
    )
    heights = {float(text.text): float(text.get("y")) for text in texts(drawing, "end") if text.text[0].isdigit()}
    scale = (heights[4.4] - heights[3.4]) / (4.4 - 3.4)
    (bar,) = drawing.findall("path")  # an endless one is left out
    x, low, high = map(float, re.match(r"M([\d.]+),([\d.]+)V([\d.]+)", bar.get("d")).groups())
    assert [(y - heights[4.0]) / scale + 4 for y in (low, high)] == pytest.approx([3.5, 4.5], abs=0.01)
    assert x == points(drawing.find("polyline"))[0][0]
    band = points(drawing.find("polygon"))
    assert [(y - heights[4.0]) / scale + 4 for _, y in band] == pytest.approx([4.0, 4.1, 4.3, 4.4], abs=0.01)


def test_intervals_of_several_lines_stand_beside_each_other():
    bars = {"a": [(0, 3.0, 4.0)], "b": [(0, 3.0, 4.0)]}
    drawing = drawn(series={"a": [(0, 3.5)], "b": [(0, 3.5)], "c": [(0, 3.5), (1, 3.5)]}, intervals=bars)
    a, b, c = (points(line)[0][0] for line in drawing.findall("polyline"))
    assert (b - a, (a + b) / 2) == (pytest.approx(5), pytest.approx(c))


def test_points_of_a_scatter_are_not_joined():
    many = [(x, x) for x in range(60)]
    drawing = drawn(series={"runs": many, "best": many}, scatter=["runs"])
    assert len(drawing.findall("polyline")) == 1
    assert len(drawing.findall("circle")) == 60


def test_measured_points_have_the_colour_of_their_curve():
    series = {"small": [(0, 1), (1, 2)], "large": [(0, 0), (1, 1)], "large, runs": [(0, 0.1), (1, 1.2)]}
    chart = Chart("", "x", "y", series, scatter=["large, runs"], like={"large, runs": "large"})
    for drawing in ElementTree.fromstring(f"<root>{line_chart(chart)}</root>"):
        assert [circle.get("class") for circle in svg(drawing).iter("circle")] == ["s0"] * 2 + ["s1"] * 4
        assert [sample.get("class") for sample in drawing.find("ul").iter("circle")] == ["s1"]


def test_names_stand_along_the_axis_and_slant_where_they_are_long():
    drawing = drawn(series={"PD": [(0, 4.0), (1, 3.0)]}, x_names=["kld", "a <b>"])
    names = {text.text: text for text in texts(drawing, "middle")}
    assert {"kld", "a <b>"} <= names.keys()
    assert names["kld"].get("transform") is None
    assert [mark.find("title").text for mark in drawing.findall("circle")] == ["kld, 4", "a <b>, 3"]
    drawing = drawn(
        series={"PD": [(0, 4.0), (7, 3.0)]}, x_names=[f"a name that is long, {n}" + "!" * 9 for n in range(8)]
    )
    slanted = [text for text in texts(drawing, "end") if text.get("transform")]
    assert [text.text for text in slanted] == [f"a name that is long, {n}!!!!!…" for n in range(8)]
    lowest = max(float(line.get("y2")) for line in drawing.iter("line"))
    assert lowest + 28 * 7 * math.sin(math.radians(35)) < 380 - 10  # above the axis's label


def test_intervals_of_no_line_are_our_mistake():
    with pytest.raises(AssertionError, match=r"no lines named \{'LM'\} in 'Loss'"):
        drawn(bands={"LM": []})
