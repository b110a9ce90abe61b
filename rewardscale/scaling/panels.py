"""How figures look: levels' colours and markers, panels, axes, legend. ``figures`` says what to draw.

Figures are plain ``matplotlib.figure.Figure`` objects: no pyplot, no current figure, nothing global but a
lock around the style. matplotlib is imported when something is drawn, not before.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

from rewardscale.scaling.collect import ScalingError, Sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text


class Style(NamedTuple):
    """How a level is drawn, everywhere."""

    colour: str
    marker: str


# Okabe & Ito's colour-blind-safe palette. Levels that meet in one sweep never share a colour; no two share
# both.
STYLES = {
    "raw": Style("#000000", "o"),
    "random_matched": Style("#CC79A7", "v"),
    "filtered": Style("#56B4E9", "s"),
    "corrected": Style("#009E73", "^"),
    "no_humans": Style("#D55E00", "P"),
    "gold": Style("#E69F00", "D"),
    "one_vote": Style("#000000", "h"),
    "majority_3": Style("#56B4E9", "<"),
    "majority_5": Style("#009E73", ">"),
    "competence_weighted": Style("#CC79A7", "X"),
    "strict": Style("#D55E00", "p"),
}
_SPARE = [Style(c, m) for m in "d8*Hx" for c in ("#0072B2", "#7F7F7F", "#B59F00", "#882255", "#44AA99")]

WIDTH = 6.8  # inches: the text width of a paper
COLUMNS = 3
LABELS = {
    "pairs": "pairs trained on",
    "params": "parameters, embeddings not counted",
    "accuracy": "accuracy on held-out pairs",
    "loss": "raw log-loss\n(nats per pair)",
    "loss_recalibrated": "recalibrated log-loss\n(nats per pair)",
}
_RC: dict[Any, Any] = {
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "font.family": "DejaVu Sans",
    "font.size": 8.0,
    "axes.titlesize": 8.0,
    "axes.labelsize": 8.0,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "legend.fontsize": 7.5,
    "axes.linewidth": 0.6,
    "axes.edgecolor": "#444444",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.5,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "xtick.labelcolor": "#000000",
    "ytick.labelcolor": "#000000",
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "path.simplify": False,
}
# rcParams are matplotlib's one global; whoever draws or saves holds this lock while they are changed.
_LOCK = threading.RLock()


@contextmanager
def look(salt: str = "rewardscale") -> Iterator[None]:
    import matplotlib

    with _LOCK, matplotlib.rc_context({**_RC, "svg.hashsalt": salt}):
        yield


def level_order(levels: Iterable[str]) -> list[str]:
    """Known levels in the order of STYLES (least to most curated), then the others by name."""
    known = list(STYLES)
    return sorted(set(levels), key=lambda name: (known.index(name) if name in known else len(known), name))


def level_styles(levels: Iterable[str]) -> dict[str, Style]:
    """A style a level, in drawing order; a level without one of its own gets a spare, by name."""
    spare = iter(_SPARE * 9)
    return {level: STYLES[level] if level in STYLES else next(spare) for level in level_order(levels)}


def draw(
    sweep: Sweep,
    points: pl.DataFrame,
    layout: Sequence[Sequence[tuple[tuple[str, str | None], str]]],
    xlabel: str,
    join: bool,
    titles: dict[Any, str] | None = None,
) -> Figure:
    """A panel an entry of ``layout``, rows of ((family, model or None for all), quantity); one scale for all.

    With ``titles`` given the panels are of different families' sizes: each keeps its own x axis.
    """
    styles = level_styles(points["level"].drop_nulls())
    handles, labels = _legend_entries(styles, set(points["kind"]), join)
    columns = legend_columns(labels)
    figure, grid = frames(layout, head=0.07 + 0.145 * math.ceil(len(labels) / columns))
    names = titles or {key: panel_title(sweep, *key) for row in layout for key, _ in row}
    widest = max(len(name) for name in names.values())
    for (row, column), axes in grid.items():
        key, quantity = layout[row][column]
        own = points.filter((pl.col("family") == key[0]) & (pl.col("quantity") == quantity))
        own = own if key[1] is None else own.filter(pl.col("model") == key[1])
        _curves(axes, own, styles, join)
        for kind, y in points.filter(pl.col("family").is_null()).select("kind", "y").rows():
            axes.axhline(y, **_HORIZONTAL[kind])
        spread = points if titles is None else own
        inches = axes.get_position().width * WIDTH
        set_axis(axes, "x", spread["x"].min(), spread["x"].max(), log=True, room=int(3 * inches))
        set_axis(axes, "y", *_limits(points), log=quantity != "accuracy", room=8)
        plain(axes.set_title(names[key], loc="left", pad=4, fontsize=min(8.0, 8.0 * 17 * inches / widest)))
        below = any((r, column) in grid for r in range(row + 1, len(layout)))
        axes.tick_params(labelbottom=not below or titles is not None, labelleft=column == 0)
        if column == 0:
            y = axes.get_position().y0 + axes.get_position().height / 2
            aligned = {"rotation": 90, "ha": "left", "va": "center", "ma": "center"}
            plain(figure.text(0.04 / WIDTH, y, LABELS[quantity], **aligned))
    middle = (_LEFT + WIDTH - _RIGHT) / 2 / WIDTH
    plain(figure.text(middle, 0.05 / figure.get_figheight(), xlabel, ha="center", va="bottom"))
    legend_above(figure, handles, labels, columns)
    return figure


def legend_above(figure: Figure, handles: list, labels: list[str], columns: int) -> None:
    """Above the panels, read row by row (matplotlib fills legends column by column)."""
    order = [i for column in range(columns) for i in range(len(labels))[column::columns]]
    legend = figure.legend(
        [handles[i] for i in order],
        [labels[i] for i in order],
        loc="upper left",
        bbox_to_anchor=((_LEFT - 0.06) / WIDTH, 1.0),
        ncols=columns,
        frameon=False,
        borderaxespad=0.2,
        borderpad=0.2,
        handlelength=1.8,
        handletextpad=0.5,
        columnspacing=1.4,
        labelspacing=0.35,
    )
    for text in legend.get_texts():
        plain(text)


def plain(text: Text) -> None:
    """No ligatures: "fi" as one glyph puts a second subset of the font into a PDF, which takes .25 s."""
    if hasattr(text, "set_fontfeatures"):  # matplotlib 3.11 shapes text, earlier ones have no ligatures
        text.set_fontfeatures(("-liga",))


_FIT_DASH: Any = (0, (4, 1.2))
_SOLID: Any = "-"
_LEFT, _RIGHT, _FOOT, _GAP = 0.74, 0.08, 0.42, 0.14  # inches
_HORIZONTAL: dict[str, dict[str, Any]] = {
    "bayes": {"color": "#333333", "linestyle": (0, (1, 1.6)), "linewidth": 1.1, "zorder": 1.5},
    "chance": {"color": "#999999", "linestyle": (0, (5, 2)), "linewidth": 0.8, "zorder": 1.5},
}


def frames(
    layout: Sequence[Sequence],
    head: float,
    *,
    left: float = _LEFT,
    gap: float = _GAP,
    height: float | None = None,
) -> tuple[Figure, dict[tuple[int, int], Axes]]:
    """The empty figure, laid out in inches: exact, quick, and the same whatever is drawn in it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = max(len(row) for row in layout)
    width = (WIDTH - left - _RIGHT - gap * (columns - 1)) / columns
    height = height or {1: 2.5, 2: 2.2}.get(columns, 1.8)
    title = 0.22
    total = head + len(layout) * (title + height) + gap * (len(layout) - 1) + _FOOT
    figure = Figure(figsize=(WIDTH, total))
    FigureCanvasAgg(figure)
    grid = {}
    for r, row in enumerate(layout):
        bottom = total - head - (r + 1) * (title + height) - r * gap
        for c in range(len(row)):
            box = ((left + c * (width + gap)) / WIDTH, bottom / total, width / WIDTH, height / total)
            grid[r, c] = figure.add_axes(box)
    return figure, grid


