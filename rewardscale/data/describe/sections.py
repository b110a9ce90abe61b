"""The sections of a corpus's page, each from a few small tables to HTML."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from rewardscale.data.build.run import Built
from rewardscale.data.describe import cards, clusters
from rewardscale.data.describe.frames import (
    DROPS,
    SPLITS,
    distinct_prompts,
    examples_of_refusals,
    frame_clusters,
    frame_contamination,
    frame_copies,
    frame_refusals,
    frame_unpaired,
    quantiles,
)
from rewardscale.data.describe.html import (
    Html,
    bar,
    figure,
    folded,
    link,
    percent,
    table,
    text,
    tiles,
)
from rewardscale.data.levels import level_names

MOST_ROWS = 15  # of a long table, before the rest is folded
MOST_FOLDED = 500
CLUSTER_SIZES = (
    *((str(size), size, size) for size in (2, 3, 4)),
    *(("5 to 9", 5, 9), ("10 to 99", 10, 99), ("100 and more", 100, 2**32)),
)
CAPTIONS = {
    "flow": "What came of each source's pairs, and records refused. Right: how many were kept.",
    "lengths": "Characters of the prompts of all comparisons, and of the responses of labelled pairs.",
    "token_lengths": "The same in tokens, under the view's tokenizer and template.",
    "length_bias": "Share of labelled pairs whose longer response (in characters) is the chosen one; bars: 95 % "
    "(Wilson). Pairs of equal length are left out; dashed: no bias.",
    "length_curve": "The same against how many times longer it is. The last point stands for 16 times and more.",
    "margins": "How far apart the source's own scores put the two responses; sources with graded labels alone.",
}
WHY = {
    "duplicate": "the same history and responses as an earlier pair",
    "conflict": "the same pair with contradicting labels",
    "near_duplicate": "almost the same words as an earlier pair",
    "contaminated": "shares a run of words with an evaluation set",
}


@dataclasses.dataclass(frozen=True)
class Tables:
    """What is read once for figures and sections; frames of describe_frames by name."""

    sources: pl.DataFrame
    splits: pl.DataFrame
    categories: pl.DataFrame
    lengths: pl.DataFrame
    token_lengths: pl.DataFrame | None
    length_bias: pl.DataFrame
    length_curve: pl.DataFrame
    margins: pl.DataFrame
    verdicts: pl.DataFrame


def body(built: Built, tables: Tables, drawings: Mapping[str, str], *, sample: int, seed: int) -> str:
    """The page's body; `drawings`: SVG by name."""
    parts = [
        _opening(built, tables),
        _section(
            "What went in, what stayed", _steps(tables, frame_unpaired(built)), _drawn(drawings, "flow")
        ),
        _section("Sources", _sources(tables), _splits(tables)),
        _section("Lengths", _drawn(drawings, "lengths", "token_lengths"), _lengths(tables)),
        _section("Does length decide?", _bias(tables), _drawn(drawings, "length_bias", "length_curve")),
        _section("Labels", _labels(tables), _drawn(drawings, "margins"), _verdicts(tables), _levels(built)),
        _section("Categories", _categories(tables)),
        _section("Duplicates and conflicts", _copies(built), _clusters(built)),
        _section("Contamination", _contamination(built)),
        _section("Quarantine", _quarantine(built)),
        _section("Pairs to read", cards.sample(built, sample, seed=seed)),
        _section("Where it comes from", _provenance(built)),
    ]
    return "\n".join(parts)


def _section(title: str, *parts: str) -> str:
    return f"<h2>{text(title)}</h2>\n" + "\n".join(part for part in parts if part)


def _drawn(drawings: Mapping[str, str], *names: str) -> str:
    figures = [figure(drawings[name], CAPTIONS[name], name) for name in names if name in drawings]
    return f"<div class=figures>{''.join(figures)}</div>" if figures else ""


def _long(head: Sequence[str], rows: Sequence[Sequence[Any]], empty: str = "None.") -> Html:
    """A table of which the first rows are shown and the rest is folded."""
    out = table(head, rows[:MOST_ROWS], empty)
    if rest := rows[MOST_ROWS : MOST_ROWS + MOST_FOLDED]:
        left = len(rows) - MOST_ROWS - len(rest)
        note = f"<p class=soft>{left:,} further rows are not shown.</p>" if left else ""
        out = Html(out + folded(f"{len(rows) - MOST_ROWS:,} more", table(head, rest) + note))
    return out


