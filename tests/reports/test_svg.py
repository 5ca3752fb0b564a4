import re
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.axes import Axes

from kdcache.reports.svg import COLOURS, depth_colours, draw_plot, line_label, log_y, look, reference_line


def draw(axes: Axes) -> None:
    axes.plot([1, 2, 3], [0.5, 20, 300], label=line_label("_a $x$ <b>&"), **look(0))
    axes.fill_between([1, 2], [1, 2], [2, 3], color=COLOURS[1], alpha=0.2, linewidth=0, label="band")
    reference_line(axes, [1, 3], [2, 2], "reference")
    axes.set(xlabel="x")
    log_y(axes)


def plot(**changes: Any) -> str:
    return str(draw_plot(**{"draw": draw, "name": "one", "label": 'a "label" <b>', "caption": "c", **changes}).svg)


def test_text_is_text_and_takes_the_font_and_ink_of_the_page() -> None:
    root = ElementTree.fromstring(plot())
    texts = ["".join(each.itertext()) for each in root.iter("text")]
    assert {" _a $x$ <b>&", "band", "reference", "x", "100"} <= set(texts)
    assert root.get("aria-label") == 'a "label" <b>'
    assert root.get("role") == "img"
    assert root.get("viewBox")
    assert root.get("width") is None
    assert "font-family" not in plot()
    assert "currentColor" in plot()
    assert "var(--data-0)" in plot()
    assert "var(--data-1)" in plot()


def test_equal_figures_are_equal_and_others_share_no_id() -> None:
    assert plot() == plot()
    ids = [set(re.findall(r' id="([^"]*)"', plot(name=name))) for name in ("one", "two")]
    assert not ids[0] & ids[1]
    for name, found in zip(("one", "two"), ids, strict=True):
        references = set(re.findall(r'(?:href="#|url\(#)([^")]*)', plot(name=name)))
        assert references
        assert references <= found


def test_the_look_is_ours_whatever_the_user_prefers() -> None:
    usual = plot()
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path"}):
        assert plot() == usual
        assert matplotlib.rcParams["font.size"] == 30


def test_a_name_in_a_script_that_the_font_lacks() -> None:
    def other(axes: Axes) -> None:
        axes.plot([1, 2], label=line_label("猫\x07"))

    assert "猫?" in plot(draw=other)


def test_depth_colours_are_distinct_and_of_middling_brightness() -> None:
    colours = depth_colours(12)
    assert len(set(colours)) == 12
    for colour in colours:
        red, green, blue = (channel**2.2 for channel in colour)
        # Three to one against white and against #111, in relative luminance.
        assert 0.117 < 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.30
    assert len(depth_colours(1)) == 1
