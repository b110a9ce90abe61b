"""Comparisons as cards: the prompt, and the responses side by side with their difference marked."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from rewardscale.data.build.run import Built
from rewardscale.data.comparison import Comparison
from rewardscale.data.describe import pairs
from rewardscale.data.describe.html import long_text, number, text


def sample(built: Built, most: int, *, seed: int) -> str:
    """`most` random comparisons as cards, as equally from the sources as they allow."""
    rows = pairs.sample_rows(built.corpus, most, seed=seed)
    columns = ["row", "source", "category", "split", "preferred", "margin"]
    about = built.corpus.scan_manifest().filter(pl.col("row").is_in(rows)).select(columns).collect()
    by_row = {row["row"]: row for row in about.iter_rows(named=True)}
    out = [
        f"<p class=soft>{len(rows)} random comparisons (seed {seed}), as equally from the sources as they allow. "
        "Marked: words that the other response does not have there.</p>"
    ]
    for comparison, row in zip(pairs.read_rows(built.corpus, rows), rows, strict=True):
        out.append(_card(comparison, by_row[row]))
    return "\n".join(out)


def _card(comparison: Comparison, about: Mapping[str, Any]) -> str:
    said = [about["category"], about["split"]]
    said += [f"margin {number(about['margin'])}"] if about["preferred"] else ["no label"]
    rest = " · ".join(text(one) for one in said if one)
    return (
        f"<article class=pair><header><b>{text(about['source'])}</b> · row {about['row']:,} · {rest}</header>"
        f"{texts(comparison, about['preferred'])}</article>"
    )


def texts(comparison: Comparison, preferred: int, others: Comparison | None = None) -> str:
    """Prompt and responses, chosen first; the two of a pair with their difference marked.

    With `others`, an almost equal comparison, its responses stand beside those of the same place.
    """
    prompt = "".join(
        f"<div class=role>{text(message.role)}</div>{long_text([(message.content, False)])}"
        for message in comparison.prompt
    )
    responses = comparison.responses
    if len(responses) != 2:
        shown = [_side(f"response {i + 1}", "", [(r, False)]) for i, r in enumerate(responses)]
    elif others is not None:
        both = zip(responses, others.responses, strict=True)
        shown = []
        for one, other in both:
            kept, dropped = pairs.difference(one, other)
            shown += [_side("kept", "chosen", kept), _side("dropped", "rejected", dropped)]
    else:
        order = (1, 0) if preferred < 0 else (0, 1)
        names = ("chosen", "rejected") if preferred else ("first", "second")
        pieces = pairs.difference(*(responses[i] for i in order))
        shown = [
            _side(name, css, one)
            for name, css, one in zip(names, ("chosen", "rejected"), pieces, strict=True)
        ]
    return f"<div class=prompt>{prompt}</div><div class=sides>{''.join(shown)}</div>"


def _side(name: str, css: str, pieces: pairs.Pieces) -> str:
    return f"<div><div class='role {css}'>{text(name)}</div>{long_text(pieces, css)}</div>"
