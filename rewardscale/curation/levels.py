"""The levels that come out of a curation run, and placebos that must not share their gain.

    raw               labels as found
    filtered          raw labels that pass stage 2 (or that people agree with)
    corrected         filtered, and the flipped labels that pass
    gold              people's labels, without the validation split
    no_humans         filtered of the pass in which judges' votes stand in for people
    shuffled_scores   the filter with its scores dealt anew among the pairs of a source and category: same keep rate
    random_matched    as many raw pairs as filtered has, at random
    matched           raw pairs, as many as filtered has in each cell of source, length and size of the best reward
                      model's margin
    selection_only    filtered's pairs with labels as noisy as raw's, drawn anew (planted worlds)
    best_only, gold_only   raw labels that the best (gold) reward model alone agrees with
    filtered@iter3    what the rules would keep with what iterations 0 to 3 know; likewise corrected@iter3

All index the same corpus, so a sweep draws nested subsets of them. `cost` of a row is what its verdicts cost, and the
price of a raw pair.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from rewardscale.config.curation import SNAPSHOTS, CurationConfig
from rewardscale.curation import steps
from rewardscale.curation.inputs import Inputs
from rewardscale.curation.known import STAND_IN, Known, is_person, known
from rewardscale.curation.stage_two import decide_all
from rewardscale.data.ledger.ledger import Ledger
from rewardscale.data.levels import Level, read_level, write_level

_SHUFFLE, _RANDOM, _MATCHED, _NOISE = 0x5A, 0x5B, 0x5C, 0x5D
_BINS = 8  # of length and of margin, by quantiles of the raw pairs


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a finished pass decided, [rows] each: margins of the two models, pairs kept and flipped, and what it knows."""

    state: Known
    best: np.ndarray
    gold: np.ndarray
    kept: np.ndarray
    flipped: np.ndarray
    verdicts: pl.DataFrame


def outcome(inputs: Inputs, config: CurationConfig, directory: Path, *, after: int | None = None) -> Outcome:
    """Reads a pass's ledger and models; `after` an iteration of stage 1, or after stage 2."""
    verdicts = Ledger(directory / "ledger").read()
    last = config.iterations if after is None else after
    state = known(inputs, config, verdicts, before=None if after is None else after + 1)
    best, gold = (np.load(directory / "models" / f"{name}@iter{last}" / "margins.npy") for name in ("best", "gold"))
    kept, flipped = decide_all(inputs.original, inputs.pool, state, best, gold, ask_below=config.ask_below)
    if not config.recycling:
        flipped = np.zeros_like(flipped)
    return Outcome(state, best, gold, kept, flipped, verdicts)


def make_levels(
    inputs: Inputs, config: CurationConfig, directory: Path, without_people: tuple[CurationConfig, Path] | None
) -> Iterator[Level]:
    """All levels that the config wants and its source allows.

    Args:
      without_people: config and folder of the pass without people.
    """
    final = outcome(inputs, config, directory)
    labelled = inputs.pool & (inputs.original != 0)
    original, wanted = inputs.original, set(config.levels)
    costs = row_costs(inputs, config, final.verdicts)
    price = np.full(len(inputs), config.raw_price, np.float32)
    unit = config.cost_unit

    def level(name: str, rows: np.ndarray, labels: np.ndarray, rule: str, cost: np.ndarray = costs) -> Level:
        about = {"rule": rule, "corpus": inputs.corpus.fingerprint, "seed": config.seed}
        chosen = np.flatnonzero(rows)
        return Level(
            name=name,
            rows=chosen.astype(np.uint32),
            orientation=labels[chosen].astype(np.int8),
            cost=cost,
            cost_unit=unit,
            about=about,
        )

    corrected = np.where(final.flipped, -original, original)
    people = row_costs(inputs, config, final.verdicts.filter(is_person(config)))
    agrees = {"best": final.best * original > 0, "gold": final.gold * original > 0}
    made = {
        "raw": lambda: level("raw", labelled, original, "the label as found", price),
        "filtered": lambda: level("filtered", final.kept, original, "stage 2, rule 2; people's decisions first"),
        "corrected": lambda: level(
            "corrected", final.kept | final.flipped, corrected, "filtered, and recycled pairs with flipped labels"
        ),
        "gold": lambda: level(
            "gold", final.state.gold_training & inputs.pool, final.state.gold, "people's decisions", people
        ),
        "shuffled_scores": lambda: level(
            "shuffled_scores", shuffled(inputs, labelled, final.kept, config.seed), original,
            "the filter's decisions dealt anew within source and category",
        ),
        "random_matched": lambda: level(
            "random_matched", at_random(labelled, int(final.kept.sum()), config.seed), original,
            "random raw pairs, as many as filtered", price,
        ),
        "matched": lambda: level(
            "matched", matched(inputs, labelled, final, config.seed), original,
            "raw pairs matched to filtered on source, length and margin",
        ),
        "best_only": lambda: level("best_only", labelled & agrees["best"], original, "the best reward model agrees"),
        "gold_only": lambda: level("gold_only", labelled & agrees["gold"], original, "the gold reward model agrees"),
    }  # fmt: skip
    for name, make in made.items():
        if name in wanted:
            yield make()
    if "selection_only" in wanted and "p_raw" in inputs.manifest.columns:
        yield level("selection_only", final.kept, noisy(inputs, config.seed), "filtered's pairs, raw's noise")
    if "no_humans" in wanted and without_people is not None:
        other, folder = without_people
        alone = outcome(inputs, other, folder)
        cost = row_costs(inputs, config, alone.verdicts)
        yield level("no_humans", alone.kept, original, "filtered, judges' votes standing in for people", cost)
    for iteration in range(config.iterations + 1):
        then = outcome(inputs, config, directory, after=iteration)
        cost = row_costs(inputs, config, then.verdicts.filter(pl.col("iteration") <= iteration))
        labels = np.where(then.flipped, -original, original)
        for name in (name for name in SNAPSHOTS if name in wanted):
            rows = then.kept if name == "filtered" else then.kept | then.flipped
            rule = f"the rules of {name} with what iterations 0 to {iteration} know"
            yield level(f"{name}@iter{iteration}", rows, labels, rule, cost)


