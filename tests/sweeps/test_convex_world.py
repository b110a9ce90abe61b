"""The planted convex world as a sweep: its levels and evaluation sets, and the law that runs must find."""

import json

import numpy as np
import pytest

from rewardscale.config import ConfigError, SweepConfig
from rewardscale.curation import planted_linear as levels
from rewardscale.sweeps import cell, configfile, datasets, grid
from rewardscale.sweeps.datasets import VALIDATION, Dataset

SMALL = {"data.planted_linear.train": "2000", "data.planted_linear.validation": "500"}


def prepared(tmp_path, **overrides: str) -> tuple[SweepConfig, Dataset]:
    config, _ = configfile.load("sweep.py:convex", {k.replace("__", "."): v for k, v in overrides.items()})
    return config, datasets.prepare(config.data, tmp_path, None)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[SweepConfig, Dataset]:
    overrides = SMALL | {"data.planted_linear.test": "1000"}
    return prepared(tmp_path_factory.mktemp("small"), **overrides)


def run(config: SweepConfig, dataset: Dataset, tmp_path) -> dict[tuple[str, str, int], dict]:
    """Runs all cells here: scores by (level, model, pairs), means over draws of (loss, error) on each set."""
    context = cell.Context(dataset, None, config.runtime, tmp_path)
    found: dict[tuple[str, str, int], list] = {}
    for of in grid.cells(config, dataset, None):
        assert cell.run_cell(of, context)
        result = cell.read_result(tmp_path, of.run_id)
        assert result is not None
        key = (of.run.level, of.run.model_name, of.run.pairs)
        scores = [result["scores"][name]["loss_recalibrated"] for name in ("gold", "sign")]
        found.setdefault(key, []).append(scores)
    return {
        key: dict(zip(("gold", "sign"), np.mean(losses, axis=0), strict=True))
        for key, losses in found.items()
    }


def test_evaluation_sets_are_labelled_as_they_say(small) -> None:
    _, dataset = small
    sets = dataset.evaluations(-1)
    assert set(sets) == {VALIDATION, "gold", "sign"}
    margin = dataset.corpus.manifest()["gold_margin"].to_numpy()
    gold = sets["gold"].pairs
    assert (np.sign(margin[gold.rows]) == gold.orientation).all()
    assert gold.target == pytest.approx(1 / (1 + np.exp(-np.abs(margin[gold.rows]))))
    assert sets["sign"].pairs.target is None and sets["sign"].bayes_loss == 0
    # the gold reward itself scores the Bayes loss
    rewards = np.column_stack([margin, np.zeros(len(margin))])
    rows = np.arange(len(margin), dtype=np.uint32)
    scores = cell.scores(dataset, -1, rows, rewards)["gold"]
    assert scores["loss"] == pytest.approx(sets["gold"].bayes_loss)
    assert (
        len(np.unique(np.concatenate([gold.rows, sets["gold"].calibration.rows, dataset.pool(-1)]))) == 3500
    )


def test_levels_are_made_anew_each_draw_and_can_be_flipped(small) -> None:
    config, dataset = small
    assert set(config.sweep.levels) <= set(dataset.levels())
    one, two = dataset.level("gold", 0), dataset.level("gold", 1)
    assert (one.orientation != two.orientation).any()
    flipped = dataset.level("deterministic+flip0.2", 0)
    share = (flipped.orientation != dataset.level("deterministic", 0).orientation).mean()
    assert share == pytest.approx(0.2, abs=0.03)
    assert one.cost_unit == dataset.cost_unit == levels.COST_UNIT
    with pytest.raises(ConfigError, match="did you mean 'biased'"):
        dataset.level("biassed", 0)


def test_a_second_build_opens_the_first(small) -> None:
    config, dataset = small
    again = datasets.prepare(config.data, dataset.directory.parents[1], None)
    assert again.corpus.fingerprint == dataset.corpus.fingerprint
    truth = json.loads((dataset.directory / "truth.json").read_text())
    assert truth["test_bayes_loss"] == pytest.approx(dataset.evaluations(-1)["gold"].bayes_loss)


def test_the_biased_label_follows_the_length_in_the_text(small) -> None:
    _, dataset = small
    tokens = np.array([[len(r.split()) for r in c.responses] for c in dataset.corpus])
    longer = np.sign(tokens[:, 0] - tokens[:, 1])
    biased, gold = dataset.level("biased", 0).orientation, dataset.level("gold", 0).orientation
    changed = biased != gold
    assert (biased[changed] == longer[changed]).all()
    assert changed.mean() == pytest.approx(0.15, abs=0.03)  # half of bias_rate, less ties


@pytest.mark.slow
def test_runs_find_the_law(tmp_path) -> None:
    """alpha, E and DER as in truth.json; a floor where labels are biased; another exponent in D with flips."""
    config, dataset = prepared(
        tmp_path,
        sweep__levels="raw,biased,weakly_corrected,gold",
        sweep__models="vocab16,vocab64,vocab256",
        sweep__pairs="2000,16000",
        sweep__draws="4",
        also__levels="deterministic,deterministic+flip0.2",
        also__pairs="500,8000",
        also__draws="4",
    )
    found = run(config, dataset, tmp_path)
    truth = json.loads((dataset.directory / "truth.json").read_text())
    bayes = truth["test_bayes_loss"]

    def excess(level: str, words: int, pairs: int) -> float:
        limit = truth["levels"][level][str(words)]["test_loss"]
        return found[level, f"vocab{words}", pairs]["gold"] - limit

    words = np.array([16, 64, 256])
    above = [found["gold", f"vocab{n}", 16_000]["gold"] - bayes - 8 / 16_000 for n in words]
    assert -np.polyfit(np.log(words), np.log(above), 1)[0] == pytest.approx(1, abs=0.08)
    ratio = excess("raw", 256, 2000) / excess("gold", 256, 2000)
    assert ratio == pytest.approx(truth["raw_per_gold"]["256"], rel=0.4)
    assert excess("weakly_corrected", 256, 2000) > 1.5 * excess("raw", 256, 2000)  # quantity wins
    assert abs(excess("biased", 256, 16_000)) < 0.01
    assert found["biased", "vocab256", 16_000]["gold"] > found["gold", "vocab256", 2000]["gold"] + 0.03

    def slope(level: str) -> float:
        few, many = (found[level, "vocab512", n]["sign"] for n in (500, 8000))
        return np.log(few / many) / np.log(16)

    assert slope("deterministic") == pytest.approx(1, abs=0.2)
    assert slope("deterministic+flip0.2") == pytest.approx(0.5, abs=0.15)
