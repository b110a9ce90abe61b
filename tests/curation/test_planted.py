"""The planted corpus: levels equal their closed forms, come from the ledger alone, and a killed build goes on."""

import dataclasses
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from rewardscale.config import PlantedConfig, WorldConfig
from rewardscale.curation import planted
from rewardscale.data.comparison import DataError
from rewardscale.data.ledger.ledger import Ledger
from rewardscale.data.levels import level_names, read_level

REPO = Path(__file__).parents[2]
ETA, A = 0.3, 0.9
KEPT = A * (1 - ETA) + (1 - A) * ETA
CONFIG = PlantedConfig(
    world=WorldConfig(words=10, topics=3, shortest=3, longest=5),
    train=9_000,
    validation=400,
    test=600,
    rate=ETA,
    curator_accuracy=A,
)
TINY = dataclasses.replace(CONFIG, train=1500, validation=50, test=50)
LEVELS = ["corrected", "filtered", "gold", "random_matched", "raw"]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    directory = tmp_path_factory.mktemp("planted")
    corpus = planted.build(CONFIG, directory)
    return corpus, {
        name: read_level(directory / "levels" / name) for name in level_names(directory / "levels")
    }


def accuracy(level, gold) -> float:
    return float((gold.orientation[level.rows] == level.orientation).mean())


def close(value: float, wanted: float, n: int) -> bool:
    return abs(value - wanted) < 4 * np.sqrt(wanted * (1 - wanted) / n)


def test_levels_have_the_sizes_and_accuracies_of_theory(built):
    corpus, levels = built
    n, gold = len(corpus), levels["gold"]
    assert sorted(levels) == LEVELS and n == 10_000
    for name in ("raw", "corrected", "gold"):
        np.testing.assert_array_equal(levels[name].rows, np.arange(n))
    kept = len(levels["filtered"].rows)
    assert close(kept / n, KEPT, n)
    assert close(accuracy(levels["raw"], gold), 1 - ETA, n)
    assert close(accuracy(levels["corrected"], gold), A, n)
    assert close(accuracy(levels["filtered"], gold), A * (1 - ETA) / KEPT, kept)
    assert close(accuracy(levels["random_matched"], gold), 1 - ETA, kept)


def test_gold_is_the_sign_of_the_margin_in_the_manifest(built):
    corpus, levels = built
    manifest = corpus.manifest()
    np.testing.assert_array_equal(levels["gold"].orientation, np.where(manifest["gold_margin"] > 0, 1, -1))
    p = manifest["p_raw"].to_numpy()
    np.testing.assert_allclose(np.where(manifest["gold_margin"] > 0, p, 1 - p), 1 - ETA)
    assert manifest["split"].value_counts().sort("split")["count"].to_list() == [600, 9000, 400]


def test_filtered_is_where_raw_and_curator_agree(built):
    _, levels = built
    agree = np.flatnonzero(levels["raw"].orientation == levels["corrected"].orientation)
    np.testing.assert_array_equal(levels["filtered"].rows, agree)
    np.testing.assert_array_equal(levels["filtered"].orientation, levels["raw"].orientation[agree])


def test_random_matched_has_filtered_s_size_in_each_split_and_raw_s_labels(built):
    corpus, levels = built
    matched, filtered = levels["random_matched"], levels["filtered"]
    split = corpus.manifest()["split"].to_numpy()
    for name in ("train", "validation", "test"):
        assert (split[matched.rows] == name).sum() == (split[filtered.rows] == name).sum() > 0
    np.testing.assert_array_equal(matched.orientation, levels["raw"].orientation[matched.rows])
    both = np.isin(
        matched.rows, filtered.rows
    ).mean()  # chosen at random, so it meets filtered as often as any row
    assert close(float(both), KEPT, len(matched.rows))


def test_levels_on_disk_are_made_from_the_ledger(built):
    corpus, levels = built
    verdicts = Ledger(corpus.directory.parent / "ledger").read()
    assert len(verdicts) == 3 * len(corpus)
    shuffled = verdicts.sample(fraction=1, shuffle=True, seed=1)  # its order says nothing
    made = planted.levels_from_ledger(corpus.manifest(), shuffled, seed=CONFIG.seed)
    assert {k: v.fingerprint for k, v in made.items()} == {k: v.fingerprint for k, v in levels.items()}
    # A changed verdict changes the level that reads it.
    turned = verdicts.with_columns(
        pl.when((pl.col("row") == 5) & (pl.col("annotator") == planted.CURATOR))
        .then(-pl.col("preferred"))
        .otherwise("preferred")
        .alias("preferred")
    )
    other = planted.levels_from_ledger(corpus.manifest(), turned, seed=CONFIG.seed)
    changed = {k for k in made if made[k].fingerprint != other[k].fingerprint}
    assert {"filtered", "corrected"} <= changed and not {"raw", "gold"} & changed


