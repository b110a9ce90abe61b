"""Where the pairs of a subset come from."""

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from rewardscale.data import arrays
from rewardscale.data.corpus import Corpus
from rewardscale.data.levels import Level
from rewardscale.data.subsets import Subset


def explain(subset: Subset, corpus: Corpus, levels: Sequence[Level] = ()) -> pl.DataFrame:
    """A row a source, category and licence of the corpus, the largest part of the subset first.

    Columns:
      source, category, licence: String.
      pairs: in the subset. share: of the subset. corpus: rows in the corpus.
      kept by <level>: the share of those rows that each of `levels` keeps.

    The manifest is read file by file.
    """
    marks = {"pairs": _mark(subset.rows, len(corpus))}
    marks |= {f"kept by {level.name}": _mark(level.rows, len(corpus)) for level in levels}
    tables, done = [], 0
    for path in corpus.manifests:
        part = pl.scan_parquet(path).select("source", "category").collect()
        here = slice(done, done + len(part))
        part = part.with_columns(pl.Series(name, mark[here]) for name, mark in marks.items())
        sums = (pl.col(name).sum().cast(pl.Int64) for name in marks)
        tables.append(part.group_by("source", "category").agg(pl.len().cast(pl.Int64).alias("corpus"), *sums))
        done = here.stop
    licences = _licences(corpus)
    kept = [name for name in marks if name != "pairs"]
    return (
        pl.concat(tables)
        .group_by("source", "category")
        .agg(pl.all().sum())
        .with_columns(
            (pl.col("pairs") / max(1, len(subset))).alias("share"),
            pl.col("source").replace_strict(licences, default=licences.get("", "")).alias("licence"),
            *((pl.col(name) / pl.col("corpus")).alias(name) for name in kept),
        )
        .sort("pairs", "source", "category", descending=[True, False, False])
        .select("source", "category", "licence", "pairs", "share", "corpus", *kept)
    )


def explain_text(table: pl.DataFrame) -> str:
    """The table of `explain`, as aligned text."""
    rows = [table.columns]
    for row in table.iter_rows():
        rows.append(
            [f"{x:.1%}" if isinstance(x, float) else f"{x:,}" if isinstance(x, int) else x for x in row]
        )
    text = [dtype == pl.String for dtype in table.dtypes]
    widths = [max(len(row[i]) for row in rows) for i in range(table.width)]
    lines = (
        "  ".join(x.ljust(w) if left else x.rjust(w) for x, w, left in zip(row, widths, text, strict=True))
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _mark(rows: np.ndarray, count: int) -> np.ndarray:
    marked = np.zeros(count, np.bool_)
    for piece in arrays.pieces(len(rows)):
        marked[rows[piece]] = True
    return marked


def _licences(corpus: Corpus) -> Mapping[str, str]:
    """Licence by source; under "" that of a corpus of one licence."""
    found = {"": str(corpus.about.get("licence", ""))}
    for source in corpus.about.get("sources", ()):
        if isinstance(source, Mapping) and "name" in source:
            found[source["name"]] = source.get("licence") or found[""]
    return found
