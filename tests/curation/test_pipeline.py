"""The whole pipeline on a small planted world: what it keeps, what it never does; stopped anywhere, it goes on."""

import dataclasses
import hashlib
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from rewardscale.config import ConfigError
from rewardscale.config.curation import CurationConfig, PeopleConfig
from rewardscale.curation import inputs as inputs_
from rewardscale.curation import pipeline
from rewardscale.curation.known import held_out, known
from rewardscale.curation.plan import plan, plan_text
from rewardscale.data.comparison import DataError
from rewardscale.data.ledger.ledger import Ledger
from rewardscale.data.ledger.log import payloads
from rewardscale.data.levels import level_names, read_level
from rewardscale.sweeps import configfile

TINY, _ = configfile.load("curate.py:tiny", kind=CurationConfig)
REPO = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("curation")
    pipeline.run(TINY, workdir)
    return workdir


@pytest.fixture(scope="module")
def report(finished: Path) -> dict:
    return json.loads((finished / "report.json").read_text())


def levels(workdir: Path) -> dict[str, str]:
    return {
        name: read_level(workdir / "levels" / name).fingerprint for name in level_names(workdir / "levels")
    }


def paid_calls(workdir: Path) -> dict[str, int]:
    """Answers that were paid for, by annotator; each at most once."""
    found = {}
    for path in sorted((workdir / "calls").glob("*.jsonl")):
        keys = [json.loads(line)["key"] for line in payloads(path)]
        assert max(Counter(keys).values(), default=1) == 1
        found[path.name] = len(keys)
    return found


def test_curated_labels_are_better_than_raw_and_than_every_placebo(report: dict) -> None:
    share = {level["name"]: level["truth"]["share"] for level in report["levels"]}
    assert share["raw"] < 0.8
    for placebo in ("shuffled_scores", "random_matched", "matched", "selection_only"):
        assert share[placebo] < share["raw"] + 0.06
        assert share["filtered"] > share[placebo] + 0.1
    assert share["filtered"] > share["corrected"] > share["raw"] + 0.1


def test_all_levels_and_snapshots_are_there(finished: Path, report: dict) -> None:
    kinds = ("filtered", "corrected", "no_humans")
    snapshots = [f"{name}@iter{i}" for name in kinds for i in range(TINY.iterations + 1)]
    assert set(level_names(finished / "levels")) == {*TINY.levels, *snapshots}
    size = {level["name"]: level["pairs"] for level in report["levels"]}
    assert size["filtered"] == size["shuffled_scores"] == size["random_matched"] == size["matched"]
    assert size["filtered"] < size["corrected"] <= size["raw"] == TINY.planted.train


def test_the_page_shows_each_level_step_and_bill(finished: Path, report: dict) -> None:
    page = (finished / "report.html").read_text()
    for level in report["levels"]:
        shown = f"<td>{level['name']}</td><td class=n>{level['pairs']:,}</td>"
        assert shown in page
        if level["held_out"]["n"]:
            assert f"{level['held_out']['share']:.3f} [{level['held_out']['low']:.3f}" in page
    assert page.count("<details><summary>Stage") == TINY.iterations + 2 == len(report["steps"])
    assert (
        page.count("<svg") == 2
        and "simulated" in page
        and "http" not in page.replace("http://www.w3.org", "")
    )
    drawn = pl.read_csv(finished / "figures" / "progress.csv")
    best = drawn.filter(pl.col("line") == "best, gold validation").sort("iteration")
    record = json.loads((finished / "models" / "best@iter1" / "record.json").read_text())
    assert best["share"][1] == pytest.approx(record["chosen"]["accuracy"])
    judges = {judge["name"]: judge for judge in report["judges"]}
    assert set(judges) == {"simulated-judge-large", "simulated-judge-small"}
    # Half of the small judge's votes that position or length decide contradict the others.
    assert (
        judges["simulated-judge-small"]["self_agreement"] < judges["simulated-judge-large"]["self_agreement"]
    )


def test_counts_add_up(finished: Path, report: dict) -> None:
    decisions = report["steps"]["stage-2"]["decisions"]
    assert decisions["kept"] + decisions["flipped"] + decisions["discarded"] == decisions["labelled"]
    verdicts = Ledger(finished / "ledger").read()
    judged = {line["who"]: line["verdicts"] for line in report["bill"]}
    assert sum(judged.values()) == len(verdicts.filter(pl.col("kind") != "source"))
    by_step = sum(line["verdicts"] for step in report["steps"].values() for line in step["bill"])
    assert by_step == sum(judged.values())
    filtered = next(level for level in report["levels"] if level["name"] == "filtered")
    money = sum(line["money"] for line in report["bill"])
    (people,) = (line for line in report["bill"] if line["who"] == "people")
    assert people["money"] == pytest.approx(people["minutes"] / 60 * 20.0) and people["minutes"] > 0
    assert filtered["cost"] == pytest.approx(money + TINY.planted.train * TINY.raw_price, rel=1e-4)


def test_gold_validation_is_neither_trained_on_nor_shown_nor_retrieved(finished: Path) -> None:
    inputs = inputs_.prepare(TINY, finished)
    validation, reserved = held_out(inputs, TINY)
    assert validation.any() and not (validation & ~reserved).any()
    ids = np.array(inputs.ids)
    hidden = set(ids[reserved])
    verdicts = Ledger(finished / "ledger").read()
    shown = set(verdicts["examples"].explode().drop_nulls().to_list())
    assert shown and not shown & hidden
    assert not set(read_level(finished / "levels" / "gold").rows.tolist()) & set(
        np.flatnonzero(reserved).tolist()
    )
    for number in range(1, TINY.iterations + 1):
        selected = pl.read_parquet(finished / "iterations" / f"{number:03d}" / "selected.parquet")
        assert (
            not reserved[selected["row"].to_numpy()].any() and not reserved[selected["gold"].to_numpy()].any()
        )
    state = known(inputs, TINY, verdicts)
    assert not (state.gold_training & reserved).any()
    assert not (state.silver_training(inputs.original, "flip") & reserved).any()


