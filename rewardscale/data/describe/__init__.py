"""A corpus on one page: what went in, what was dropped and why, how long the texts are, and pairs to read.

`describe` writes `describe.html` beside the corpus. What the page shows is also there for a notebook: tables as
polars frames (`frame_*`), figures as matplotlib figures (`figures`, `svg`).
"""

from pathlib import Path
from typing import TYPE_CHECKING

from rewardscale import atomic
from rewardscale.data.build.run import Built
from rewardscale.data.describe import drawing, sections
from rewardscale.data.describe.drawing import svg
from rewardscale.data.describe.frames import (
    distinct_prompts,
    frame_categories,
    frame_clusters,
    frame_contamination,
    frame_copies,
    frame_length_bias,
    frame_length_curve,
    frame_lengths,
    frame_margins,
    frame_refusals,
    frame_sources,
    frame_splits,
    frame_token_lengths,
    frame_unpaired,
    frame_verdicts,
    open_built,
)
from rewardscale.data.describe.html import page
from rewardscale.data.describe.pairs import read_rows, sample_rows
from rewardscale.data.describe.sections import Tables
from rewardscale.data.tokenised import TokenisedView, open_view

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "describe", "distinct_prompts", "figures", "frame_categories", "frame_clusters", "frame_contamination",
    "frame_copies", "frame_length_bias", "frame_length_curve", "frame_lengths", "frame_margins", "frame_refusals",
    "frame_sources", "frame_splits", "frame_token_lengths", "frame_unpaired", "frame_verdicts", "open_built",
    "read_rows", "sample_rows", "svg",
]  # fmt: skip

SAMPLE = 24


def describe(
    directory: Path, *, view: Path | TokenisedView | None = None, sample: int = SAMPLE, seed: int = 0
) -> Path:
    """Writes `<directory>/describe.html`, whole or not at all; returns its path.

    Args:
      directory: of a finished build.
      view: a tokenised view whose lengths are shown too; None: the first of those under the corpus, if any.
      sample: pairs shown, as equally from the sources as they allow. seed: which.

    The same corpus, view and arguments give the same bytes. Memory does not depend on the number of pairs.

    Raises DataError if `directory` is not a finished build or is damaged, OSError if it cannot be written.
    """
    built = open_built(directory)
    tables = _tables(built, _view(built, view))
    drawings = {name: svg(figure, name) for name, figure in _figures(tables).items()}
    body = sections.body(built, tables, drawings, sample=sample, seed=seed)
    title = f"{built.record['config']['name']}: {len(built.corpus):,} comparisons"
    path = built.directory / "describe.html"
    atomic.write_bytes(path, page(title, body, drawing.style()).encode())
    return path


def figures(built: Built, *, view: Path | TokenisedView | None = None) -> "dict[str, Figure]":
    """The figures of the page by name, those that the corpus gives cause to."""
    return _figures(_tables(built, _view(built, view)))


def _tables(built: Built, view: TokenisedView | None) -> Tables:
    return Tables(
        sources=frame_sources(built),
        splits=frame_splits(built),
        categories=frame_categories(built),
        lengths=frame_lengths(built),
        token_lengths=None if view is None else frame_token_lengths(built, view),
        length_bias=frame_length_bias(built),
        length_curve=frame_length_curve(built),
        margins=frame_margins(built),
        verdicts=frame_verdicts(built),
    )


def _figures(tables: Tables) -> "dict[str, Figure]":
    drawn: dict[str, Figure | None] = {
        "flow": drawing.flow(tables.sources, tables.splits),
        "lengths": drawing.lengths(tables.lengths, "characters"),
    }
    if tables.token_lengths is not None:
        drawn["token_lengths"] = drawing.lengths(tables.token_lengths, "tokens")
    if not tables.length_curve.is_empty():
        drawn["length_bias"] = drawing.length_bias(tables.length_bias)
        drawn["length_curve"] = drawing.length_curve(tables.length_curve)
    drawn["margins"] = drawing.margins(tables.margins)
    return {name: one for name, one in drawn.items() if one is not None}


def _view(built: Built, view: Path | TokenisedView | None) -> TokenisedView | None:
    if isinstance(view, TokenisedView):
        return view
    if view is not None:
        return open_view(Path(view), deep=False)
    there = sorted(path.parent for path in (built.corpus.directory / "views").glob("[!.]*/view.json"))
    return open_view(there[0], deep=False) if there else None
