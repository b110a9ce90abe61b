"""eval.html: what eval.json holds, on one page that loads and runs nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rewardscale.data.describe import drawing
from rewardscale.data.describe.html import Figures, Html, folded, link, page, table, text, tiles
from rewardscale.evaluation import drawing as plots
from rewardscale.evaluation import eval_tables
from rewardscale.evaluation.eval_figures import Drawn
from rewardscale.evaluation.eval_tables import percent
from rewardscale.evaluation.published import published

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Record = Mapping[str, Any]


def html(record: Record, drawn: Iterable[Drawn]) -> str:
    """The whole document, with figures as eval_figures.draw gives them."""
    shown: dict[str, list[Html]] = {}
    for section, name, caption, drawing_ in drawn:
        shown.setdefault(section, []).append(_figure(name, caption, drawing_))
    names = " and ".join(model["name"] for model in record["models"])
    parts = [
        f"<h1>{text(names)}</h1><p class=kicker>reward-model benchmarks, all texts scored in one pass</p>",
        _opening(record),
        _section("Scores", *shown.get("scores", ()), *(_scores(record, model) for model in record["models"])),
        _section("Models compared", _compared(record, shown.get("agreement", ())))
        if record["comparisons"]
        else "",
        _section("Beside published numbers", *shown.get("published", ()), _published(record)),
        _section("By category", _categories(record)),
        _section("Style against substance", *shown.get("styles", ())),
        _section("Best of N", *shown.get("best_of_n", ())),
        _section("Calibration", _calibration(record, shown.get("calibration", ()))),
        _section("Contamination", _contamination(record)) if record["contamination"] else "",
        _section("Left out", _left_out(record)),
        _section("Where it comes from", _provenance(record)),
    ]
    return page(f"{names}: benchmarks", "\n".join(part for part in parts if part), drawing.style())


def _figure(name: str, caption: str, figure: Figure) -> Html:
    """An inline SVG on white, for light and dark pages."""
    svg = plots.svg(figure, name)
    return Html(
        f"<figure style='max-width:46rem'><div style='background:#fff;border-radius:6px;padding:.4rem'>"
        f"{svg[svg.index('<svg') :]}</div><figcaption>{text(caption)}</figcaption></figure>"
    )


def _section(title: str, *parts: str) -> Html:
    inner = "\n".join(part for part in parts if part)
    return Html(f"<h2>{text(title)}</h2>\n{inner}" if inner else "")


def _rows(rows: list[list[str]], left: int) -> list[list[str]]:
    """Cells after the first `left` stand right."""
    return [[cell if i < left else Figures(cell) for i, cell in enumerate(row)] for row in rows]


def _opening(record: Record) -> Html:
    entries = [(f"{len(record['benchmarks'])}", "benchmarks"), (f"{record['texts']:,}", "different texts")]
    for model in record["models"]:
        lost = model["counts"]["texts"] - model["counts"]["scored"]
        entries.append((f"{lost:,}", f"without a reward ({model['name']})"))
        if model["average"] is not None:
            entries.append((percent(model["average"]), f"mean of the seven ({model['name']})"))
    return tiles(entries)


def _scores(record: Record, model: Record) -> Html:
    heading = f"<h3>{text(model['name'])}</h3>" if len(record["models"]) > 1 else ""
    rows = _rows(eval_tables.main_rows(record, model), 1)
    note = (
        "Scores in percent. 95 %: bootstrap over clusters of items (prompts). length-only prefers the longer response, "
        "random draws lots. Ties are pairs with exactly equal rewards."
    )
    lines = [eval_tables.counts_line(model), eval_tables.average_line(model), note]
    return Html(
        heading + table(eval_tables.HEAD, rows) + "".join(f"<p class=soft>{text(x)}</p>" for x in lines)
    )


def _compared(record: Record, figures: Sequence[Html]) -> Html:
    out = table(eval_tables.COMPARISON_HEAD, _rows(eval_tables.comparison_rows(record), 2))
    rows = [
        [
            f"{one['one']}, {one['other']}",
            record["benchmarks"][name]["shown_name"],
            Figures(f"{one['pairs']:,}"),
            Figures(percent(one["agreement"])),
            Figures(_kappa(one)),
        ]
        for name, found in record["agreement"].items()
        for one in found
    ]
    alike = table(("models", "benchmark", "pairs", "judged alike, %", "kappa, 95 %"), rows)
    note = "Differences are paired: both models meet the same resampled prompts. McNemar's test flips whole clusters."
    return Html(f"{out}<p class=soft>{text(note)}</p><h3>How alike they judge</h3>{alike}{''.join(figures)}")


def _kappa(one: Record) -> str:
    if one["kappa"] is None:
        return "–"
    if one["kappa_low"] is None:
        return f"{one['kappa']:.2f}"
    return f"{one['kappa']:.2f}, {one['kappa_low']:.2f} to {one['kappa_high']:.2f}"


def _published(record: Record) -> Html:
    head, rows = eval_tables.seven_table(record)
    shown = [[row[0], *(Figures(cell) for cell in row[1:])] for row in rows]  # none is broken over lines
    source = published()
    note = eval_tables.source_line(source)
    return Html(
        table(head, shown) + f"<p class=soft>* not the whole set, or not all of it scored. {text(note)} "
        f"{link(source.address, source.address)}</p>"
    )


def _categories(record: Record) -> Html:
    parts = []
    for name, facts in record["benchmarks"].items():
        inner = ""
        for model in record["models"]:
            rows = _rows(eval_tables.detail_rows(model["benchmarks"][name]), 1)
            inner += f"<h3>{text(model['name'])}</h3>{table(('score', 'percent', '95 %', 'items'), rows)}"
        weights = facts["subset_weights"]
        if weights:
            shown = ", ".join(f"{subset} {weight:.3g}" for subset, weight in weights.items())
            inner += f"<p class=soft>Weights in the headline: {text(shown)}</p>"
        parts.append(folded(facts["shown_name"], inner))
    return Html("".join(parts))


def _calibration(record: Record, figures: Sequence[Html]) -> Html:
    rows = []
    for model in record["models"]:
        for name, facts in record["benchmarks"].items():
            found = model["benchmarks"][name]["calibration"]
            if found is None:
                continue
            raw, scaled = found["raw"], found["scaled"] or {}
            rows.append(
                [
                    model["name"],
                    facts["shown_name"],
                    found["pairs"],
                    raw["nll"],
                    scaled.get("nll"),
                    raw["brier"],
                    scaled.get("brier"),
                    Figures(percent(raw["ece_debiased"])),
                    Figures(percent(scaled.get("ece_debiased"))),
                    found["temperature"],
                ]
            )
    head = (
        "model",
        "benchmark",
        "pairs",
        "NLL",
        "scaled",
        "Brier",
        "scaled",
        "ECE, %",
        "scaled",
        "temperature",
    )
    note = (
        "scaled: after one temperature, fitted on other clusters than it is judged on. ECE is less what noise adds. "
        "NLL in nats a pair."
    )
    return Html(
        table(head, rows)
        + f"<p class=soft>{text(note)}</p>"
        + folded("Reliability diagrams", "".join(figures))
    )


def _contamination(record: Record) -> Html:
    names = [model["name"] for model in record["models"]]
    rows = [
        [
            record["benchmarks"][one["benchmark"]]["shown_name"],
            one["items"],
            one["prompt_items"],
            Figures(percent(one["prompt_share"])),
            one["response_items"],
            one["short_prompts"],
            *(Figures(percent(one["clean_scores"][name])) for name in names),
        ]
        for one in record["contamination"]
    ]
    head = ("benchmark", "items", "prompts met", "%", "responses met", "too short to tell")
    examples = [
        [one["benchmark"], e["item"], e["where"], e["words"], e["row"]]
        for one in record["contamination"]
        for e in one["examples"]
    ]
    note = "Met: 13 words in a row that stand in the training corpus too. Last: scores on the items that share none."
    return Html(
        table((*head, *(f"{name}, clean items" for name in names)), rows)
        + f"<p class=soft>{text(note)}</p>"
        + folded("Examples", table(("benchmark", "item", "where", "words", "corpus row"), examples))
    )


def _left_out(record: Record) -> Html:
    rows = [[*row[:3], Figures(row[3])] for row in eval_tables.left_out_rows(record)]
    out = table(("benchmark", "model", "reason", "items"), rows, empty="Nothing was left out.")
    for model in record["models"]:
        if model["errors"]:
            errors = [[why, count] for why, count in model["errors"].items()]
            inner = table(("reason", "texts"), errors)
            out = Html(out + folded(f"Texts that {model['name']} could not score, by reason", inner))
    absent = [[name, how] for name, how in record["absent"].items()]
    return Html(out + (table(("not there", "how to get it"), absent) if absent else ""))


def _provenance(record: Record) -> Html:
    rows = []
    for model in record["models"]:
        for name, value in model["scoring"]["identity"].items():
            rows.append([model["name"], name, str(value)])
    sets = [
        [facts["title"], link(facts["url"], facts["url"]), facts["licence"], facts["notes"]]
        for facts in record["benchmarks"].values()
    ]
    return Html(
        table(("model", "what rewards depend on", ""), rows)
        + table(("benchmark", "from", "licence", "notes"), sets)
    )
