"""Stage 1: train, find what the reward model gets wrong, have it judged (arXiv 2507.01352, section 3.2).

An iteration i, from what iterations before it know:

    1  the best reward model: trained on silver, its checkpoint chosen by gold validation
    2  error-driven retrieval: gold pairs ask for their neighbours in the pool, the more the worse the model does
    3  judges judge those, with the nearest gold pairs as worked examples: silver
    4  people judge the most informative of them, as many as the budget allows: gold
"""

from typing import Any

import numpy as np
import polars as pl
from scipy.special import expit

from rewardscale.config.curation import CurationConfig
from rewardscale.curation import steps
from rewardscale.curation.annotators.base import Question
from rewardscale.curation.known import Known
from rewardscale.curation.retrieval.select import select
from rewardscale.curation.rewards import RewardModel
from rewardscale.curation.workbench import Workbench

_RANDOM = 0xD1CE


def stage_one(bench: Workbench, iteration: int) -> dict[str, Any]:
    """Runs one iteration, from 1, unless it is done; its report. Raises what training and asking raise."""
    return steps.commit(bench.directory, steps.step_name(iteration), lambda: _run(bench, iteration))


def _run(bench: Workbench, iteration: int) -> tuple[pl.DataFrame, dict[str, Any]]:
    before = bench.known(before=iteration)
    best = steps.train_best(bench, before, iteration - 1)
    table = steps.judged(bench, iteration, lambda: _judged(bench, before, best, iteration))
    asked = table.filter("asked_people").sort("informativeness", "row", descending=[True, False])
    questions = bench.questions(asked["row"].to_numpy())
    bench.ask_people(list(zip(questions, asked["informativeness"], strict=True)), iteration)
    gold, rows = before.gold_training, table["row"].to_numpy().astype(np.int64)
    report = steps.common(bench, iteration, rows) | {
        "best": steps.model_accuracy(bench.inputs, before, best),
        "retrieval": {
            "asking": int(gold.sum()),
            "wrong": int((best.margins[gold] * before.gold[gold] <= 0).sum()),
            "selected": len(rows),
            "by_k": table["k"].value_counts().sort("k").rows() if len(table) else [],
            "pool_left": int((bench.inputs.labelled & bench.known().open).sum()),
        },
    }
    return table, report


def _judged(bench: Workbench, before: Known, best: RewardModel, iteration: int) -> pl.DataFrame:
    """The pairs of an iteration, with attributes and judges' verdicts, and which of them people are to judge."""
    selected = retrieve(bench, before, best, iteration)
    rows = selected["row"].to_numpy().astype(np.int64)
    bench.describe(rows, iteration)
    bench.ask_judges(rows, iteration, before)
    state = bench.known()
    weight = np.array([_weight(bench.config, question) for question in bench.questions(rows)])
    worth = informativeness(state.judges[:, rows], state.silver[rows], best.margins[rows], weight)
    asked = np.lexsort((rows, -worth))[: bench.config.people_per_iteration]
    return selected.with_columns(
        informativeness=pl.Series(worth, dtype=pl.Float32),
        asked_people=pl.Series(np.isin(np.arange(len(rows)), asked), dtype=pl.Boolean),
    )


def _weight(config: CurationConfig, question: Question) -> float:
    return config.category_weight.get(question.attributes.category, 0.0) if question.attributes else 0.0


def retrieve(bench: Workbench, state: Known, best: RewardModel, iteration: int) -> pl.DataFrame:
    """The pairs of an iteration and why (`retrieval.select`), at most `config.selected`: the worst-predicted first.

    With `retrieval` "random" as many pairs drawn at random, without a why.
    """
    config = bench.config
    gold = np.flatnonzero(state.gold_training)
    pool = np.flatnonzero(bench.inputs.labelled & state.open)
    p = expit(best.margins[gold].astype(np.float64) * state.gold[gold])
    if not len(gold) or not len(pool):
        return pl.DataFrame(schema=_WHY)
    asking = bench.vectors_with_attributes(bench.questions(gold))
    found = select(gold, p, asking, pool, bench.vectors(pool), k_max=config.k_max, **bench.search)
    if config.selected:
        found = found.sort(["p", "rank", "row"]).head(config.selected).sort("row")
    if config.retrieval == "random":
        random = np.random.default_rng([_RANDOM, config.seed, iteration])
        rows = np.sort(random.permutation(pool)[: len(found)]).astype(np.uint32)
        why = [pl.lit(None, dtype).alias(name) for name, dtype in _WHY.items() if name != "row"]
        return pl.DataFrame({"row": rows}).with_columns(why)
    return found


_WHY = pl.Schema(
    {
        "row": pl.UInt32,
        "gold": pl.UInt32,
        "p": pl.Float64,
        "k": pl.UInt16,
        "rank": pl.UInt16,
        "score": pl.Float32,
    }
)


def informativeness(
    judges: np.ndarray, silver: np.ndarray, margin: np.ndarray, weight: np.ndarray | float = 0.0
) -> np.ndarray:
    """float64 [pairs], how much a person's verdict would tell: the mean of three, plus the category's weight.

    Judges disagree (1 - |mean of their +1, 0, -1|), the reward model disagrees with them (the probability that it gives
    to the other response), the reward model is unsure (1 - |2p - 1|).
    """
    spread = 1 - np.abs(judges.mean(axis=0)) if len(judges) else np.zeros(len(silver))
    p = expit(margin.astype(np.float64))
    conflict = np.where(silver == 0, 0.5, np.where(silver > 0, 1 - p, p))
    return (spread + conflict + 1 - np.abs(2 * p - 1)) / 3 + weight
