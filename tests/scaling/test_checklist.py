"""The checklist says what a SYNTHETIC sweep recorded, and what it did not."""

from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl
import pytest

from rewardscale.scaling.checklist import UNKNOWN, as_markdown, checklist
from rewardscale.scaling.collect import Sweep
from rewardscale.scaling.fit import Fit, fit
from rewardscale.scaling.forms import POWER_FLOOR

RECIPE = {"schedule": "cosine", "warmup": 0.1, "cooldown": 0.2, "pairs_per_step": 32, "weight_decay": 0.1}


@dataclass(frozen=True)
class Compared:
    fits: dict[str, Fit]
    holdout: dict[str, float] = field(default_factory=lambda: {"offset": 0.0123})
    chosen: str | None = "offset"
    reason: str = "because of the held-out error"


def answer(table: pl.DataFrame, question: str) -> str:
    rows = table.filter(pl.col("question").str.contains(question, literal=True))
    assert len(rows) == 1, rows["question"].to_list()
    return rows["answer"][0]


def with_meta(sweep: Sweep, **meta) -> Sweep:
    return replace(sweep, meta=sweep.meta | meta)


def test_recorded_facts_are_answered(planted):
    config = {"recipe": RECIPE, "seed": 3, "learning_rates": {"small": 0.005}}
    config |= {"data": {"source": "planted", "planted": {"rate": 0.3, "world": {"words": 64}}}}
    table = checklist(with_meta(planted, config=config))
    assert answer(table, "what sizes").startswith("3 model sizes from 1,600 to 36,864 parameters")
    assert answer(table, "How many data sizes").startswith(
        "6 data sizes from 300 to 30,000 pairs, 2.0 decades"
    )
    assert answer(table, "schedule") == "cosine, 0.1 warmup, 0.2 cooldown"
    assert answer(table, "batch size") == "32 pairs a step"
    assert answer(table, "learning rates") == "peak small 0.005; times 1"
    assert answer(table, "On what data") == "planted (rate 0.3)"
    assert answer(table, "repeated") == "4 draws (fewer than 5: no intervals)"
    assert "gold (headline): up to 4,000 pairs" in answer(table, "evaluation set?").replace("is the", "")
    assert answer(table, "What seeds") == "seed 3"
    assert "python 3.12" in answer(table, "What code")
    assert "360 a parameter and pair" in answer(table, "FLOPs")  # 6 x 60 tokens
    assert "5 needed" in answer(table, "too little for a law")


def test_what_was_not_recorded_is_said_and_not_guessed(planted):
    bare = replace(
        planted,
        meta={"name": "bare", "headline_eval": "gold"},
        table=planted.table.drop("params_with_embeddings").with_columns(
            flops=None, epochs=None, learning_rate=None
        ),
    )
    table = checklist(bare)
    for question in (
        "On what data",
        "batch size",
        "schedule",
        "FLOPs",
        "pair seen",
        "What code",
        "What seeds",
    ):
        assert answer(table, question) == UNKNOWN, question
    assert UNKNOWN in answer(table, "How is N counted")
    assert "runs were planned was not recorded" in answer(table, "missing or unfinished")


def test_missing_runs_are_counted_by_reason(planted):
    missing = [{"run_id": "a", "reason": "out of memory\ntrace"}, {"run_id": "b", "reason": "not run yet"}]
    table = checklist(replace(planted, missing=[*missing, {"run_id": "c", "reason": "not run yet"}]))
    said = answer(table, "missing or unfinished")
    assert said.startswith("3 planned runs have no result (2: not run yet; 1: out of memory)")
    assert "trace" not in said


def test_mixed_science_versions_stand_out(planted):
    mixed = planted.table.with_columns(
        science_version=pl.when(pl.col("level") == "raw").then(1).otherwise(2).cast(pl.Int64)
    )
    assert answer(checklist(replace(planted, table=mixed)), "version of the results").startswith("MIXED")


@pytest.mark.parametrize("delta", [None, np.inf])
def test_a_comparison_fills_in_the_fit(planted, delta):
    pairs = 250.0 * 2.0 ** np.arange(7)
    noise = 1 + 0.01 * np.random.default_rng(0).normal(size=7)
    own = fit(POWER_FLOOR, {"pairs": pairs}, (0.3 + 11 * pairs**-0.55) * noise, delta=delta)
    table = checklist(planted, Compared({"shared": own, "offset": own}))
    assert POWER_FLOOR.formula in answer(table, "What form")
    assert answer(table, "Why this one") == "because of the held-out error"
    assert "3 from 7 points: floor, scale, exponent" in answer(table, "parameters are estimated")
    assert ("infinite" in answer(table, "What objective")) == (delta is not None)
    assert "offset 1.23%" in answer(table, "held-out")
    assert answer(checklist(planted), "What form") == "none"


def test_an_empty_sweep_has_a_checklist(planted):
    table = checklist(replace(planted, table=planted.table.clear()))
    assert answer(table, "what sizes") == UNKNOWN
    assert answer(table, "How many runs").startswith("0 finished of")


def test_the_markdown_holds_every_row(planted):
    table = checklist(with_meta(planted, docstring="a | b\nc"))
    lines = as_markdown(table).strip().split("\n")
    assert len(lines) == 2 + len(table)
    assert all(line.replace("\\|", "").count("|") == 4 for line in lines)
