"""The figures of a corpus's page: plain matplotlib figures, drawn small enough for a phone.

Colours are those of the page: in the SVG they are its variables, so that one drawing serves light and dark.
"""

from __future__ import annotations

import contextlib
import io
import re
import threading
import unicodedata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from rewardscale.data.describe.frames import DROPS, SPLITS, quantiles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 4.2  # inches
MOST_SOURCES = 16
# Okabe & Ito's colour-blind-safe hues; name -> (light, dark). The light one stands in a file of its own.
PALETTE = {
    "ink": ("#1b1b1b", "#e8e8e6"),
    "soft": ("#5c5c5c", "#a9a9a6"),
    "line": ("#dcdcdc", "#3b3b3b"),
    "blue": ("#0072b2", "#56a8e0"),
    "sky": ("#56b4e9", "#9fd3f2"),
    "navy": ("#004a75", "#3278ab"),
    "orange": ("#d55e00", "#ff8f40"),
    "amber": ("#e69f00", "#ffc04d"),
    "pink": ("#cc79a7", "#e29bc2"),
    "green": ("#009e73", "#4cc9a0"),
    "grey": ("#9a9a9a", "#7d7d7d"),
}
INK, SOFT, LINE, BLUE, SKY, NAVY, ORANGE, AMBER, PINK, GREEN, GREY = (light for light, _ in PALETTE.values())
FATES = {  # of a record or pair, in drawing order
    "train": ("kept: train", BLUE),
    "validation": ("kept: validation", SKY),
    "test": ("kept: test", NAVY),
    "duplicate": ("duplicate", AMBER),
    "near_duplicate": ("near-duplicate", GREEN),
    "conflict": ("conflicting labels", ORANGE),
    "contaminated": ("in an evaluation set", PINK),
    "refused": ("record refused", GREY),
}
PARTS = {
    "prompt": ("prompt", GREY, ":"),
    "chosen": ("chosen", BLUE, "-"),
    "rejected": ("rejected", ORANGE, "-"),
}
_LINES = (BLUE, ORANGE, GREEN, PINK, AMBER, SOFT)
_RC: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rewardscale",
    "text.parse_math": False,  # names of sources are not formulas
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8.5,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "legend.fontsize": 8.0,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": SOFT,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "path.simplify": False,
}
_LOCK = threading.RLock()  # rcParams are matplotlib's one global


@contextlib.contextmanager
def _look() -> Iterator[None]:
    import matplotlib

    with _LOCK, matplotlib.rc_context(_RC), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the reader's own fonts draw the text
        yield


def svg(figure: Figure, name: str) -> str:
    """The figure as SVG with text as text and the page's colours; ids start with `name`, so several fit on a page."""
    buffer = io.StringIO()
    with _look():
        figure.savefig(
            buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    text = buffer.getvalue()
    text = re.sub(r"\A.*?(?=<svg)", "", text, flags=re.DOTALL)
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'(href="#|url\(#)', rf"\1{name}-", text)
    text = re.sub(r"font: ([\d.]+px) [^;\"]+", r"font: \1 system-ui, -apple-system, Roboto, sans-serif", text)
    for variable, (light, _) in PALETTE.items():
        text = re.sub(rf"((?:fill|stroke): ){light}\b", rf"\1var(--{variable}, {light})", text)
    return text


def label(text: str, most: int = 24) -> str:
    """A name as it may stand in a figure: no control or direction characters, at most `most` long."""
    clean = "".join(c if unicodedata.category(c)[0] != "C" else "�" for c in text)
    return clean if len(clean) <= most else clean[: most - 1] + "…"