def test_no_pair_is_judged_in_two_iterations(finished: Path) -> None:
    verdicts = Ledger(finished / "ledger").read().filter(pl.col("annotator") == "simulated-judge-large")
    assert not verdicts["row"].is_duplicated().any()


def test_examples_are_gold_of_earlier_iterations_and_another_prompt(finished: Path) -> None:
    inputs = inputs_.prepare(TINY, finished)
    row = {identity: number for number, identity in enumerate(inputs.ids)}
    verdicts = Ledger(finished / "ledger").read()
    people = verdicts.filter(pl.col("annotator").str.starts_with("simulated-person"))
    first = dict(people.group_by("row").agg(pl.col("iteration").min()).iter_rows())
    asked = verdicts.filter(pl.col("examples").list.len() > 0)
    assert asked["examples"].list.len().max() == TINY.examples
    for pair, iteration, examples in asked.select("row", "iteration", "examples").iter_rows():
        for example in examples:
            assert first[row[example]] < iteration
            assert inputs.prompts[row[example]] != inputs.prompts[pair]


def test_without_people_no_verdict_of_a_person_is_used(finished: Path) -> None:
    alone = Ledger(finished / "no_humans" / "ledger").read()
    assert set(alone["annotator"].unique()) == {
        "source", "judges-for-people", "simulated-judge-large", "simulated-judge-small"
    }  # fmt: skip


def test_a_finished_run_is_not_paid_for_again(finished: Path) -> None:
    before, made = paid_calls(finished), levels(finished)
    pipeline.run(TINY, finished)
    assert paid_calls(finished) == before and levels(finished) == made


def test_another_config_in_the_same_folder_is_refused(finished: Path) -> None:
    with pytest.raises(DataError, match=r"another run \(differs in k_max\)"):
        pipeline.run(dataclasses.replace(TINY, k_max=4), finished)


def test_two_runs_at_once_are_refused(finished: Path) -> None:
    from rewardscale import atomic

    with atomic.locked(finished / "lock"), pytest.raises(DataError, match="another process works in"):
        pipeline.run(TINY, finished)


def test_a_plan_asks_nobody_and_its_calls_bound_what_is_paid(tmp_path: Path, finished: Path) -> None:
    lines = plan(TINY, tmp_path)
    assert not any(paid_calls(tmp_path).values())
    people = [line for line in lines if line.annotator == "simulated people"]
    done = known(inputs_.prepare(TINY, finished), TINY, Ledger(finished / "ledger").read())
    asked = int(((done.gold != 0) | done.discarded).sum())
    assert sum(line.questions for line in people) == pytest.approx(asked, rel=0.1)
    assert "at most" in plan_text(lines, TINY)
    assert plan(TINY, finished) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"validation": 1.0}, "validation=1.0"),
        ({"ask_below": 0.2}, "ask_below=0.2"),
        ({"source": "corpus"}, "name the folder of a finished corpus"),
        (
            {"source": "corpus", "corpus": "c", "people": PeopleConfig("page")},
            "simulated attributes say nothing",
        ),
        ({"judges": TINY.judges + TINY.judges[:1]}, "simulated-judge-large is there twice"),
        ({"levels": ("filterd",)}, "filterd"),
        ({"retrieval": "clever"}, "clever"),
    ],
)
def test_configs_that_make_no_sense_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(TINY, **change)


def digest(folder: Path) -> dict[str, str]:
    """Of every file that a rerun must reproduce."""
    kept = [
        p for part in ("levels", "iterations", "no_humans/iterations") for p in (folder / part).rglob("*")
    ]
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in kept if p.is_file()
    }


@pytest.mark.slow
@pytest.mark.parametrize("config", ["curate.py:tiny", "curate.py"])  # 600 pairs, 5,000 pairs
def test_killed_ten_times_it_ends_with_the_same_bytes_and_no_answer_paid_twice(
    tmp_path: Path, config: str
) -> None:
    def command(folder: str) -> list[str]:
        return [
            sys.executable,
            "-m",
            "rewardscale.curate",
            f"--config={config}",
            f"--workdir={tmp_path / folder}",
        ]

    def answers(folder: str) -> int:
        logs = (tmp_path / folder / "calls").glob("*.jsonl")
        return sum(log.read_bytes().count(b"\n") for log in logs)

    subprocess.run(command("whole"), cwd=REPO, check=True, capture_output=True)
    random, kills = np.random.default_rng(0), 0
    for enough in sorted(random.choice(answers("whole"), 10, replace=False).tolist()):
        process = subprocess.Popen(
            command("killed"), cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        enough = max(enough, answers("killed") + 1)  # each gets somewhere
        while answers("killed") < enough and process.poll() is None:
            time.sleep(0.005)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL if kills % 3 else signal.SIGINT)
            kills += 1
        process.wait()
    assert kills >= 8  # the last may find it done
    subprocess.run(command("killed"), cwd=REPO, check=True, capture_output=True)
    assert digest(tmp_path / "killed") == digest(tmp_path / "whole")
    assert paid_calls(tmp_path / "killed") == paid_calls(tmp_path / "whole")
