"""Stage 2: the rest of the pool, without people (Skywork-Reward-V2, arXiv 2507.01352, section 3.3).

    1  a pair whose label the best reward model gives p > ask_below is kept without asking; judges are asked of the
       others; with recycling also of those that the gold reward model would veto
    2  a pair stays iff its label agrees with the gold reward model and with (the judges or the best reward model)
    3  recycling: a discarded pair whose flipped label passes rule 2 is kept flipped, at `corrected` only

Where people have decided, their decision is the rule, except for gold validation, which is treated like any other
pair so that it can measure. What people could not decide is out.
"""

from typing import Any

import numpy as np
import polars as pl

from rewardscale.curation import steps
from rewardscale.curation.inputs import Inputs
from rewardscale.curation.known import Known
from rewardscale.curation.rules import DROP, FLIP, KEEP, Opinions, asked, decide, signs
from rewardscale.curation.workbench import Workbench


def decide_all(
    inputs: Inputs,
    state: Known,
    best: np.ndarray,
    gold: np.ndarray,
    *,
    ask_below: float = 0.5,
    recycling: bool = True,
) -> np.ndarray:
    """int8 [rows], KEEP, FLIP or DROP: people's decisions first, then rules 2 and 3; DROP outside the pool.

    Args:
      best, gold: float32 [rows], margins of the two reward models.
    """
    original = inputs.original
    decisions = decide(Opinions(original, signs(best, ask_below), signs(gold), state.silver))
    by_people = state.gold_training
    decisions = np.where(by_people, np.where(state.gold == original, KEEP, FLIP), decisions)
    if not recycling:
        decisions = np.where(decisions == FLIP, DROP, decisions)
    usable = inputs.labelled & ~(state.discarded & ~state.validation)
    return np.where(usable, decisions, DROP).astype(np.int8)


def stage_two(bench: Workbench) -> dict[str, Any]:
    """Runs stage 2 unless it is done; its report. Raises what training and asking raise."""
    return steps.commit(bench.directory, steps.STAGE_TWO, lambda: _run(bench))


def _run(bench: Workbench) -> tuple[pl.DataFrame, dict[str, Any]]:
    config, inputs = bench.config, bench.inputs
    last = config.iterations
    before = bench.known(before=last + 1)
    best, gold = steps.train_best(bench, before, last), steps.train_gold(bench, before, last)
    doubted = asked(
        inputs.original,
        signs(best.margins, config.ask_below),
        signs(gold.margins) if config.recycling else None,
    )
    unjudged = ~before.judged & ~before.gold_training & ~(before.discarded & ~before.validation)
    rows = np.flatnonzero(inputs.labelled & doubted & unjudged)
    bench.describe(rows, last + 1)
    bench.ask_judges(rows, last + 1, before)
    state = bench.known()
    decisions = decide_all(
        inputs, state, best.margins, gold.margins, ask_below=config.ask_below, recycling=config.recycling
    )
    labelled = np.flatnonzero(inputs.labelled)
    table = pl.DataFrame(
        {
            "row": labelled.astype(np.uint32),
            "best": best.margins[labelled],
            "gold": gold.margins[labelled],
            "judges": state.silver[labelled],
            "asked": np.isin(labelled, rows),
            "decision": decisions[labelled],
        }
    )
    report = steps.common(bench, last + 1, rows) | {
        "best": steps.model_accuracy(inputs, before, best),
        "gold_model": steps.model_accuracy(inputs, before, gold),
        "decisions": {
            "labelled": len(labelled),
            "kept_unasked": int((inputs.labelled & ~doubted & ~before.judged).sum()),
            "asked": len(rows),
            "kept": int((decisions == KEEP).sum()),
            "flipped": int((decisions == FLIP).sum()),
            "discarded": int((decisions[labelled] == DROP).sum()),
        },
        "with_people": agreement_with_people(inputs.original, state, best.margins, gold.margins),
    }
    return table, report


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
