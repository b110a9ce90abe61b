"""What a run decided, and the levels that come out of it: curation/levels.py applied to a ledger and its models.

    raw               labels as found
    filtered          raw labels that pass stage 2, or that people agree with
    corrected         filtered, and the flipped labels that pass
    gold              people's labels, without the validation split
    no_humans         filtered, of the pass in which judges' votes stand in for people
    shuffled_scores, random_matched, matched, selection_only      placebos
    best_only, gold_only      raw labels that the best (gold) reward model alone agrees with
    filtered@iter3    what the rules would keep of the pool with what iterations 0 to 3 know; so corrected, no_humans
    gathered_raw@iter3        labels as found of the pairs that iterations 0 to 3 asked judges or people about
    gathered_filtered@iter3   those that people, else judges, agree with; gathered_corrected: and those turned round
    gathered_no_humans@iter3  gathered_filtered of the pass without people

All index the same corpus, so a sweep draws nested subsets of them. `cost` of a row is what its verdicts cost, and the
price of a raw pair.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from rewardscale.config.curation import GATHERED, CurationConfig
from rewardscale.curation import levels, steps
from rewardscale.curation.inputs import Inputs
from rewardscale.curation.known import STAND_IN, Known, is_person, known
from rewardscale.curation.rules import DROP, FLIP, KEEP, signs
from rewardscale.curation.stage_two import decide_all
from rewardscale.curation.workbench import paid_hours
from rewardscale.data.ledger.ledger import Ledger
from rewardscale.data.levels import Level

_NOISE = 0x5D  # stream of the labels of selection_only


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a pass decided, [rows] each.

    Attributes:
      best, gold: margins of the two reward models. decisions: int8, KEEP, FLIP or DROP. verdicts: those it rests on.
    """

    state: Known
    best: np.ndarray
    gold: np.ndarray
    decisions: np.ndarray
    verdicts: pl.DataFrame


def outcome(inputs: Inputs, config: CurationConfig, directory: Path, *, after: int | None = None) -> Outcome:
    """Reads a pass's ledger and models; `after` an iteration of stage 1, or after stage 2."""
    verdicts = Ledger(directory / "ledger").read()
    if after is not None:
        verdicts = verdicts.filter(pl.col("iteration").is_null() | (pl.col("iteration") <= after))
    last = config.iterations if after is None else after
    state = known(inputs, config, verdicts)
    best, gold = (
        np.load(directory / "models" / f"{name}@iter{last}" / "margins.npy") for name in ("best", "gold")
    )
    decisions = decide_all(inputs, state, best, gold, ask_below=config.ask_below, recycling=config.recycling)
    return Outcome(state, best, gold, decisions, verdicts)


def make_levels(
    inputs: Inputs,
    config: CurationConfig,
    directory: Path,
    without_people: tuple[CurationConfig, Path] | None,
) -> Iterator[Level]:
    """All levels that the config names and its source allows.

    Args:
      without_people: config and folder of the pass without people.
    """
    final = outcome(inputs, config, directory)
    for name in config.levels:
        if name in GATHERED:
            continue  # there are snapshots of them alone
        if name == "no_humans":
            if without_people is not None:
                yield _no_humans(inputs, *without_people)
        elif name != "selection_only" or "p_raw" in inputs.manifest.columns:
            yield _level(name, inputs, config, final)
    for iteration in range(config.iterations + 1):
        for made in _after(inputs, config, directory, without_people, iteration):
            yield levels.snapshot(made, iteration)