def _opening(built: Built, tables: Tables) -> str:
    sources, splits = tables.sources, tables.splits
    prompts, exact = distinct_prompts(built)
    dropped = sum(sources[name].sum() for name in DROPS)
    entries = [
        (f"{len(built.corpus):,}", "comparisons"),
        (f"{splits['labelled'].sum():,}", "pairs with a label"),
        (f"{'' if exact else '≈ '}{prompts:,}", "different prompts"),
        (f"{len(sources):,}", "sources"),
        (f"{sources['comparisons'].sum():,}", "comparisons read"),
        (f"{sources['refused'].sum():,}", "refused"),
        (f"{dropped:,}", "pairs dropped"),
    ]
    if len(tables.length_bias):
        entries.append((percent(tables.length_bias["share"][0]), "of the labels prefer the longer"))
    name = built.record["config"]["name"]
    return (
        f"<h1>{text(name)}</h1><p class=kicker>A corpus of preference pairs · fingerprint "
        f"{text(built.corpus.fingerprint)}</p>{tiles(entries)}"
    )


def _steps(tables: Tables, unpaired: pl.DataFrame) -> Html:
    sources, splits = tables.sources, tables.splits
    columns = ("refused", "comparisons", "unpaired", "pairs", "kept", *DROPS)
    total = {name: int(sources[name].sum()) for name in columns}
    most = max(total["refused"], total["comparisons"], total["pairs"], 1)

    def row(step: str, count: int, colour: str, note: str = "") -> list[Any]:
        below = f"<br><span class=soft>{text(note)}</span>" if note else ""
        return [Html(text(step) + below), count, bar(count / most, colour) if colour else ""]

    rows = []
    if total["refused"]:
        rows.append(row("refused", total["refused"], "grey", "records and responses: see Quarantine"))
    rows.append(row("comparisons read", total["comparisons"], "soft"))
    if total["unpaired"]:
        why = unpaired.group_by("reason").agg(pl.col("pairs").sum())
        why = why.sort("pairs", "reason", descending=[True, False])
        reasons = ", ".join(f"{reason.replace('_', ' ')} {pairs:,}" for reason, pairs in why.iter_rows())
        rows.append(row("candidate pairs left out", total["unpaired"], "", reasons))
    rows.append(row("= pairs", total["pairs"], "soft"))
    rows += [
        row(f"− {name.replace('_', '-')}", total[name], "orange", WHY[name]) for name in DROPS if total[name]
    ]
    by_split = (
        splits.group_by("split").agg(pl.col("pairs").sum()).sort("pairs", "split", descending=[True, False])
    )
    noted = ", ".join(f"{split or '(none)'} {pairs:,}" for split, pairs in by_split.iter_rows())
    rows.append(row("= kept", total["kept"], "blue", noted))
    return table(["step", "count", ""], rows)


def _sources(tables: Tables) -> Html:
    rows = []
    for s in tables.sources.iter_rows(named=True):
        dropped = sum(s[name] for name in DROPS)
        share = s["kept"] / s["pairs"] if s["pairs"] else 0.0
        title = f"<br><span class=soft>{text(s['title'])}</span>" if s["title"] else ""
        what = Html(link(s["url"], s["name"]) + title)
        rows.append(
            [
                *(what, s["licence"] or "not stated", s["refused"], s["comparisons"]),
                *(s["pairs"], dropped, s["kept"], bar(share)),
            ]
        )
    return _long(["source", "licence", "refused", "read", "pairs", "dropped", "kept", "share kept"], rows)


def _splits(tables: Tables) -> str:
    names = tables.splits["split"].unique().sort().to_list()
    names.sort(key=lambda name: [*SPLITS, name].index(name))
    counts = {
        (source, split): pairs
        for source, split, pairs in tables.splits.select("source", "split", "pairs").iter_rows()
    }
    sources = tables.splits["source"].unique().sort().to_list()
    rows = [[source, *(counts.get((source, name), 0) for name in names)] for source in sources]
    totals = ["all", *(sum(counts.get((source, name), 0) for source in sources) for name in names)]
    return "<h3>Splits</h3>" + _long(["source", *(name or "(none)" for name in names)], [totals, *rows])


