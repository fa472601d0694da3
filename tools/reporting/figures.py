"""The style of figures, which matplotlib draws and the page embeds as SVG.

The colours of Okabe & Ito (2008) are distinct for colour-blind readers. Line styles, markers and hatches repeat the
distinction for black-and-white print.
"""

import base64
import io
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLACK, SKY, BLUE, VERMILLION = "#000000", "#56B4E9", "#0072B2", "#D55E00"
GREY = "#595959"  # dark enough for text on white
WIDTH = 3.4  # inches: 326 CSS pixels, about the width of a phone, so text keeps its size there
HEIGHT = 3.1
# Margins in inches. Fixed, so neighbouring axes are aligned; the automatic layout of matplotlib takes twice the time.
LEFT, RIGHT, BOTTOM, TOP = 0.68, 0.12, 0.5, 0.42
LEFT_OF_FINDINGS = 1.35  # where findings are the labels of the axis
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "legend.handlelength": 2.2,
    "hatch.linewidth": 0.6,
    "svg.hashsalt": "cxr14",  # the same figure has the same bytes
}


class Drawing(NamedTuple):
    """A figure or an image of the page."""

    title: str
    alt: str  # for screen readers
    uri: str  # data:


def uri_of(data: bytes, kind: str) -> str:
    """Bytes as a data: URI; `kind` is a MIME type such as "image/svg+xml"."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def draw(
    paint: Callable[["Axes"], None],
    *,
    title: str,
    alt: str,
    height: float = HEIGHT,
    left: float = LEFT,
    top: float = TOP,
) -> Drawing:
    """A figure that `paint` draws into empty axes.

    Args:
        title: text of the page, above the figure.
        height, left, top: inches, of the figure and of its margins.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("reports need matplotlib. Run: pip install -r requirements.txt") from error
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height))
        size = (1 - (left + RIGHT) / WIDTH, 1 - (BOTTOM + top) / height)
        paint(figure.add_axes((left / WIDTH, BOTTOM / height, *size)))
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return Drawing(title, alt, uri_of(buffer.getvalue(), "image/svg+xml"))


def legend_above(axes: "Axes") -> None:
    """Put the legend above the axes, in two columns, where it covers no data."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2, columnspacing=1)


def readable(finding: str) -> str:
    """A finding in words: Pleural Thickening for Pleural_Thickening."""
    return finding.replace("_", " ")


def number(value: float | None) -> str:
    """Three decimals; a dash where undefined."""
    return "—" if value is None else f"{value:.3f}"


def with_interval(value: float | None, low: float | None, high: float | None) -> str:
    """A value and its 95 % interval: 0.873 [0.851, 0.894]."""
    return number(value) if low is None or high is None else f"{value:.3f} [{low:.3f}, {high:.3f}]"