def _after(
    inputs: Inputs,
    config: CurationConfig,
    directory: Path,
    without_people: tuple[CurationConfig, Path] | None,
    iteration: int,
) -> Iterator[Level]:
    """The levels that the config names, as they were after an iteration of stage 1."""
    then = outcome(inputs, config, directory, after=iteration)
    for name in ("filtered", "corrected"):
        if name in config.levels:
            yield _level(name, inputs, config, then)
    yield from _gathered(inputs, config, then, [name for name in GATHERED[:3] if name in config.levels])
    if without_people is None:
        return
    if "no_humans" in config.levels:
        yield _no_humans(inputs, *without_people, after=iteration)
    if GATHERED[3] in config.levels:
        alone = outcome(inputs, without_people[0], without_people[1], after=iteration)
        (made,) = _gathered(inputs, without_people[0], alone, [GATHERED[1]])
        yield dataclasses.replace(made, name=GATHERED[3])


def _no_humans(inputs: Inputs, config: CurationConfig, directory: Path, *, after: int | None = None) -> Level:
    alone = outcome(inputs, config, directory, after=after)
    made = levels.filtered(_examined(inputs, config, alone.verdicts), _of_raw(inputs, alone.decisions))
    return dataclasses.replace(made, name="no_humans")


def _gathered(inputs: Inputs, config: CurationConfig, then: Outcome, names: Sequence[str]) -> Iterator[Level]:
    """Of GATHERED, pairs that somebody was asked about: their labels as found, those that stay, and the turned ones."""
    examined, found = _examined(inputs, config, then.verdicts), gathered(inputs, then.state)
    asked = (then.state.judged | then.state.gold_training) & ~then.state.validation
    made = {
        "gathered_raw": lambda: levels.filtered(
            _raw(inputs, config), np.where(asked[inputs.labelled], KEEP, DROP)
        ),
        "gathered_filtered": lambda: levels.filtered(examined, _of_raw(inputs, found)),
        "gathered_corrected": lambda: levels.corrected(examined, _of_raw(inputs, found)),
    }
    for name in names:
        yield dataclasses.replace(made[name](), name=name)


def gathered(inputs: Inputs, state: Known) -> np.ndarray:
    """int8 [rows], KEEP, FLIP or DROP: whether people, else judges, agree with the label; reward models have no say.

    Stage 1 as the paper trains on it (arXiv 2507.01352, section 5): DROP is whatever nobody decided, and the gold
    validation split, which only the pass without people has judges judge.
    """
    label = np.where(state.gold_training, state.gold, state.silver)
    usable = inputs.labelled & (label != 0) & ~state.discarded & ~state.validation
    return np.where(usable, np.where(label == inputs.original, KEEP, FLIP), DROP).astype(np.int8)


def _level(name: str, inputs: Inputs, config: CurationConfig, final: Outcome) -> Level:
    found, examined = _raw(inputs, config), _examined(inputs, config, final.verdicts)
    decisions, seed = _of_raw(inputs, final.decisions), config.seed
    source = _of_raw(inputs, inputs.manifest["source"].to_numpy())
    match name:
        case "raw":
            return found
        case "filtered":
            return levels.filtered(examined, decisions)
        case "corrected":
            return levels.corrected(examined, decisions)
        case "gold":
            rows = np.flatnonzero(final.state.gold_training & inputs.pool)
            return _by_people(name, rows, inputs, config, final)
        case "shuffled_scores":
            category = _of_raw(inputs, inputs.manifest["category"].to_numpy())
            return levels.shuffled_scores(examined, decisions, strata=[source, category], seed=seed)
        case "random_matched":
            return levels.random_matched(found, int((decisions == KEEP).sum()), seed=seed)
        case "matched":
            numbers = [inputs.lengths[found.rows], np.abs(final.best[found.rows])]
            return levels.matched(examined, decisions, strata=[source], numbers=numbers, seed=seed)
        case "selection_only":
            return levels.selection_only(examined, decisions, noisy(inputs, seed)[found.rows])
        case "best_only" | "gold_only":
            agrees = signs(getattr(final, name.removesuffix("_only"))) == inputs.original
            alone = levels.filtered(examined, _of_raw(inputs, np.where(agrees, KEEP, DROP)))
            return dataclasses.replace(alone, name=name)
        case _:
            raise ValueError(name)


