"""The tables of an evaluation, from what eval.json holds: for the terminal, for eval.md and for eval.html."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rewardscale.evaluation.benchmarks.registry import SEVEN, spec
from rewardscale.evaluation.published import LABEL, Published, published

HEAD = ("benchmark", "score", "95 %", "n", "ties", "truncated", "length-only", "random", "present")
Record = Mapping[str, Any]
Table = tuple[Sequence[str], list[list[str]]]


def percent(value: float | None) -> str:
    """0.8123 -> "81.2"; a dash for None."""
    return "–" if value is None else f"{100 * value:.1f}"


def ends(score: Record) -> str:
    """ "79.0 to 83.4", or why there is no interval."""
    if score.get("low") is None:
        return score.get("note") or "–"
    return f"{percent(score['low'])} to {percent(score['high'])}"


def main_rows(record: Record, model: Record) -> list[list[str]]:
    """A row a benchmark, of HEAD; scores in percent, n of items scored."""
    rows = []
    for name, facts in record["benchmarks"].items():
        own = model["benchmarks"][name]
        controls = facts["controls"]
        rows.append(
            [
                facts["shown_name"],
                percent(own["score"]["estimate"]),
                ends(own["score"]),
                _of(own["scored"], facts["items"]),
                f"{own['ties']:,}",
                f"{own['texts_truncated']:,}",
                percent(controls["length-only"]),
                percent(controls["random"]),
                _present(facts),
            ]
        )
    return rows


def _of(part: int, whole: int) -> str:
    return f"{part:,}" if part == whole else f"{part:,} of {whole:,}"


def _present(facts: Record) -> str:
    """The share of the official set that was read."""
    if facts["whole"]:
        return "all"
    if facts["expected"] in (0, facts["items"]):  # parts of items, or records that were none
        return f"{sum(facts['missing'].values()):,} left out"
    return f"{math.floor(1000 * facts['items'] / facts['expected']) / 10:g} %"


def seven_table(record: Record) -> Table:
    """Our models and the published rows on the seven; of ours what is not whole is marked with a star."""
    head = ["model", *(spec(name).title for name in SEVEN), "mean of 7", ""]
    rows = []
    for model in record["models"]:
        cells = []
        for name in SEVEN:
            facts, own = record["benchmarks"].get(name), model["benchmarks"].get(name)
            if facts is None or own is None:
                cells.append("–")
                continue
            part = not facts["whole"] or own["scored"] < facts["items"]
            cells.append(percent(own["score"]["estimate"]) + "*" * part)
        rows.append([model["name"], *cells, percent(model["average"]), "run here"])
    source = published()
    for row in source.rows:
        cells = [_published(row.scores.get(name), row.changed.get(name)) for name in SEVEN]
        mean = _published(row.average, row.changed.get("average"))
        rows.append([row.model, *cells, mean, f"{LABEL}; {row.kind}"])
    return head, rows


def _published(value: float | None, changed: float | None) -> str:
    return percent(value) if changed is None else f"{percent(value)} [{percent(changed)}]"


def source_line(source: Published) -> str:
    """Where published rows are from."""
    return f"{LABEL}: {source.paper}, {source.address}, {source.table}; {source.version} in brackets."


def detail_rows(own: Record) -> list[list[str]]:
    """All scores of a model on a benchmark."""
    return [
        [name, percent(score["estimate"]), ends(score), "" if score.get("items") is None else f"{score['items']:,}"]
        for name, score in own["scores"].items()
    ]  # fmt: skip


def comparison_rows(record: Record) -> list[list[str]]:
    """Two models on a benchmark: difference in points, its interval, McNemar's counts and p by clusters."""
    rows = []
    for one in record.get("comparisons", ()):
        difference, test = one.get("difference"), one.get("mcnemar")
        rows.append(
            [
                f"{one['one']} – {one['other']}",
                record["benchmarks"][one["benchmark"]]["shown_name"],
                "–" if difference is None else f"{100 * difference['estimate']:+.1f}",
                "–" if difference is None else ends(difference),
                "–" if test is None else f"{test['only_one']:,} / {test['only_other']:,}",
                "–" if test is None else f"{test['p_clustered_mid']:.2g}",
            ]
        )
    return rows


COMPARISON_HEAD = (
    "models",
    "benchmark",
    "difference, points",
    "95 %",
    "pairs right by one only",
    "p (McNemar)",
)


def left_out_rows(record: Record) -> list[list[str]]:
    """What was read and not scored, or not read, by reason: benchmark, model, reason, count."""
    rows = []
    for name, facts in record["benchmarks"].items():
        rows += [[facts["title"], "", why, f"{count:,}"] for why, count in facts["missing"].items()]
        for model in record["models"]:
            found = model["benchmarks"][name]["unscored"]
            rows += [[facts["title"], model["name"], why, f"{count:,}"] for why, count in found.items()]
    return rows


def average_line(model: Record) -> str:
    """The mean of the seven, or why there is none."""
    if model["average"] is None:
        return f"no mean of the seven: {model['average_note']}"
    return f"mean of the seven: {percent(model['average'])}"


def counts_line(model: Record) -> str:
    """ "2,394 texts scored once (1.2M tokens, 3 truncated), 5 without a reward"."""
    counts = model["counts"]
    lost = counts["texts"] - counts["scored"]
    line = f"{counts['scored']:,} texts scored once ({counts['tokens']:,} tokens, {counts['truncated']:,} truncated)"
    return line + (f", {lost:,} could not be" if lost else "")


def terminal(record: Record) -> str:
    """What the command prints at the end."""
    parts = []
    for model in record["models"]:
        parts += [f"{model['name']}: {counts_line(model)}", aligned(HEAD, main_rows(record, model))]
        parts += [average_line(model), ""]
    if record.get("comparisons"):
        parts += [aligned(COMPARISON_HEAD, comparison_rows(record), left=2), ""]
    return "\n".join(parts)


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Columns of text; the first `left` stand left, the others right."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = []
    for row in [head, *rows]:
        cells = [
            c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def markdown(record: Record) -> str:
    """eval.md."""
    parts = [f"# {' and '.join(model['name'] for model in record['models'])} on benchmarks", ""]
    for model in record["models"]:
        parts += [
            f"## {model['name']}",
            "",
            counts_line(model),
            "",
            _pipes(HEAD, main_rows(record, model)),
            "",
        ]
        parts += ["Scores in percent; the interval is a bootstrap over clusters (prompts) of items.", ""]
        parts += [average_line(model), ""]
    if record.get("comparisons"):
        parts += ["## Compared", "", _pipes(COMPARISON_HEAD, comparison_rows(record)), ""]
    head, rows = seven_table(record)
    parts += ["## Beside published numbers", "", _pipes(head, rows), "", "\\* not the whole set.", ""]
    parts += [source_line(published()), ""]
    if left_out := left_out_rows(record):
        parts += ["## Left out", "", _pipes(("benchmark", "model", "reason", "items"), left_out), ""]
    if record["absent"]:
        parts += ["## Not there", "", *(f"* {name}: {how}" for name, how in record["absent"].items()), ""]
    return "\n".join(parts)


def _pipes(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
