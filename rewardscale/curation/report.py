"""What a run writes last: report.json, for programs, and report.html with its figures, for people."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path
from typing import Any

import polars as pl

from rewardscale import atomic
from rewardscale.config.curation import CurationConfig
from rewardscale.curation import figures, outcomes, steps
from rewardscale.curation.annotators.llm.calls import bills_of
from rewardscale.curation.annotators.llm.statistics import statistics_of
from rewardscale.curation.inputs import Inputs
from rewardscale.curation.judging import folders
from rewardscale.curation.workbench import bill
from rewardscale.data.ledger.ledger import Ledger
from rewardscale.data.levels import Level
from rewardscale.scaling.figures import save
from rewardscale.scaling.page import page, table

_SHOWN = 4  # retrieved pairs of an iteration that the page quotes
_EXCERPT = 90  # characters of a prompt
_CAPTIONS = {
    "label_quality": "Labels that are right against how many of the labelled pairs a level keeps. Filled, with 95 % "
    "Wilson intervals: by people's held-out labels, which nothing was trained on. Hollow: by the truth, where it is "
    "known. A level that a placebo equals has gained nothing by curation.",
    "progress": "Left: reward models after each iteration. Right: labels that stage 2's rules would keep (filtered; "
    "no_humans: with judges for people) and keep or turn round (corrected) with what is known after each iteration. "
    "Bands: 95 % Wilson.",
}


def write_report(
    config: CurationConfig,
    inputs: Inputs,
    workdir: Path,
    made: list[Level],
    without_people: tuple[CurationConfig, Path] | None,
) -> dict[str, Any]:
    """Writes report.html and its figures, and last report.json, into `workdir`; returns what the latter holds."""
    final = outcomes.outcome(inputs, config, workdir)
    record = {
        "name": config.name,
        "levels": [outcomes.describe_level(level, inputs, final.state) for level in made],
        "steps": steps.read_steps(workdir),
        "bill": bill(final.verdicts, config),
        "judges": _judges(config, workdir, final.verdicts),
    }
    if without_people is not None:
        record["no_humans"] = {
            "steps": steps.read_steps(without_people[1]),
            "bill": bill(Ledger(without_people[1] / "ledger").read(), without_people[0]),
        }
    atomic.write_bytes(workdir / "report.html", _html(config, inputs, workdir, record).encode())
    atomic.write_json(workdir / "report.json", record)
    return record


def _judges(config: CurationConfig, workdir: Path, verdicts: pl.DataFrame) -> list[dict[str, Any]]:
    """Of each judge: self-agreement by the ledger; of LLM judges position bias and what was paid, by the call log."""
    out: list[dict[str, Any]] = [
        {"name": name, **_self_agreement(verdicts.filter(pl.col("annotator") == name))}
        for name in config.judge_names
    ]
    if not config.llm_judges:
        return out
    logs = folders(workdir / "calls" / "llm")
    bills, statistics = bills_of(logs), statistics_of(logs)
    models = {judge.name: judge.model for judge in config.llm_judges}
    for line in out:
        name = line["name"]
        if name in statistics:
            paid, seen = bills[name, models[name]], statistics[name]
            line |= {
                "position_bias": seen.position_bias,
                "same_order": seen.same_order,
                "other_order": seen.other_order,
                "unreadable": seen.unreadable,
                "calls": paid.calls,
                "money": paid.pico / 1e12,
                "set_aside": paid.lost_pico / 1e12,
                "failed": paid.failed,
            }
    return out


def _self_agreement(verdicts: pl.DataFrame) -> dict[str, Any]:
    """Share of pairs of votes on one question that agree, and how many verdicts had two votes or more."""
    counts = [pl.col(name).cast(pl.Float64) for name in ("votes_first", "votes_second", "votes_tie")]
    total = pl.sum_horizontal(counts)
    alike = pl.sum_horizontal([count * (count - 1) for count in counts])
    several = verdicts.filter(total >= 2).select(agree=alike / (total * (total - 1)))
    return {"several_votes": len(several), "self_agreement": several["agree"].mean()}


# --- the page ----------------------------------------------------------------------------------------


def _html(config: CurationConfig, inputs: Inputs, workdir: Path, record: dict[str, Any]) -> str:
    simulated = (
        any(name.startswith("simulated-") for name in config.judge_names) or config.people.kind == "simulated"
    )
    body = [
        f"<h1>{escape(config.name)}</h1><p class=kicker>{len(inputs):,} pairs ({escape(config.source)}), "
        f"{int(inputs.labelled.sum()):,} of them in the pool"
        + ("; judges or people are <b>simulated</b>" if simulated else "")
        + "</p>",
        f"<ul class=lead>{''.join(f'<li>{escape(line)}</li>' for line in _findings(record))}</ul>",
        _figures(workdir, record),
        "<h2>Levels</h2>",
        _levels(record, config),
        "<h2>Bill</h2>",
        _bill(record["bill"], config),
        *([f"<p>Judges' verdicts of the pass without people:</p>{_bill(record['no_humans']['bill'], config)}"]
          if "no_humans" in record else []),
        "<p>Judges' money: calls that led to a verdict. What failed or was cut off is in the next table.</p>",
        "<h2>Judges</h2>",
        _judge_table(record["judges"]),
        "<h2>Stage 2</h2>",
        _stage_two(record["steps"][steps.STAGE_TWO]),
        "<h2>Step by step</h2>",
        *(_step(name, step, inputs, workdir) for name, step in record["steps"].items()),
    ]  # fmt: skip
    return page(f"Curation: {config.name}", "\n".join(body))


def _findings(record: dict[str, Any]) -> list[str]:
    """What came out, in sentences with intervals."""
    seen = {level["name"]: level for level in record["levels"]}
    out = []
    for name in ("raw", "filtered", "corrected", "no_humans"):
        if name in seen and seen[name]["held_out"]["n"]:
            out.append(
                f"{name}: {_share(seen[name]['held_out'])} of its labels agree with held-out gold; it keeps "
                f"{seen[name]['keep_rate']:.0%} of the labelled pairs."
            )
    placebos = [n for n in ("shuffled_scores", "random_matched", "matched", "selection_only") if n in seen]
    best = max(
        (seen[n] for n in placebos if seen[n]["held_out"]["n"]),
        key=lambda x: x["held_out"]["share"],
        default=None,
    )
    if best is not None:
        out.append(f"The best placebo, {best['name']}, agrees in {_share(best['held_out'])}.")
    decisions = record["steps"][steps.STAGE_TWO]["decisions"]
    out.append(
        f"Stage 2 kept {decisions['kept']:,}, turned {decisions['flipped']:,} round and discarded "
        f"{decisions['discarded']:,} of {decisions['labelled']:,}; judges were asked about {decisions['asked']:,}."
    )
    return out


def _figures(workdir: Path, record: dict[str, Any]) -> str:
    labels = figures.label_points(record["levels"])
    points = figures.progress_points(record["steps"], workdir / "models", labels)
    drawn = [("label_quality", labels, figures.label_quality)] if len(labels) else []
    drawn += [("progress", points, figures.progress)] if len(points) else []
    out = []
    for name, data, make in drawn:
        paths = save(make(data), data, workdir / "figures", name)
        drawing = re.sub(r"\A.*?(?=<svg)", "", paths["svg"].read_text(encoding="utf-8"), flags=re.DOTALL)
        caption = escape(_CAPTIONS[name])
        out.append(f"<figure><div class=drawing>{drawing}</div><figcaption>{caption}</figcaption></figure>")
    return "\n".join(out)


def _levels(record: dict[str, Any], config: CurationConfig) -> str:
    head = [
        "level",
        "pairs",
        "kept",
        "flipped",
        "right, held-out gold",
        "right, truth",
        f"cost, {config.cost_unit}",
    ]
    final, snapshots = [], []
    for level in record["levels"]:
        row = [
            level["name"],
            f"{level['pairs']:,}",
            f"{level['keep_rate']:.1%}",
            f"{level['flipped']:,}",
            _share(level["held_out"]),
            _share(level.get("truth")),
            f"{level['cost']:,.2f}",
        ]
        (snapshots if "@" in level["name"] else final).append(row)
    out = table(head, final, left=1)
    if snapshots:
        out += f"<details><summary>Snapshots after each iteration</summary>{table(head, snapshots, left=1)}</details>"
    return out


def _bill(lines: list[dict[str, Any]], config: CurationConfig) -> str:
    head = ["who", "verdicts", "tokens in", "tokens out", f"money, {config.cost_unit}", "person-minutes"]
    rows = [
        [
            f"{line['annotators']} people" if line["who"] == "people" else line["who"],
            f"{line['verdicts']:,}",
            f"{line['tokens_in']:,}",
            f"{line['tokens_out']:,}",
            f"{line['money']:,.2f}",
            f"{line['minutes']:,.0f}" if line["who"] == "people" else "",
        ]
        for line in lines
    ]
    return table(head, rows, left=1)


def _judge_table(judges: list[dict[str, Any]]) -> str:
    def number(value: float | None, form: str = ".3f") -> str:
        return "–" if value is None else format(value, form)

    head = [
        "judge",
        "verdicts of several votes",
        "votes agree",
        "position bias",
        "agree, same order",
        "other order",
    ]
    head += ["unreadable", "calls", "paid", "set aside", "failed calls"]
    rows = []
    for judge in judges:
        failed = ", ".join(f"{name} {count}" for name, count in sorted(judge.get("failed", {}).items()))
        rows.append(
            [judge["name"], f"{judge['several_votes']:,}", number(judge["self_agreement"])]
            + [number(judge.get(key)) for key in ("position_bias", "same_order", "other_order")]
            + [number(judge.get(key), ",") for key in ("unreadable", "calls")]
            + [number(judge.get(key), ",.2f") for key in ("money", "set_aside")]
            + [failed or ("none" if "failed" in judge else "–")]
        )
    return table(head, rows, left=1)


def _stage_two(step: dict[str, Any]) -> str:
    decisions = step["decisions"]
    rows = [[name.replace("_", " "), f"{count:,}"] for name, count in decisions.items()]
    head = ["of held-out gold pairs that", "would keep", "people agree", "would flip", "people agree"]
    with_people = [
        [name, f"{seen['keep']['n']:,}", _share(seen["keep"]), f"{seen['flip']['n']:,}", _share(seen["flip"])]
        for name, seen in step["with_people"].items()
    ]
    return table(["", "pairs"], rows, left=1) + table(head, with_people, left=1)


def _step(name: str, step: dict[str, Any], inputs: Inputs, workdir: Path) -> str:
    title = "Stage 0: the seed" if name == steps.step_name(0) else f"Stage 1, iteration {step['iteration']}"
    title = "Stage 2: the rest of the pool" if name == steps.STAGE_TWO else title
    parts = [
        f"<p>{step['pairs']:,} pairs judged: {step['silver']:,} with a verdict of the judges, {step['gold']:,} with "
        f"one of people, {step['undecidable']:,} that people could not decide.</p>"
    ]
    if "best" in step:
        best = step["best"]
        unseen = f"; unseen pairs, by the truth, {_share(best['unseen'])}" if "unseen" in best else ""
        parts.append(
            f"<p>Best reward model: trained on {best['trained_on']:,} pairs, {escape(best['chosen']['candidate'])} "
            f"chosen by gold validation ({_share(best['validation'])}){unseen}.</p>"
        )
    if "retrieval" in step:
        parts.append(_retrieval(name, step["retrieval"], inputs, workdir))
    names = step["agreement"]["names"]
    shares, pairs = step["agreement"]["share"], step["agreement"]["pairs"]
    cells = [
        [
            who,
            *(
                "–" if share is None else f"{share:.3f} ({count:,})"
                for share, count in zip(*lines, strict=True)
            ),
        ]
        for who, lines in zip(names, zip(shares, pairs, strict=True), strict=True)
    ]
    parts.append("<p>Share of pairs on which two prefer the same response (pairs that both decided):</p>")
    parts.append(table(["", *names], cells, left=1))
    rows = [
        [
            line["category"] or "(none)",
            f"{line['pairs']:,}",
            *(f"{line[key]:.1%}" for key in ("keep", "flip", "undecided")),
        ]
        for line in step["categories"]
    ]
    parts.append(table(["category", "pairs", "judges keep", "judges flip", "undecided"], rows, left=1))
    return f"<details><summary>{title}</summary>{''.join(parts)}</details>"


def _retrieval(name: str, seen: dict[str, Any], inputs: Inputs, workdir: Path) -> str:
    by_k = ", ".join(f"{count} by k = {k}" for k, count in seen["by_k"] if k is not None)
    said = (
        f"<p>{seen['asking']:,} gold pairs asked for neighbours, {seen['wrong']:,} of which the best reward model got "
        f"wrong; {seen['selected']:,} pairs were selected" + (f" ({by_k})" if by_k else " at random")
        + f", {seen['pool_left']:,} are left in the pool.</p>"
    )  # fmt: skip
    chosen = pl.read_parquet(workdir / "iterations" / name / "selected.parquet").drop_nulls("gold")
    chosen = chosen.sort("p", "rank", "row").head(_SHOWN)
    rows = [
        [
            f"{line['p']:.2f}",
            str(line["rank"] + 1),
            f"{line['score']:.2f}",
            _excerpt(inputs, line["gold"]),
            _excerpt(inputs, line["row"]),
        ]
        for line in chosen.iter_rows(named=True)
    ]
    if rows:
        head = ["p of the gold pair", "neighbour", "similarity", "gold pair", "pair selected"]
        said += "<p>Those asked for by the worst predicted, prompts shortened:</p>" + table(
            head, rows, left=0
        )
    return said


def _excerpt(inputs: Inputs, row: int) -> str:
    (comparison,) = inputs.corpus.take([row])
    words = " ".join(comparison.prompt[-1].content.split())
    return f"{row}: {words if len(words) <= _EXCERPT else words[:_EXCERPT] + '…'}"


def _share(seen: dict[str, Any] | None) -> str:
    if not seen or not seen["n"]:
        return "–"
    return f"{seen['share']:.3f} [{seen['low']:.3f}, {seen['high']:.3f}] of {seen['n']:,}"