def _raw(inputs: Inputs, config: CurationConfig) -> Level:
    rows = np.flatnonzero(inputs.labelled)
    return Level(
        name="raw",
        rows=rows.astype(np.uint32),
        orientation=inputs.original[rows],
        cost=np.where(inputs.labelled, np.float32(config.raw_price), np.float32(0)),
        cost_unit=config.cost_unit,
        about={"rule": "the label as found", "corpus": inputs.corpus.fingerprint},
    )


def _examined(inputs: Inputs, config: CurationConfig, verdicts: pl.DataFrame) -> Level:
    """raw, at the price of examining it."""
    return dataclasses.replace(_raw(inputs, config), cost=row_costs(inputs, config, verdicts))


def gold_validation(inputs: Inputs, config: CurationConfig, directory: Path) -> Level:
    """People's labels of the validation split: for evaluation, never for training."""
    final = outcome(inputs, config, directory)
    return _by_people("gold_validation", np.flatnonzero(final.state.gold_validation), inputs, config, final)


def _by_people(name: str, rows: np.ndarray, inputs: Inputs, config: CurationConfig, final: Outcome) -> Level:
    people = final.verdicts.filter(is_person(config))
    return Level(
        name=name,
        rows=rows.astype(np.uint32),
        orientation=final.state.gold[rows],
        cost=row_costs(inputs, config, people),
        cost_unit=config.cost_unit,
        about={"rule": "people's decisions", "corpus": inputs.corpus.fingerprint},
    )


def _of_raw(inputs: Inputs, values: np.ndarray) -> np.ndarray:
    return values[inputs.labelled]


def noisy(inputs: Inputs, seed: int) -> np.ndarray:
    """int8 [rows]: labels drawn anew from the planted world's law of raw labels."""
    u = np.random.default_rng([_NOISE, seed]).random(len(inputs))
    return np.where(u < inputs.manifest["p_raw"].to_numpy(), 1, -1).astype(np.int8)


def row_costs(inputs: Inputs, config: CurationConfig, verdicts: pl.DataFrame) -> np.ndarray:
    """float32 [rows]: a raw pair's price, and what the verdicts on each row cost, people's time too."""
    paid = verdicts.filter((pl.col("kind") != "source") & (pl.col("annotator") != STAND_IN))
    money = paid.select(pl.col("cost").cast(pl.Float64) + paid_hours(config)).to_series().to_numpy()
    spent = np.bincount(paid["row"].to_numpy(), money, len(inputs))
    return (np.where(inputs.labelled, config.raw_price, 0) + spent).astype(np.float32)


def describe_level(level: Level, inputs: Inputs, state: Known) -> dict[str, Any]:
    """Size, cost, accuracy on held-out gold and, where the truth is known, on all of it.

    `worth`: clean pairs that one labelled pair of the pool is worth at this level in the low-signal regime, keep rate
    times (2 accuracy - 1)^2 by the truth (scaling/theory_curators.py).
    """
    rows = level.rows.astype(np.int64)
    label = np.zeros(len(inputs), np.int8)
    label[rows] = level.orientation
    held = state.gold_validation & (label != 0)
    out: dict[str, Any] = {
        "name": level.name,
        "pairs": len(rows),
        "keep_rate": len(rows) / int(inputs.labelled.sum()),
        "flipped": int((label[rows] == -inputs.original[rows]).sum()),
        "cost": 0.0 if level.cost is None else round(float(level.cost.sum(dtype=np.float64)), 6),
        "cost_unit": level.cost_unit,
        "held_out": steps.accuracy(label[held] == state.gold[held]),
        "fingerprint": level.fingerprint,
    }
    if inputs.truth is not None:
        true = inputs.truth[rows]
        right = (level.orientation == true)[true != 0]
        out["truth"] = steps.accuracy(right)
        if len(right):
            out["worth"] = out["keep_rate"] * (2 * float(right.mean()) - 1) ** 2
    return out