def short(count: float) -> str:
    """12, 3,400, 56k, 1.2M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if count >= size:
            scaled = count / (1e3 if unit == "k" else size)
            return f"{scaled:.1f}{unit}" if scaled < 10 else f"{scaled:,.0f}{unit}"
    return f"{count:,.0f}"


def fates(sources: pl.DataFrame, splits: pl.DataFrame) -> pl.DataFrame:
    """source, fate (of FATES), count: what came of each source: its pairs, and the records refused."""
    rows: list[tuple[str, str, int]] = []
    for source in sources.iter_rows(named=True):
        own = splits.filter(pl.col("source") == source["name"])
        kept = dict(own.select("split", "pairs").iter_rows())
        rows += [(source["name"], split, kept.get(split, 0)) for split in SPLITS]
        rows += [(source["name"], fate, source[fate]) for fate in (*DROPS, "refused")]
    return pl.DataFrame(rows, ["source", "fate", "count"], orient="row").filter(pl.col("count") > 0)


def flow(sources: pl.DataFrame, splits: pl.DataFrame) -> Figure:
    """A bar a source: the shares that were kept, by split, and dropped or refused, by reason."""
    table = fates(sources, splits)
    sizes = (
        table.group_by("source").agg(pl.col("count").sum()).sort("count", "source", descending=[True, False])
    )
    names = [name for name in sizes["source"] if name][:MOST_SOURCES]
    drawn = [fate for fate in FATES if fate in set(table["fate"])]
    legend_rows = -(-len(drawn) // 2)
    with _look():
        height = 0.42 * len(names) + 0.19 * legend_rows + 0.1
        figure, axes = _axes(height, left=0.05, right=0.05, bottom=0.05, top=0.19 * legend_rows + 0.05)
        for place, name in enumerate(names):
            counts = dict(table.filter(pl.col("source") == name).select("fate", "count").iter_rows())
            total, start = sum(counts.values()), 0.0
            for fate in drawn:
                share = counts.get(fate, 0) / total
                axes.barh(place, share, 0.42, left=start, color=FATES[fate][1], linewidth=0)
                start += share
            kept = sum(counts.get(split, 0) for split in SPLITS)
            axes.text(0, place - 0.3, label(name, 34), va="bottom", ha="left")
            axes.text(1, place - 0.3, f"{short(kept)} of {short(total)}", va="bottom", ha="right", color=SOFT)
        axes.set(xlim=(0, 1), ylim=(len(names) - 0.65, -0.75))
        axes.set_axis_off()
        _legend(figure, [(FATES[fate][0], FATES[fate][1]) for fate in drawn], columns=2)
        return figure


def lengths(table: pl.DataFrame, unit: str) -> Figure:
    """Lengths of prompts, chosen and rejected responses on a log axis, with their medians."""
    with _look():
        figure, axes = _axes(2.5, bottom=0.45, top=0.58)
        most = max(10, int(table["length"].max() or 1))  # pyright: ignore[reportArgumentType]
        edges = np.logspace(0, np.log10(most * 1.001), max(8, int(10 * np.log10(most))))
        entries = []
        for part, (name, colour, dash) in PARTS.items():
            own = table.filter(pl.col("part") == part)
            if own.is_empty():
                continue
            values, weights = own["length"].to_numpy().clip(1), own["pairs"].to_numpy()
            counts, _ = np.histogram(values, edges, weights=weights / weights.sum())
            axes.stairs(counts, edges, color=colour, linestyle=dash, linewidth=1.4)
            if part == "chosen":
                axes.stairs(counts, edges, color=colour, alpha=0.15, fill=True)
            entries.append((f"{name}: median {quantiles(table, part, (0.5,))[0]:,}", colour))
        axes.set(xscale="log", xlim=(edges[0], edges[-1]), xlabel=unit, ylabel="share of texts")
        axes.set_ylim(bottom=0)
        _log_ticks(axes)
        _percent(axes)
        _legend(figure, entries, columns=2)
        return figure


def length_bias(table: pl.DataFrame) -> Figure:
    """By source: share of labelled pairs whose longer response is chosen, with 95 % intervals."""
    rows = [table.row(0, named=True)] if len(table) else []
    rest = table.slice(1).sort("pairs", "source", descending=[True, False]).head(MOST_SOURCES)
    rows += sorted(rest.iter_rows(named=True), key=lambda row: -row["share"])
    with _look():
        figure, axes = _axes(0.24 * len(rows) + 0.75, left=1.75, bottom=0.5, top=0.15)
        axes.axvline(0.5, color=SOFT, linewidth=0.8, linestyle=(0, (4, 2)))
        for place, row in enumerate(rows):
            colour = INK if row["source"] is None else BLUE
            axes.plot(
                [row["low"], row["high"]], [place, place], color=colour, linewidth=1.6, solid_capstyle="butt"
            )
            axes.plot(row["share"], place, "D" if row["source"] is None else "o", color=colour, markersize=5)
        names = ["all sources" if row["source"] is None else label(row["source"], 22) for row in rows]
        axes.set_yticks(range(len(rows)), names)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        low = min([0.4, *(row["low"] for row in rows)])
        high = max([0.6, *(row["high"] for row in rows)])
        axes.set(xlim=(max(-0.02, low - 0.03), min(1.02, high + 0.03)), ylim=(len(rows) - 0.4, -0.6))
        axes.set_xlabel("the longer response is chosen")
        _percent(axes, "x")
        return figure


def length_curve(table: pl.DataFrame) -> Figure:
    """The same against how many times longer the longer response is."""
    with _look():
        figure, axes = _axes(2.5, bottom=0.45, top=0.15)
        middle = (table["ratio_low"] * table["ratio_high"]).sqrt().to_numpy()
        axes.axhline(0.5, color=SOFT, linewidth=0.8, linestyle=(0, (4, 2)))
        axes.fill_between(middle, table["low"], table["high"], color=BLUE, alpha=0.2, linewidth=0)
        axes.plot(middle, table["share"], "o-", color=BLUE, markersize=3.5, linewidth=1.4)
        axes.set(xscale="log", xlim=(1, max(2.4, float(middle.max()) * 1.08 if len(middle) else 2.4)))
        axes.set_xlabel("length of the longer ÷ length of the shorter")
        axes.set_ylabel("the longer is chosen")
        ticks = [t for t in (1, 1.5, 2, 3, 4, 6, 8, 12, 16) if t <= axes.get_xlim()[1]]
        axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
        axes.minorticks_off()
        _percent(axes)
        return figure


def margins(table: pl.DataFrame) -> Figure | None:
    """Sources with graded labels: share of labelled pairs with at least each margin. None if no source has any."""
    labelled = table.filter(pl.col("margin") > 0)
    graded = labelled.group_by("source").agg(different=pl.len(), pairs=pl.col("pairs").sum())
    graded = graded.filter(pl.col("different") > 2).sort("pairs", "source", descending=[True, False])
    names = graded["source"].to_list()[: len(_LINES)]
    if not names:
        return None
    with _look():
        rows = -(-len(names) // 2)
        figure, axes = _axes(2.2 + 0.2 * rows, bottom=0.45, top=0.2 * rows + 0.2)
        for name, colour in zip(names, _LINES, strict=False):
            own = labelled.filter(pl.col("source") == name).sort("margin")
            weights = own["pairs"].to_numpy()
            at_least = np.cumsum(weights[::-1])[::-1] / weights.sum()
            axes.step(own["margin"].to_numpy(), at_least, where="pre", color=colour, linewidth=1.4)
        axes.set(ylim=(0, 1.02), xlabel="margin (difference of the source's scores)")
        axes.set_ylabel("pairs with at least that")
        shown = labelled.filter(pl.col("source").is_in(names))["margin"]
        if shown.max() > 50 * shown.min():  # pyright: ignore[reportOptionalOperand,reportOperatorIssue]
            axes.set_xscale("log")
            _log_ticks(axes)
        else:
            axes.set_xlim(left=0)
        _percent(axes)
        _legend(figure, list(zip([label(name) for name in names], _LINES, strict=False)), columns=2)
        return figure


def _axes(
    height: float, *, left: float = 0.62, right: float = 0.12, bottom: float, top: float
) -> tuple[Figure, Axes]:
    """A figure of `height` inches and its axes; the rest in inches too, so that nothing depends on fonts."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height))
    FigureCanvasAgg(figure)
    box = (left / WIDTH, bottom / height, 1 - (left + right) / WIDTH, 1 - (bottom + top) / height)
    return figure, figure.add_axes(box)


def _legend(figure: Figure, entries: Sequence[tuple[str, str]], columns: int) -> None:
    """Above the axes, read row by row (matplotlib fills legends column by column)."""
    from matplotlib.patches import Patch

    order = [entry for column in range(columns) for entry in entries[column::columns]]
    figure.legend(
        handles=[Patch(color=colour, label=name, linewidth=0) for name, colour in order],
        loc="upper left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=columns,
        frameon=False,
        borderaxespad=0.1,
        handlelength=1.0,
        handleheight=0.8,
        columnspacing=1.2,
        labelspacing=0.3,
    )


def _percent(axes: Axes, which: str = "y") -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis = axes.yaxis if which == "y" else axes.xaxis
    axis.set_major_locator(MaxNLocator(5))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g}%"))


def _log_ticks(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.xaxis.set_major_locator(LogLocator(10))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:g}" if value < 1 else short(value))
    )
    axes.xaxis.set_minor_locator(NullLocator())


def style() -> str:
    """The palette as CSS variables, light and dark."""

    def block(which: int) -> str:
        return " ".join(f"--{name}: {colours[which]};" for name, colours in PALETTE.items())

    return f":root {{ {block(0)} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {block(1)} }} }}"


Figures = Mapping[str, "Figure"]
