"""The pipeline with the annotation page: it waits, goes on with what people said, and repeats nothing meanwhile."""

import dataclasses
import itertools
from pathlib import Path

import polars as pl
import pytest

from rewardscale.config.curation import CurationConfig, PeopleConfig
from rewardscale.curate import main
from rewardscale.curation import inputs as inputs_
from rewardscale.curation import pipeline
from rewardscale.curation.annotators.people import backend, rounds, store
from rewardscale.curation.workbench import Waiting
from rewardscale.data.ledger.ledger import Ledger
from rewardscale.data.levels import read_level
from rewardscale.sweeps import configfile
from tests.curation.test_pipeline import paid_calls

TINY, _ = configfile.load("curate.py:tiny", kind=CurationConfig)
CONFIG = dataclasses.replace(
    TINY,
    planted=dataclasses.replace(TINY.planted, train=80, validation=10, test=20),
    people=PeopleConfig(kind="page", overlap=2, shared=0.3),
    seed_pairs=40,
    seed_people=10,
    iterations=1,
    selected=15,
    people_per_iteration=5,
)


def judge_all(workdir: Path, people: tuple[str, ...], *, at_most: int = 10**9) -> int:
    """Everybody judges what the page gives them, by the truth; in turn. Returns how many verdicts that were."""
    truth = inputs_.prepare(CONFIG, workdir).truth
    assert truth is not None
    given, idle = 0, 0
    with backend.open_database(workdir / "ledger") as database:
        for name in itertools.cycle(people):
            assignment = store.current(database, name)
            if assignment is None or given == at_most:
                idle += 1
                if idle == len(people):
                    return given
                continue
            answer = store.Answer(int(truth[assignment.row]), 0.9, "", 30.0)
            assert store.submit(
                database, name, assignment.id, answer, write=f"{name}{assignment.id}", revision=0
            )
            given, idle = given + 1, 0
    return given


def test_it_waits_for_people_and_goes_on(tmp_path: Path) -> None:
    with pytest.raises(Waiting, match=r"iteration 0: people have judged 0 of \d+ pairs"):
        pipeline.run(CONFIG, tmp_path)
    paid = paid_calls(tmp_path)
    assert any(paid.values())
    for name in ("ann", "ben"):
        backend.invite(tmp_path / "ledger", name)
    judged = judge_all(tmp_path, ("ann", "ben"), at_most=3)
    with pytest.raises(Waiting, match="3 of"):
        pipeline.run(CONFIG, tmp_path)
    with backend.open_database(tmp_path / "ledger") as database:  # somebody edits a guideline meanwhile
        assignment = store.current(database, "ann")
        assert assignment is not None
        with database.transaction() as connection:
            found = rounds.latest_attributes(connection, assignment.row)
        assert found is not None
        revision, attributes = found
        changed = dataclasses.replace(attributes, category="Math", guideline="count twice", author="ann")
        assert store.edit_attributes(database, assignment, changed, revision=revision)
    with pytest.raises(Waiting):
        pipeline.run(CONFIG, tmp_path)
    assert paid_calls(tmp_path) == paid  # waiting asks no judge again
    judged += judge_all(tmp_path, ("ann", "ben"))
    with pytest.raises(Waiting, match="iteration 1: people have judged 0 of 5 pairs"):
        pipeline.run(CONFIG, tmp_path)
    judged += judge_all(tmp_path, ("ann", "ben"))
    report = pipeline.run(CONFIG, tmp_path)

    verdicts = Ledger(tmp_path / "ledger").read().filter(pl.col("kind") == "person")
    assert len(verdicts) == judged == verdicts["key"].n_unique()
    assert set(verdicts["annotator"]) == {"ann", "ben"}
    assert Ledger(tmp_path / "ledger").attributes_by_row()[assignment.row].guideline == "count twice"
    gold = read_level(tmp_path / "levels" / "gold")
    truth = inputs_.prepare(CONFIG, tmp_path).truth
    assert truth is not None and len(gold.rows) and (truth[gold.rows] == gold.orientation).all()
    (line,) = [line for line in report["bill"] if line["who"] == "people"]
    assert line["verdicts"] == judged and line["annotators"] == 2 and line["minutes"] > 0
    assert pipeline.run(CONFIG, tmp_path)["levels"] == report["levels"]


def test_the_command_says_where_people_judge_and_who_does(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    flags = [f"--workdir={tmp_path}", "--config=curate.py:tiny", "--config.people.kind=page"]
    assert main(["run", *flags]) == 3
    said = capsys.readouterr().out
    served = "people --serve --config=curate.py:tiny --config.people.kind=page --workdir="
    assert "people have judged 0 of" in said and f"{served}{tmp_path} starts" in said
    assert main(["people", *flags, "--invite=ann", "--port=8123"]) == 0
    assert "http://127.0.0.1:8123/" in capsys.readouterr().out
    assert main(["people", *flags]) == 0
    said = capsys.readouterr().out
    assert "round 0: 0 of" in said and "annotator ann" in said
    assert main(["people", *flags, "--revoke=ann"]) == 0
    assert main(["people", *flags, "--close=0"]) == 0
    capsys.readouterr()
    assert main(["run", *flags]) == 2  # nobody judged anything: there is no gold to go on with
    assert "seed_people" in capsys.readouterr().err
    assert main(["people", f"--workdir={tmp_path}", "--config=curate.py:tiny"]) == 2
    assert "people.kind is 'simulated'" in capsys.readouterr().err