def write_levels(levels: Iterator[Level], directory: Path) -> list[Level]:
    """Writes them to `directory/levels`; what is there already must be the same."""
    made = []
    for level in levels:
        made.append(read_level(write_level(directory / "levels", level)))
    return made


def row_costs(inputs: Inputs, config: CurationConfig, verdicts: pl.DataFrame) -> np.ndarray:
    """float32 [rows]: the raw price, and what the verdicts on each row cost, people's time too."""
    paid = verdicts.filter((pl.col("kind") != "source") & (pl.col("annotator") != STAND_IN))
    hours = paid["seconds"].cast(pl.Float64).to_numpy() / 3600 * paid.select(is_person(config)).to_series().to_numpy()
    money = paid["cost"].cast(pl.Float64).to_numpy() + hours * config.people.money_per_hour
    return (config.raw_price + np.bincount(paid["row"].to_numpy(), money, len(inputs))).astype(np.float32)


# --- placebos ----------------------------------------------------------------------------------------


def shuffled(inputs: Inputs, labelled: np.ndarray, kept: np.ndarray, seed: int) -> np.ndarray:
    """bool [rows]: `kept` permuted among the labelled pairs of each source and category."""
    random = np.random.default_rng([_SHUFFLE, seed])
    out = np.zeros_like(kept)
    for rows in _cells(labelled, inputs.manifest["source"].to_numpy(), inputs.manifest["category"].to_numpy()):
        out[rows] = random.permutation(kept[rows])
    return out


def at_random(labelled: np.ndarray, count: int, seed: int) -> np.ndarray:
    """bool [rows]: `count` of the labelled pairs."""
    out = np.zeros_like(labelled)
    out[np.random.default_rng([_RANDOM, seed]).permutation(np.flatnonzero(labelled))[:count]] = True
    return out


def matched(inputs: Inputs, labelled: np.ndarray, final: Outcome, seed: int) -> np.ndarray:
    """bool [rows]: in each cell of source, length and size of margin as many labelled pairs as are kept there."""
    random = np.random.default_rng([_MATCHED, seed])
    length = np.array([sum(map(len, c.responses)) for c in inputs.corpus], np.float64)
    source = inputs.manifest["source"].to_numpy()
    out = np.zeros_like(labelled)
    for rows in _cells(labelled, source, _bins(length, labelled), _bins(np.abs(final.best), labelled)):
        out[random.permutation(rows)[: int(final.kept[rows].sum())]] = True
    return out


def noisy(inputs: Inputs, seed: int) -> np.ndarray:
    """int8 [rows]: labels drawn anew from the world's law of raw labels."""
    u = np.random.default_rng([_NOISE, seed]).random(len(inputs))
    return np.where(u < inputs.manifest["p_raw"].to_numpy(), 1, -1).astype(np.int8)


def _bins(values: np.ndarray, among: np.ndarray) -> np.ndarray:
    edges = np.quantile(values[among], np.linspace(0, 1, _BINS + 1)[1:-1]) if among.any() else []
    return np.searchsorted(edges, values)


def _cells(among: np.ndarray, *by: np.ndarray) -> Iterator[np.ndarray]:
    """Rows of each combination of values, in order of the values."""
    rows = np.flatnonzero(among)
    if not len(rows):
        return
    codes = np.stack([np.unique(values[rows], return_inverse=True)[1] for values in by])
    _, cell = np.unique(codes, axis=1, return_inverse=True)
    for number in range(cell.max() + 1):
        yield rows[cell == number]


# --- what they are worth -----------------------------------------------------------------------------


def describe_level(level: Level, inputs: Inputs, state: Known) -> Mapping[str, Any]:
    """Size, cost, accuracy on held-out gold and, where the truth is known, on all of it.

    `worth`: clean pairs that one labelled pair of the pool is worth at this level in the low-signal regime, keep rate
    times (2 accuracy - 1)^2 by the truth (scaling/theory_curators.py).
    """
    rows = level.rows.astype(np.int64)
    labelled = int((inputs.pool & (inputs.original != 0)).sum())
    label = np.zeros(len(inputs), np.int8)
    label[rows] = level.orientation
    held = state.gold_validation & (label != 0)
    out: dict[str, Any] = {
        "name": level.name,
        "pairs": len(rows),
        "keep_rate": len(rows) / labelled,
        "flipped": int((label[rows] == -inputs.original[rows]).sum()),
        "cost": 0.0 if level.cost is None else round(float(level.cost.sum(dtype=np.float64)), 6),
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