def mangle(verdicts: pl.DataFrame, how: str) -> pl.DataFrame:
    first = (pl.col("row") == 0) & (pl.col("annotator") == planted.CURATOR)
    one = verdicts.filter(first)
    match how:
        case "missing":
            return verdicts.filter(~first)
        case "doubled":
            return pl.concat([verdicts, one])
        case "a tie":
            return pl.concat([verdicts.filter(~first), one.with_columns(preferred=pl.lit(0, pl.Int8))])
        case "another comparison":
            return pl.concat([verdicts.filter(~first), one.with_columns(comparison=pl.lit("0" * 32))])
        case _:  # of a corpus that begins like this one and goes on
            return pl.concat([verdicts, one.with_columns(row=pl.lit(10**6, pl.UInt32))])


@pytest.mark.parametrize("how", ["missing", "doubled", "a tie", "another comparison", "a longer corpus"])
def test_a_ledger_that_does_not_fit_is_refused(built, how):
    corpus, _ = built
    verdicts = Ledger(corpus.directory.parent / "ledger").read()
    message = "belongs to another corpus" if how == "another comparison" else "exactly one decided verdict of"
    with pytest.raises(DataError, match=message):
        planted.levels_from_ledger(corpus.manifest(), mangle(verdicts, how), seed=0)


def test_a_ledger_of_another_corpus_is_refused(built, tmp_path):
    corpus, _ = built
    elsewhere = planted.build(dataclasses.replace(TINY, seed=1), tmp_path)
    verdicts = Ledger(tmp_path / "ledger").read()
    manifest = corpus.manifest().head(len(elsewhere))
    with pytest.raises(DataError, match="belongs to another corpus"):
        planted.levels_from_ledger(manifest, verdicts, seed=0)


def fingerprints(directory) -> dict[str, str]:
    return {name: read_level(directory / "levels" / name).fingerprint for name in LEVELS}


BUILD = """
import os, signal, sys
from pathlib import Path
from rewardscale import config
from rewardscale.curation import planted
world = config.WorldConfig(words=10, topics=3, shortest=3, longest=5)
made = config.PlantedConfig(world=world, train=1500, validation=50, test=50, rate=0.3, curator_accuracy=0.9)
planted.build(made, Path(sys.argv[1]), progress=lambda n: os.kill(os.getpid(), signal.SIGKILL))
"""


def test_a_build_that_was_stopped_anywhere_goes_on_and_ends_as_one_that_was_not(tmp_path):
    whole = planted.build(TINY, tmp_path / "whole")
    wanted = fingerprints(tmp_path / "whole")

    def resumed(directory):
        assert planted.build(TINY, directory).fingerprint == whole.fingerprint
        assert fingerprints(directory) == wanted
        assert Ledger(directory / "ledger").read().equals(Ledger(tmp_path / "whole" / "ledger").read())

    # Killed while the corpus is written, in a process of its own.
    command = [sys.executable, "-c", BUILD, str(tmp_path / "killed")]
    killed = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "killed" / "corpus").exists()
    resumed(tmp_path / "killed")
    # Stopped after the corpus; after the first annotator; after two levels; after everything.
    for remove in (
        ["ledger", "levels"],
        ["ledger/part-000001*", "ledger/part-000002*", "levels"],
        ["levels/r*"],
        [],
    ):
        copy = shutil.copytree(tmp_path / "whole", tmp_path / f"stopped-{len(list(tmp_path.iterdir()))}")
        for pattern in remove:
            for path in copy.glob(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        resumed(copy)


def test_a_directory_of_another_config_is_refused(tmp_path):
    planted.build(TINY, tmp_path)
    before = fingerprints(tmp_path)
    with pytest.raises(DataError, match="holds another corpus; delete"):
        planted.build(dataclasses.replace(TINY, rate=0.1), tmp_path)
    assert fingerprints(tmp_path) == before
