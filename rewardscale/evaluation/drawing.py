"""How evaluation's figures look: one palette, sizes in inches, legends above; `figures` says what to draw.

Plain `matplotlib.figure.Figure` objects, no pyplot; matplotlib is imported when something is drawn. Colours are those
of a corpus's page (data/describe/drawing.py: Okabe and Ito's, safe for the colour-blind), and no two models share
both colour and marker.
"""

from __future__ import annotations

import contextlib
import io
import re
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rewardscale import atomic
from rewardscale.data.describe.drawing import AMBER, BLUE, GREEN, INK, LINE, ORANGE, PINK, SKY, SOFT, label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 6.8  # inches: the text width of a paper
CONTROL = "#7f7f7f"
_RC: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # names of models are not formulas
    "font.family": "DejaVu Sans",
    "font.size": 8.0,
    "axes.titlesize": 8.0,
    "axes.labelsize": 8.0,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": SOFT,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": LINE,
    "grid.linewidth": 0.5,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "path.simplify": False,
}
_LOCK = threading.RLock()  # rcParams are matplotlib's one global
_LETTER = 0.062  # inches of an average letter of 8 points
_ROW = 0.17  # inches of a legend's row


class Style(NamedTuple):
    """How a model is drawn, everywhere."""

    colour: str
    marker: str


_COLOURS = (BLUE, ORANGE, GREEN, PINK, AMBER, SKY, INK)
_MARKERS = "osD^vPX"


@contextlib.contextmanager
def look(salt: str = "rewardscale") -> Iterator[None]:
    """Holds the style while something is drawn or saved; `salt` makes an SVG's ids its own."""
    import matplotlib

    settings = {**_RC, "svg.hashsalt": salt}
    with _LOCK, matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the reader's own fonts draw the text
        yield


def styles(models: Iterable[str]) -> dict[str, Style]:
    """A style a model, in the order given: colour and marker change together, and 49 pairs of them are different."""
    found = {}
    for number, name in enumerate(dict.fromkeys(models)):
        turn, colour = divmod(number, len(_COLOURS))
        found[name] = Style(_COLOURS[colour], _MARKERS[(colour + turn) % len(_MARKERS)])
    return found


def save(figure: Figure, directory: Path, name: str) -> dict[str, Path]:
    """Writes name.svg and name.png (200 dots an inch), each whole or not at all; returns the paths by suffix.

    The same figure gives the same bytes. Raises OSError where the directory cannot be written.
    """
    buffer = io.BytesIO()
    with look(name):
        figure.savefig(buffer, format="png", dpi=200)
    content = {"svg": svg(figure, name).encode(), "png": buffer.getvalue()}
    paths = {suffix: Path(directory) / f"{name}.{suffix}" for suffix in content}
    for suffix, path in paths.items():
        atomic.write_bytes(path, content[suffix])
    return paths


def svg(figure: Figure, name: str) -> str:
    """The figure as SVG with text as text; ids start with `name`, so that several fit on one page."""
    buffer = io.StringIO()
    with look(name):
        figure.savefig(
            buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', buffer.getvalue())
    return re.sub(r'(href="#|url\(#)', rf"\1{name}-", text)


def panels(
    columns: int,
    height: float,
    *,
    left: float = 0.55,
    right: float = 0.1,
    bottom: float = 0.42,
    top: float = 0.1,
    gap: float = 0.55,
    width: float = WIDTH,
) -> tuple[Figure, list[Axes]]:
    """A figure of `width` inches with a row of axes of `height` inches; margins in inches too."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    total = height + bottom + top
    figure = Figure(figsize=(width, total))
    FigureCanvasAgg(figure)
    each = (width - left - right - gap * (columns - 1)) / columns
    return figure, [
        figure.add_axes(((left + c * (each + gap)) / width, bottom / total, each / width, height / total))
        for c in range(columns)
    ]


def legend_height(labels: Sequence[str], width: float = WIDTH) -> float:
    """Inches that `legend_above` takes."""
    return 0.08 + _ROW * -(-len(labels) // _columns(labels, width))


def legend_above(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """Above the panels, read row by row (matplotlib fills legends column by column)."""
    columns = _columns(labels, figure.get_figwidth())
    order = [i for column in range(columns) for i in range(len(labels))[column::columns]]
    figure.legend(
        [handles[i] for i in order],
        [labels[i] for i in order],
        loc="upper left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=columns,
        frameon=False,
        borderaxespad=0.25,
        borderpad=0.2,
        handlelength=1.8,
        handletextpad=0.5,
        columnspacing=1.4,
        labelspacing=0.3,
    )


def _columns(labels: Sequence[str], width: float) -> int:
    widths = [0.5 + _LETTER * len(one) for one in labels]
    return len(labels) if sum(widths) <= width else max(1, min(len(labels), int(width / max(widths))))


def text_width(texts: Iterable[str]) -> float:
    """Inches of the longest of some labels."""
    return _LETTER * max((len(one) for one in texts), default=0)


def handle(style: Style, **more: Any) -> Any:
    """A legend's line with marker."""
    from matplotlib.lines import Line2D

    return Line2D([], [], **{"color": style.colour, "linewidth": 1.1, **marked(style.marker), **more})


def marked(marker: str) -> dict[str, Any]:
    """How a marker is drawn: those with arms larger, to weigh as much."""
    size = 6.2 if marker in "PX" else 4.8
    return {"marker": marker, "markersize": size, "markeredgecolor": "white", "markeredgewidth": 0.5}


def percent(axes: Axes, which: str, *, most: int = 6) -> None:
    """Ticks in per cent, at most about `most`."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis = axes.yaxis if which == "y" else axes.xaxis
    axis.set_major_locator(MaxNLocator(most, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g} %"))


def short(name: str, most: int = 28) -> str:
    """A name as it may stand in a figure; a long one loses its middle, for names of models differ at their ends."""
    whole = label(name, len(name))
    if len(whole) <= most:
        return whole
    end = most // 2
    return f"{whole[: most - end - 1]}…{whole[-end:]}"
