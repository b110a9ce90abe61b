"""Stage 0: attributes and a seed of judged pairs (Skywork-Reward-V2, arXiv 2507.01352, section 3.1).

The seed is drawn at random. A share of it is the gold validation split: people judge all of that, judges none, so it is
an unbiased sample of the pool that nothing is trained on. Judges judge the rest (silver), and people a number of
these, objective and uncontroversial pairs first. What people cannot decide is discarded.
"""

from typing import Any

import numpy as np
import polars as pl

from rewardscale.curation import steps
from rewardscale.curation.annotators.backend import priority
from rewardscale.curation.known import seed_rows
from rewardscale.curation.workbench import Workbench


def stage_zero(bench: Workbench) -> dict[str, Any]:
    """Runs stage 0 unless it is done; its report. Raises what asking raises."""
    return steps.commit(bench.directory, steps.step_name(0), lambda: _run(bench))


def _run(bench: Workbench) -> tuple[pl.DataFrame, dict[str, Any]]:
    table = steps.judged(bench, 0, lambda: _judged(bench))
    chosen = table.filter(pl.col("validation") | pl.col("asked_people"))["row"].to_numpy().astype(np.int64)
    bench.ask_people([(question, 0.0) for question in bench.questions(chosen)], 0)
    report = steps.common(bench, 0, table["row"].to_numpy().astype(np.int64)) | {
        "validation": int(table["validation"].sum()),
        "gold_validation": int(bench.known().gold_validation.sum()),
    }
    return table, report


def _judged(bench: Workbench) -> pl.DataFrame:
    """The seed, with attributes and judges' verdicts, and whom people are to judge of it."""
    config = bench.config
    seed = seed_rows(bench.inputs, config)
    bench.describe(seed, 0)
    state = bench.known(before=0)
    others = seed[~state.reserved[seed]]
    # Where nobody is asked for people's verdicts, judges' stand in for them, on the validation split too.
    validation = seed[state.validation[seed]] if bench.people is None else seed[:0]
    bench.ask_judges(np.concatenate([others, validation]), 0)
    ranked = sorted(bench.questions(others), key=lambda q: (-priority(q.attributes), q.row))
    chosen = [question.row for question in ranked[: config.seed_people]]
    columns = {
        "row": seed.astype(np.uint32),
        "validation": state.validation[seed],
        "asked_people": np.isin(seed, chosen),
    }
    return pl.DataFrame(columns).sort("row")
