"""The (Mis)Fitting checklist, filled in from what a sweep recorded about itself.

What a scaling-law study must say for its fit to be repeated and judged: the questions of Li et al. 2025,
"(Mis)Fitting: A Survey of Scaling Laws" (arXiv 2502.18969), in their four sections, and a fifth about what
is missing. What the sweep's files do not say is answered "not recorded", never guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import polars as pl

from rewardscale.scaling import solver
from rewardscale.scaling.collect import VALIDATION, Sweep
from rewardscale.scaling.fit import STARTS, Fit
from rewardscale.scaling.points import LEAST_UNITS
from rewardscale.scaling.resample import RESAMPLES

UNKNOWN = "not recorded"
_LEAST = {"model sizes": 5, "data sizes": 7}  # for a law along that axis
_SCHEMA = {"section": pl.String, "question": pl.String, "answer": pl.String}


class Compared(Protocol):
    """What the checklist reads of a comparison of levels (``compare.Comparison``)."""

    @property
    def fits(self) -> Mapping[str, Fit]: ...
    @property
    def holdout(self) -> Mapping[str, float]: ...
    @property
    def chosen(self) -> str | None: ...
    @property
    def reason(self) -> str: ...


def checklist(sweep: Sweep, comparison: Compared | None = None) -> pl.DataFrame:
    """The list as a table: section, question, answer. A comparison of levels fills in what was fitted, and how."""
    sections = {
        "form": _form(sweep, comparison),
        "training": _training(sweep),
        "data collected": _collected(sweep),
        "fit": _fit(comparison),
        "reproduction": _reproduction(sweep),
    }
    rows = [(section, question, answer) for section, own in sections.items() for question, answer in own]
    return pl.DataFrame(rows, schema=_SCHEMA, orient="row")


def as_markdown(table: pl.DataFrame) -> str:
    """The checklist as a Markdown table."""
    lines = ["| Section | Question | Answer |", "|---|---|---|"]
    for row in table.select(*_SCHEMA).rows():
        lines.append(
            "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in row) + " |"
        )
    return "\n".join(lines) + "\n"


_Rows = list[tuple[str, str]]


def _form(sweep: Sweep, comparison: Compared | None) -> _Rows:
    fit = _chosen(comparison)
    return [
        (
            "What form is fitted?",
            f"{fit.form.formula} ({fit.form.name}; {fit.form.source})" if fit else "none",
        ),
        (
            "Why this one?",
            comparison.reason if comparison is not None else "no comparison of forms was given",
        ),
        (
            "What are the variables, and in what units?",
            "L: loss in nats a pair, after one temperature a run; D: pairs trained on; N: parameters; "
            f"cost: {sweep.cost_unit}",
        ),
        ("How many parameters are estimated?", _parameters(fit) if fit else "none"),
    ]


def _parameters(fit: Fit) -> str:
    return f"{len(fit.form.parameters)} from {len(fit.y)} points: {', '.join(fit.form.parameters)}"


def _training(sweep: Sweep) -> _Rows:
    config, table = sweep.meta.get("config") or {}, sweep.table
    recipe = config.get("recipe") or {}
    return [
        ("How many models, of what sizes?", _range(table, "params", "model sizes", "parameters")),
        ("How is N counted?", _counted(table)),
        ("How many data sizes?", _range(table, "pairs", "data sizes", "pairs")),
        ("How are FLOPs counted?", _flops(table)),
        ("Which families of models?", _names(table, "family")),
        ("On what data?", _data(config)),
        ("Which curation levels?", _names(table, "level")),
        ("What tokenizer or features?", _tokenizer(config, table)),
        ("How were learning rates set?", _rates(config, table)),
        ("What batch size?", _value(recipe, "pairs_per_step", "pairs a step")),
        ("What schedule?", _schedule(recipe)),
        ("How often is a pair seen?", _list(table, "epochs", "epochs")),
        ("What regularisation?", _regularisation(config, recipe, table)),
    ]


def _collected(sweep: Sweep) -> _Rows:
    table = sweep.table
    draws = table["draw"].n_unique() if len(table) else 0
    folds = table.filter(pl.col("fold") >= 0)["fold"].n_unique() if len(table) else 0
    repeats = f"{draws} draws" + (f", {folds} folds of the evaluation set" if folds else "")
    few = f" (fewer than {LEAST_UNITS}: no intervals)" if draws < LEAST_UNITS else ""
    clusters = sweep.clusters
    by = UNKNOWN if clusters is None or clusters.is_empty() else f"{clusters['cluster'].n_unique()} clusters"
    return [
        ("How many runs?", f"{table['run_id'].n_unique()} finished of {_planned(sweep)} planned"),
        ("How often is a point repeated?", repeats + few),
        ("Which checkpoints?", "the last of each run, no intermediate ones"),
        ("Is the loss smoothed?", "no"),
        ("On what evaluation set?", _evaluation(sweep)),
        ("How is the evaluation set clustered?", by),
        (
            "How are scores made comparable?",
            f"one temperature a run, fitted on {VALIDATION!r}, disjoint from every test set; raw losses beside",
        ),
        (
            "Which runs are left out?",
            "draws that lack a fold; no outliers (dropping them is a row of robustness)",
        ),
    ]


def _fit(comparison: Compared | None) -> _Rows:
    fit = _chosen(comparison)
    if comparison is None or fit is None:
        return [("How was it fitted?", "no comparison of forms was given")]
    delta = "infinite" if np.isinf(fit.loss.delta) else f"{fit.loss.delta:.3g}"
    held = ", ".join(f"{kind} {error:.2%}" for kind, error in comparison.holdout.items()) or "none"
    return [
        ("What objective?", f"Huber on {'log ' if fit.loss.log else ''}residuals, delta {delta}"),
        ("What optimiser?", "variable projection on a grid, then Levenberg-Marquardt within bounds, float64"),
        ("From how many starts?", f"{fit.starts} (default {STARTS}); {fit.agreed} ended at the best optimum"),
        (
            "To what tolerance?",
            f"Newton decrement {fit.decrement:.1e} of the objective (stops at {solver._DONE:g})",
        ),
        ("How good is the fit?", f"root mean square residual {fit.rms:.2%} of the loss"),
        ("At a bound?", ", ".join(fit.at_bound) or "no"),
        ("Is it tested on held-out sizes?", f"mean relative error at the largest sizes, hidden: {held}"),
        (
            "How are intervals made?",
            f"studentised resampling of whole draws or clusters, refitted each time, {RESAMPLES:,} times by default; "
            f"none under {LEAST_UNITS} units",
        ),
    ]


def _reproduction(sweep: Sweep) -> _Rows:
    versions = sweep.meta.get("versions") or {}
    science = sweep.table["science_version"].drop_nulls().unique().sort().to_list()
    said = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    return [
        ("What code?", said or UNKNOWN),
        ("Which version of the results?", _science(science)),
        ("What seeds?", _value(sweep.meta.get("config") or {}, "seed", "", "seed")),
        ("Which sweep is it?", _first_line(sweep)),
        ("What is missing or unfinished?", _missing(sweep)),
        ("What is too little for a law?", _too_little(sweep)),
    ]


# --------------------------------------------------------------------------------------------------- answers


def _chosen(comparison: Compared | None) -> Fit | None:
    if comparison is None:
        return None
    return comparison.fits.get(comparison.chosen or "") or next(iter(comparison.fits.values()), None)


def _range(table: pl.DataFrame, column: str, many: str, unit: str) -> str:
    sizes = table[column].drop_nulls().unique().sort()
    if sizes.is_empty():
        return UNKNOWN
    low, high = sizes[0], sizes[-1]
    decades = f", {np.log10(high / low):.1f} decades" if low > 0 else ""
    return f"{len(sizes)} {many} from {low:,} to {high:,} {unit}{decades}"


def _counted(table: pl.DataFrame) -> str:
    own = "without the embedding table"
    if "params_with_embeddings" not in table.columns or table["params_with_embeddings"].is_null().all():
        return f"{own}; the count with it was {UNKNOWN}"
    rows = table.filter(pl.col("params") > 0)
    share = (1 - rows["params"] / rows["params_with_embeddings"]).drop_nulls()
    return f"{own}; it is {share.min():.0%} to {share.max():.0%} of all parameters" if len(share) else own


def _flops(table: pl.DataFrame) -> str:
    rows = table.filter((pl.col("flops") > 0) & (pl.col("params") > 0))
    if rows.is_empty():
        return UNKNOWN
    each = rows["flops"] / (rows["params"] * rows["pairs"])
    return (
        "multiply-adds of matrices and attention as 2, a training step as 3 forward passes; "
        f"{each.min():.3g} to {each.max():.3g} a parameter and pair"
    )


def _names(table: pl.DataFrame, column: str) -> str:
    return ", ".join(table[column].drop_nulls().unique().sort()) or UNKNOWN


def _list(table: pl.DataFrame, column: str, unit: str) -> str:
    values = table[column].drop_nulls().unique().sort().to_list()
    if not values:
        return UNKNOWN
    shown = ", ".join(f"{v:g}" for v in values[:8])
    return f"{shown}{' ...' if len(values) > 8 else ''} {unit}".strip()


def _value(mapping: Mapping[str, Any], key: str, unit: str, before: str = "") -> str:
    return " ".join(filter(None, (before, str(mapping[key]), unit))) if key in mapping else UNKNOWN


def _data(config: Mapping[str, Any]) -> str:
    data = config.get("data") or {}
    source = data.get("source")
    if not source:
        return UNKNOWN
    own = data.get(source) or {}
    plain = ", ".join(f"{key} {value}" for key, value in own.items() if not isinstance(value, (dict, list)))
    return f"{source} ({plain})" if plain else str(source)


def _tokenizer(config: Mapping[str, Any], table: pl.DataFrame) -> str:
    families, said = set(table["family"].drop_nulls()), []
    convex, data = config.get("convex") or {}, config.get("data") or {}
    if "convex" in families and convex:
        said.append(f"convex: hashed n-grams up to {convex.get('ngram', UNKNOWN)}")
    if "transformer" in families:
        vocabulary = (data.get(data.get("source")) or {}).get("bpe_vocab")
        said.append(
            f"transformer: byte-pair encoding, {vocabulary} tokens"
            if vocabulary
            else "transformer: the data's own"
        )
    return "; ".join(said) if said and config else UNKNOWN


def _rates(config: Mapping[str, Any], table: pl.DataFrame) -> str:
    scales = table["lr_scale"].drop_nulls().unique().sort().to_list()
    peaks = config.get("learning_rates") or {}
    said = ", ".join(f"{model} {rate:g}" for model, rate in peaks.items())
    if not said:
        own = table["learning_rate"].drop_nulls().unique().sort()
        if own.is_empty():
            return f"{UNKNOWN} (convex models are fitted to the optimum and have none)"
        said = f"{own[0]:g} to {own[-1]:g}"
    return f"peak {said}; times {', '.join(f'{s:g}' for s in scales)}" if scales else f"peak {said}"


def _schedule(recipe: Mapping[str, Any]) -> str:
    if "schedule" not in recipe:
        return UNKNOWN
    parts = [f"{recipe[key]:g} {key}" for key in ("warmup", "cooldown") if key in recipe]
    return ", ".join([str(recipe["schedule"]), *parts])


def _regularisation(config: Mapping[str, Any], recipe: Mapping[str, Any], table: pl.DataFrame) -> str:
    said = []
    if "weight_decay" in recipe and "transformer" in set(table["family"]):
        said.append(f"weight decay {recipe['weight_decay']:g}")
    grid = (config.get("convex") or {}).get("l2_grid")
    if grid and "convex" in set(table["family"]):
        said.append(
            f"L2 from {len(grid)} values {min(grid):g} to {max(grid):g}, "
            "by cross-validation with the level's labels"
        )
    return "; ".join(said) or UNKNOWN


def _evaluation(sweep: Sweep) -> str:
    if sweep.table.is_empty():
        return UNKNOWN
    sizes = sweep.table.group_by("eval_set").agg(pl.col("eval_pairs").max())
    pairs = dict(sizes.rows())
    return ", ".join(
        f"{name}{' (headline)' if name == sweep.headline_eval else ''}: "
        f"up to {pairs.get(name) or 0:,} pairs a run"
        for name in sweep.eval_sets
    )


def _science(versions: list[int]) -> str:
    if len(versions) > 1:
        return f"MIXED: results of science versions {versions} stand side by side"
    return f"science version {versions[0]}" if versions else UNKNOWN


def _first_line(sweep: Sweep) -> str:
    text = str(sweep.meta.get("docstring") or "").strip()
    return text.splitlines()[0] if text else UNKNOWN


def _planned(sweep: Sweep) -> str:
    planned = {cell.get("run_id") for cell in sweep.meta.get("cells") or []}
    return str(len(planned)) if planned else "an unrecorded number"


def _missing(sweep: Sweep) -> str:
    said = []
    if sweep.missing:
        reasons: dict[str, int] = {}
        for cell in sweep.missing:
            reason = str(cell.get("reason") or UNKNOWN).strip().splitlines()[0]
            reasons[reason] = reasons.get(reason, 0) + 1
        most = sorted(reasons.items(), key=lambda item: -item[1])
        shown = "; ".join(f"{count}: {reason}" for reason, count in most[:5])
        said.append(f"{len(sweep.missing)} planned runs have no result ({shown})")
    if not sweep.meta.get("cells"):
        said.append("which runs were planned was not recorded")
    if sweep.clusters is None:
        said.append("scores by cluster of the evaluation set were not recorded")
    return ". ".join(said) or "nothing: every planned run has a result"


def _too_little(sweep: Sweep) -> str:
    said = []
    for (family,), rows in sweep.table.group_by("family", maintain_order=True):
        counts = {"model sizes": rows["params"].n_unique(), "data sizes": rows["pairs"].n_unique()}
        said += [
            f"{family}: {n} {what}, {_LEAST[what]} needed" for what, n in counts.items() if n < _LEAST[what]
        ]
    return "; ".join(said) or "nothing"
