"""Stage 2: the rest of the pool, without people (Skywork-Reward-V2, arXiv 2507.01352, section 3.3).

    1  a pair whose label the best reward model gives p > ask_below is kept without asking; judges are asked of the
       others; with recycling also of those that the gold reward model would veto
    2  a pair stays iff its label agrees with the gold reward model and with (the judges or the best reward model)
    3  recycling: a discarded pair whose flipped label passes rule 2 is kept flipped, at `corrected` only

Where people have decided, their decision is the rule, except for gold validation, which is treated like any other
pair so that it can measure. What people could not decide is out.
"""

import dataclasses
from typing import Any

import numpy as np
import polars as pl
from scipy.special import expit

from rewardscale.curation import steps
from rewardscale.curation.known import Known
from rewardscale.curation.workbench import Workbench


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What there is on pairs, [pairs] each.

    Attributes:
      original: +1, -1, 0 for no label. best, gold: margins of the two reward models. judges: +1, -1, 0.
    """

    original: np.ndarray
    best: np.ndarray
    gold: np.ndarray
    judges: np.ndarray


def best_agrees(label: np.ndarray, best: np.ndarray, ask_below: float = 0.5) -> np.ndarray:
    """bool [pairs]: the best reward model gives the label a probability above `ask_below`."""
    return (label != 0) & (expit(best.astype(np.float64) * label) > ask_below)


def to_be_asked(evidence: Evidence, *, recycling: bool, ask_below: float = 0.5) -> np.ndarray:
    """bool [pairs]: rule 1. Pairs without a label are not asked of."""
    kept = best_agrees(evidence.original, evidence.best, ask_below)
    vetoed = kept & (evidence.gold * evidence.original <= 0)
    return (evidence.original != 0) & (~kept | vetoed if recycling else ~kept)


def consistent(label: np.ndarray, evidence: Evidence, ask_below: float = 0.5) -> np.ndarray:
    """bool [pairs]: rule 2 for a label of +1, -1 (0 never passes). A margin of exactly 0 agrees with nothing."""
    seconded = (evidence.judges == label) | best_agrees(label, evidence.best, ask_below)
    return (label != 0) & (evidence.gold * label > 0) & seconded


def decide(evidence: Evidence, *, ask_below: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """(kept, flipped), bool [pairs]: rules 2 and 3; no pair is both."""
    kept = consistent(evidence.original, evidence, ask_below)
    return kept, ~kept & consistent(-evidence.original, evidence, ask_below)


def decide_all(
    original: np.ndarray,
    pool: np.ndarray,
    state: Known,
    best: np.ndarray,
    gold: np.ndarray,
    *,
    ask_below: float = 0.5,
) -> tuple[np.ndarray, np.ndarray]:
    """(kept, flipped), bool [corpus rows], people's decisions first."""
    kept, flipped = decide(Evidence(original, best, gold, state.silver), ask_below=ask_below)
    decided = state.gold_training
    kept = np.where(decided, state.gold == original, kept)
    flipped = np.where(decided, state.gold == -original, flipped)
    usable = pool & (original != 0) & ~(state.discarded & ~state.validation)
    return kept & usable, flipped & usable


def stage_two(bench: Workbench) -> dict[str, Any]:
    """Runs stage 2 unless it is done; its report. Raises what training and asking raise."""
    return steps.commit(bench.directory, steps.STAGE_TWO, lambda: _run(bench))


def _run(bench: Workbench) -> tuple[pl.DataFrame, dict[str, Any]]:
    config, inputs = bench.config, bench.inputs
    last = config.iterations
    before = bench.known(before=last + 1)
    best, gold = steps.train_best(bench, before, last), steps.train_gold(bench, before, last)
    evidence = Evidence(inputs.original, best.margins, gold.margins, before.silver)
    wanted = to_be_asked(evidence, recycling=config.recycling, ask_below=config.ask_below)
    unjudged = ~before.judged & ~before.gold_training & ~(before.discarded & ~before.validation)
    rows = np.flatnonzero(inputs.pool & wanted & unjudged)
    bench.ask_judges(bench.with_examples(rows, before), last + 1)
    state = bench.known()
    kept, flipped = decide_all(
        inputs.original, inputs.pool, state, best.margins, gold.margins, ask_below=config.ask_below
    )
    if not config.recycling:
        flipped = np.zeros_like(flipped)
    labelled = np.flatnonzero(inputs.pool & (inputs.original != 0))
    decisions = pl.DataFrame(
        {
            "row": labelled.astype(np.uint32),
            "best": best.margins[labelled],
            "gold": gold.margins[labelled],
            "judges": state.silver[labelled],
            "asked": np.isin(labelled, rows),
            "kept": kept[labelled],
            "flipped": flipped[labelled],
        }
    )
    report = steps.common(bench, last + 1, rows) | {
        "best": steps.model_accuracy(inputs, before, best),
        "gold_model": steps.model_accuracy(inputs, before, gold),
        "decisions": {
            "labelled": len(labelled),
            "kept_unasked": int((inputs.pool & best_agrees(inputs.original, best.margins, config.ask_below)).sum()),
            "asked": len(rows),
            "kept": int(kept.sum()),
            "flipped": int(flipped.sum()),
            "discarded": len(labelled) - int(kept.sum() + flipped.sum()),
        },
        "with_people": agreement_with_people(inputs.original, state, best.margins, gold.margins),
    }
    return decisions, report


def agreement_with_people(
    original: np.ndarray, state: Known, best: np.ndarray, gold: np.ndarray
) -> dict[str, Any]:
    """Of the held-out gold pairs that each model would keep (flip), how many people would (the paper's table 19)."""
    held = state.gold_validation & (original != 0)
    people, label = state.gold[held], original[held]
    verdicts = {"best": np.sign(best[held]), "gold": np.sign(gold[held])}
    verdicts["both"] = np.where(verdicts["best"] == verdicts["gold"], verdicts["best"], 0)
    return {
        name: {
            "keep": steps.accuracy(people[said == label] == label[said == label]),
            "flip": steps.accuracy(people[said == -label] == -label[said == -label]),
        }
        for name, said in verdicts.items()
    }
