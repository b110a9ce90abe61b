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
    config = bench.config
    seed = seed_rows(bench.inputs, config)
    bench.describe(seed)
    state = bench.known(before=0)
    validation, others = seed[state.validation[seed]], seed[~state.reserved[seed]]
    judged = np.concatenate([others, validation]) if bench.people is None else others
    bench.ask_judges(bench.questions(judged), 0)
    ranked = sorted(bench.questions(others), key=lambda q: (-priority(q.attributes), q.row))
    chosen = ranked[: config.seed_people]
    bench.ask_people([(q, 0.0) for q in [*bench.questions(validation), *chosen]], 0)
    selected = pl.DataFrame({"row": seed.astype(np.uint32), "validation": state.validation[seed]}).sort("row")
    report = steps.common(bench, 0, seed) | {
        "validation": len(validation),
        "gold_validation": int(bench.known().gold_validation.sum()),
    }
    return selected, report