def _lengths(tables: Tables) -> Html:
    shares = (0.1, 0.5, 0.9, 0.99, 1.0)
    rows = []
    for unit, frame in (("characters", tables.lengths), ("tokens", tables.token_lengths)):
        if frame is not None:
            for part in ("prompt", "chosen", "rejected"):
                found = quantiles(frame, part, shares)
                rows += [[f"{part}, {unit}", *found]] if found else []
    return table(["length", "10 %", "median", "90 %", "99 %", "longest"], rows)


def _bias(tables: Tables) -> str:
    if tables.length_bias.is_empty():
        return "<p class=soft>No labelled pair has responses of different length.</p>"
    all_of = tables.length_bias.row(0, named=True)
    line = (
        f"In {percent(all_of['share'])} [{percent(all_of['low'])}, {percent(all_of['high'])}] of {all_of['pairs']:,} "
        "labelled pairs the longer response is the chosen one: whoever looked at length alone would be right in "
        f"{percent(max(all_of['share'], 1 - all_of['share']))}."
    )
    rows = [
        ["all" if row["source"] is None else row["source"], row["pairs"]]
        + [percent(row[name]) for name in ("share", "low", "high")]
        for row in tables.length_bias.iter_rows(named=True)
    ]
    head = ["source", "pairs", "longer chosen", "95 % from", "to"]
    return f"<p>{text(line)}</p>" + folded("The numbers", _long(head, rows))


def _labels(tables: Tables) -> Html:
    rows = []
    for source in sorted(set(tables.margins["source"])):
        own = tables.margins.filter(pl.col("source") == source)
        labelled = own.filter(pl.col("margin") > 0)
        pairs, labels = int(own["pairs"].sum()), int(labelled["pairs"].sum())
        lengths = labelled.select(pl.lit("").alias("part"), length="margin", pairs="pairs")
        found = quantiles(lengths, "", (0.1, 0.5, 0.9)) or [None] * 3
        rows.append([source, pairs, labels, pairs - labels, percent((pairs - labels) / pairs), *found])
    head = ["source", "comparisons", "labelled", "ties or unknown", "share", "margin, 10 %", "median", "90 %"]
    return _long(head, rows)


def _verdicts(tables: Tables) -> str:
    frame = tables.verdicts
    kinds = frame.group_by("kind").agg(
        pl.col("annotator").n_unique(), pl.col("verdicts", "ties").sum(), pl.col("cost").sum()
    )
    kinds = kinds.sort("verdicts", "kind", descending=[True, False])
    head = ["kind", "annotators", "verdicts", "ties", "cost"]
    out = "<h3>Who judged</h3>" + table(head, [list(row) for row in kinds.iter_rows()])
    rows = [
        list(row)
        for row in frame.select("annotator", "kind", "verdicts", "ties", "confidence", "cost").iter_rows()
    ]
    head = ["annotator", "kind", "verdicts", "ties", "mean confidence", "cost"]
    return out + folded(f"{len(rows):,} annotators", _long(head, rows))


def _levels(built: Built) -> str:
    directory = built.directory / "levels"
    rows = []
    for name in level_names(directory):
        record = json.loads((directory / name / "level.json").read_text())
        rows.append([name, record["pairs"], record["cost_unit"], record["fingerprint"]])
    return "<h3>Levels</h3>" + table(["level", "pairs", "cost in", "fingerprint"], rows)


def _categories(tables: Tables) -> str:
    frame = tables.categories
    total, most = int(frame["pairs"].sum()), int(frame["pairs"][0])  # a corpus has a row
    rows = [
        [name or "(none)", pairs, sources, bar(pairs / most), percent(pairs / total)]
        for name, pairs, sources in frame.select("category", "pairs", "sources").iter_rows()
    ]
    return _long(["category", "pairs", "sources", "", "share"], rows)


def _copies(built: Built) -> str:
    rows = [
        [reason.replace("_", "-"), source, of, pairs]
        for reason, source, of, pairs in frame_copies(built)
        .select("reason", "source", "of", "pairs")
        .iter_rows()
    ]
    exact = built.record["stages"].get("exact", {})
    groups = exact.get("conflict_groups", 0)
    line = (
        f"{exact.get('duplicates', 0):,} pairs were copies of an earlier one. {groups:,} "
        f"{'pair has' if groups == 1 else 'pairs have'} contradicting labels; what became of them is the policy "
        f"“{built.record['config']['conflicts']}”: {exact.get('conflicts', 0):,} dropped."
    )
    if near := built.record["stages"].get("near"):
        line += (
            f" {near['dropped']:,} more {'was' if near['dropped'] == 1 else 'were'} nearly the same as an earlier one "
            f"(Jaccard similarity of word 5-shingles from {built.record['config']['near']['threshold']:g} on)."
        )
    head = ["reason", "dropped from", "for one of", "pairs"]
    return f"<p>{text(line)}</p>" + _long(head, rows, "No pair was there twice.")