def _curves(axes: Axes, own: pl.DataFrame, styles: dict[str, Style], join: bool) -> None:
    """Line, draws, bars and markers of every level; plain artists, for the limits are set by hand."""
    from matplotlib.collections import LineCollection
    from matplotlib.lines import Line2D

    for order, (level, style) in enumerate(styles.items()):
        of = own.filter(pl.col("level") == level).sort("x")
        dots, fit, beyond = (of.filter(pl.col("kind") == kind) for kind in ("draw", "fit", "extrapolated"))
        means, hidden = (
            of.filter(pl.col("kind").is_in(["mean", "held-out"])),
            of.filter(pl.col("kind") == "held-out"),
        )
        if means.is_empty():
            continue
        if join or fit.is_empty():
            axes.add_line(Line2D(*_xy(means), color=style.colour, linewidth=0.9 if join else 0.5, zorder=2))
        for part, dash in ((fit, _SOLID), (beyond, _FIT_DASH)):
            axes.add_line(Line2D(*_xy(part), color=style.colour, linewidth=1.0, linestyle=dash, zorder=2.2))
            _band(axes, part, style.colour)
        look_of_dots = {"linestyle": "none", "marker": "o", "markersize": 1.9, "markeredgewidth": 0}
        axes.add_line(Line2D(*_xy(dots), color=style.colour, alpha=0.55, zorder=2.5, **look_of_dots))
        known = means.filter(pl.col("kind") == "mean")
        bars = means.filter(pl.col("se").is_not_null()).select("x", "y", "se").rows()
        ends = [[(x, y - se), (x, y + se)] for x, y, se in bars]
        axes.add_collection(
            LineCollection(ends, colors=style.colour, linewidths=1.0, zorder=3), autolim=False
        )
        axes.add_line(Line2D(*_xy(known), linestyle="none", zorder=3 + order / 100, **marker_of(style)))
        hollow = marker_of(style) | {
            "markerfacecolor": "white",
            "markeredgecolor": style.colour,
            "markeredgewidth": 0.9,
        }
        axes.add_line(Line2D(*_xy(hidden), linestyle="none", zorder=3.1 + order / 100, **hollow))


