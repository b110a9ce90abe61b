"""A curation run's levels as the data of a sweep."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from rewardscale.build import main as build
from rewardscale.config import ConfigError, DataConfig, Grid, SweepConfig
from rewardscale.config.curation import CurationConfig, PeopleConfig
from rewardscale.config.data import CuratedConfig
from rewardscale.curation import pipeline
from rewardscale.data.levels import read_level
from rewardscale.sweeps import configfile, datasets
from rewardscale.sweeps import sweep as sweeps
from tests.curation.scripted_server import server
from tests.curation.test_pipeline_llm import config as llm_config

TINY, _ = configfile.load("curate.py:tiny", kind=CurationConfig)
CURATED, _ = configfile.load("sweep.py:curated", kind=SweepConfig)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("run")
    pipeline.run(dataclasses.replace(TINY, iterations=1, no_humans=False), workdir)
    return workdir


def of(run: Path, workdir: Path) -> datasets.Dataset:
    return datasets.prepare(DataConfig(source="curated", curated=CuratedConfig(str(run))), workdir, None)


def test_a_sweep_trains_on_its_levels_and_snapshots(finished: Path, tmp_path: Path) -> None:
    grid = dataclasses.replace(
        CURATED.sweep,
        models=("hash256",),
        pairs=(50, 100, 200),
        levels=("raw", "filtered", "corrected@iter0"),
        draws=2,
    )
    sweep = dataclasses.replace(
        CURATED, sweep=grid, also=Grid(), data=DataConfig("curated", curated=CuratedConfig(str(finished)))
    )
    sweeps.run(sweeps.plan(sweep, tmp_path))
    table = pl.read_parquet(tmp_path / "results.parquet").filter(pl.col("eval_set") == "gold")
    assert set(table["level"]) == set(grid.levels) and len(table) == 18
    accuracy = dict(
        table.filter(pl.col("pairs") == 200).group_by("level").agg(pl.col("accuracy").mean()).iter_rows()
    )
    assert accuracy["filtered"] > accuracy["raw"] > 0.5


def test_it_is_evaluated_on_pairs_that_curation_never_saw(finished: Path, tmp_path: Path) -> None:
    dataset = of(finished, tmp_path)
    sets = dataset.evaluations(-1)
    split = dataset.corpus.manifest()["split"].to_numpy()
    assert set(split[sets["gold"].pairs.rows]) == {"test"} and set(split[sets["gold"].calibration.rows]) == {
        "validation"
    }
    assert set(split[dataset.pool(-1)]) == {"train"}
    assert (np.asarray(dataset.level("filtered", 0).rows)[:, None] == dataset.pool(-1)).any(axis=1).all()
    assert dataset.cost_unit == "USD" and dataset.level("filtered", 0).cost_unit == "USD"


def test_a_missing_run_or_level_is_named(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no finished curation run"):
        of(tmp_path / "nothing", tmp_path)
    with pytest.raises(ConfigError, match="filtered@iter1"):
        of(finished, tmp_path).level("filtered@iter9", 0)


def test_without_a_known_truth_it_is_evaluated_on_peoples_held_out_verdicts(tmp_path: Path) -> None:
    lines = [
        {
            "prompt": f"{n}: what is {n} plus {n}?",
            "chosen": f"It is {2 * n}.",
            "rejected": f"It is {2 * n + 1}, perhaps.",
        }
        for n in range(120)
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert build([f"--source={tmp_path / 'pairs.jsonl'}", f"--out={tmp_path / 'corpus'}"]) == 0
    with server(accuracy=0.9) as url:
        config = llm_config(
            url,
            source="corpus",
            corpus=str(tmp_path / "corpus"),
            people=PeopleConfig(kind="none"),
            seed_pairs=60,
        )
        pipeline.run(config, tmp_path / "run")
    dataset = of(tmp_path / "run", tmp_path)
    gold = read_level(tmp_path / "run" / "evaluation" / "gold_validation")
    sets = dataset.evaluations(-1)
    test, calibration = set(sets["gold"].pairs.rows.tolist()), set(sets["gold"].calibration.rows.tolist())
    assert test and calibration and not test & calibration and test | calibration == set(gold.rows.tolist())
    assert not (test | calibration) & set(dataset.pool(-1).tolist())