def _clusters(built: Built) -> str:
    frame = frame_clusters(built)
    if frame is None:
        note = (
            "Sizes of clusters and examples are read from the stages' files, which this build did not keep."
        )
        return f"<p class=soft>{note}</p>"
    rows = []
    for name, first, last in CLUSTER_SIZES:
        own = frame.filter(pl.col("size").is_between(first, last))
        by_stage = dict(own.group_by("stage").agg(pl.col("clusters").sum()).iter_rows())
        rows += [[name, by_stage.get("exact", 0), by_stage.get("near", 0)]] if by_stage else []
    largest = frame["size"].max()
    head = ["times there", "clusters of copies", "of near-duplicates"]
    shown = table(head, rows, "No clusters.") + (f"<p>The largest: {largest:,}.</p>" if rows else "")
    examples = [
        f"<div class=pair><header>{text(one.title)}</header>{cards.texts(one.comparison, one.kept, one.others)}</div>"
        for one in clusters.examples(built)
    ]
    return shown + (folded(f"{len(examples)} examples", "".join(examples)) if examples else "")


_SETS_HEAD = ["evaluation set", "pairs left out", "its items that share words", "of", "share"]


def _met(counts: Mapping[str, Any]) -> list[Any]:
    """Items of an evaluation set that share words with the sources; builds of before they were counted say nothing."""
    if "set_items" not in counts:
        return [None, None, None]
    found, of = counts["set_items_found"], counts["set_items"]
    return [found, of, percent(found / of) if of else None]


def _contamination(built: Built) -> Html:
    sets = built.record["config"]["decontaminate"]["sets"]
    if not sets:
        return Html("<p class=soft>The corpus was compared with no evaluation set.</p>")
    frame = frame_contamination(built)
    names = [entry.partition("=")[0] for entry in sets]
    hits = dict(frame.group_by("set").agg(pl.col("pairs").sum()).iter_rows())
    by_set = {one["set"]: one for one in built.record["stages"]["decontaminate"]["by_set"]}
    rows = [[name, hits.get(name, 0), *_met(by_set[name])] for name in names]
    detail = [list(row) for row in frame.iter_rows()]
    by_source = folded("By source", _long(["evaluation set", "source", "pairs"], detail)) if detail else ""
    words = built.record["config"]["decontaminate"]["words"]
    line = f"Pairs that share {words} consecutive words with an evaluation set were left out."
    found = clusters.hits(built)
    head = ["evaluation set", "its text", "source", "words in common"]
    examples = folded(f"{len(found)} examples", table(head, found)) if found else ""
    return Html(f"<p>{text(line)}</p>{table(_SETS_HEAD, rows)}{by_source}{examples}")


def _quarantine(built: Built) -> str:
    refusals = frame_refusals(built)
    rows = [[code, source, records] for source, code, records in refusals.iter_rows()]
    out = _long(["code", "source", "records"], rows, "Every record could be used.")
    examples = [
        [
            r["code"],
            r["source"],
            f"{r['file']}:{r['line']}",
            Html(f"<div class=reason>{text(r['reason'][:300])}</div>"),
        ]
        for r in examples_of_refusals(built)
    ]
    if examples:
        out = Html(
            out + "<h3>The first of each</h3>" + _long(["code", "source", "where", "reason"], examples)
        )
    return out


def _provenance(built: Built) -> str:
    record = built.record
    rows = [["config", record["asked"]], ["fingerprint", record["fingerprint"]]]
    rows += [[name, version] for name, version in sorted(record["versions"].items())]
    config = json.dumps(record["config"], indent=2, sort_keys=True, ensure_ascii=False)
    files = json.dumps({s["name"]: s["files"] for s in record["sources"]}, indent=2, ensure_ascii=False)
    return (
        table(["", ""], rows)
        + folded("Configuration", f"<div class=text>{text(config)}</div>")
        + folded("Files read", f"<div class=text>{text(files)}</div>")
    )