def _band(axes: Axes, line: pl.DataFrame, colour: str) -> None:
    """The interval around a line, where it has one."""
    from matplotlib.collections import PolyCollection

    known = line.filter(pl.col("low").is_not_null() & pl.col("high").is_not_null()).sort("x")
    if known.is_empty():
        return
    outline = [*known.select("x", "high").rows(), *known.select("x", "low").rows()[::-1]]
    axes.add_collection(
        PolyCollection([outline], color=colour, alpha=0.15, linewidth=0, zorder=1.8), autolim=False
    )


def _xy(points: pl.DataFrame) -> tuple[list[float], list[float]]:
    return points["x"].to_list(), points["y"].to_list()


def marker_of(style: Style) -> dict[str, Any]:
    size = 4.4 if style.marker in "PXp*hH><v^" else 3.7
    return {
        "color": style.colour,
        "marker": style.marker,
        "markersize": size,
        "markeredgecolor": style.colour if style.marker == "x" else "white",
        "markeredgewidth": 0.45,
    }


def _legend_entries(styles: dict[str, Style], kinds: set[str], join: bool) -> tuple[list, list[str]]:
    from matplotlib.lines import Line2D

    width = 0.9 if join or "fit" in kinds else 0.0
    handles = [Line2D([], [], linewidth=width, **marker_of(style)) for style in styles.values()]
    labels = [level.replace("_", " ") for level in styles]
    for kind, dash, label in (("fit", _SOLID, "fit, 95 % band"), ("extrapolated", _FIT_DASH, "extrapolated")):
        if kind in kinds:
            handles.append(Line2D([], [], color="#777777", linewidth=1.0, linestyle=dash))
            labels.append(label)
    if "held-out" in kinds:
        empty = {"markerfacecolor": "white", "markeredgecolor": "#777777", "markersize": 4.0}
        handles.append(Line2D([], [], linestyle="none", marker="o", **empty))
        labels.append("held out")
    for kind, label in (("bayes", "Bayes loss"), ("chance", "chance, ln 2")):
        if kind in kinds:
            handles.append(Line2D([], [], **_HORIZONTAL[kind]))
            labels.append(label)
    return handles, labels


def legend_columns(labels: list[str]) -> int:
    room = WIDTH - _LEFT
    widths = [
        0.39 + 0.057 * len(label) for label in labels
    ]  # inches: handle and gaps, then 7.5 point letters
    return len(labels) if sum(widths) <= room else max(1, min(len(labels), int(room / max(widths))))


def _limits(points: pl.DataFrame) -> tuple[float, float]:
    se = points["se"].fill_null(0.0)
    low, high = (points["y"] - se).min(), (points["y"] + se).max()
    return float(low), float(high)  # type: ignore[arg-type]


def set_axis(axes: Axes, which: str, low: Any, high: Any, log: bool, room: int) -> None:
    """Limits with a margin, at most about ``room`` ticks with plain labels (1k, 0.35), no minor ticks."""
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    if log:
        if low <= 0:
            raise ScalingError(f"a log axis needs values above 0, the smallest drawn is {low}")
        margin = max((high / low) ** 0.06, 1.02)
        low, high = low / margin, high * margin
        (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    else:
        margin = max(0.06 * (high - low), 0.005)
        low, high = low - margin, high + margin
    (axes.set_xlim if which == "x" else axes.set_ylim)(low, high)
    axis = axes.xaxis if which == "x" else axes.yaxis
    ticks = _ticks(low, high, log, room)
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FixedFormatter(_tick_labels(ticks)))
    axis.set_minor_locator(NullLocator())


def _ticks(low: float, high: float, log: bool, room: int) -> list[float]:
    from matplotlib.ticker import MaxNLocator

    if log and high / low > 6:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for steps in ((1, 2, 5), (1, 3), (1,)):
            values = [step * 10.0**power for power in powers for step in steps]
            values = [value for value in values if low <= value <= high]
            if len(values) <= room:
                break
        return values
    values = MaxNLocator(nbins=room, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return [float(value) for value in values if low <= value <= high]


def _tick_labels(ticks: list[float]) -> list[str]:
    """One number of decimals for all labels of an axis below 1,000, so that 0.60 stands under 0.65."""
    if not ticks or max(ticks) >= 1_000 or max(ticks) > 100 * min(ticks) > 0:
        return [compact(tick) for tick in ticks]
    decimals = next(
        (d for d in range(7) if all(math.isclose(round(t, d), t, rel_tol=1e-6) for t in ticks)), 7
    )
    return [f"{tick:.{decimals}f}" for tick in ticks]


def compact(value: float) -> str:
    """A short label: 300, 1k, 2.5M, 0.35."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.4g}"


def panel_title(sweep: Sweep, family: str, model: str | None) -> str:
    rows = sweep.table.filter((pl.col("family") == family) & (pl.col("model") == model))
    name = (
        model
        if sweep.table["family"].n_unique() == 1 or str(model).startswith(family)
        else f"{family} · {model}"
    )
    return f"{name} · {compact(rows['params'][0])} parameters"
