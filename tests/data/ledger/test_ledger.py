"""The ledger takes whole, valid verdicts only."""

import polars as pl
import pytest

from rewardscale.data.comparison import DataError
from rewardscale.data.ledger.ledger import Ledger
from rewardscale.data.ledger.schema import CORE_COLUMNS, VERDICT_COLUMNS


def verdicts(n: int = 3, **columns) -> pl.DataFrame:
    values = {
        "row": range(n),
        "comparison": [f"id{i}" for i in range(n)],
        "annotator": "worker-17",
        "kind": "person",
        "round": 0,
        "preferred": [1, -1, 0][:n],
        "confidence": [0.5, None, 1.0][:n],
        "cost": 1.0,
    } | columns
    return pl.DataFrame(values)


def test_what_is_appended_is_read_in_order(tmp_path):
    ledger = Ledger(tmp_path / "ledger")
    assert ledger.read().is_empty() and ledger.read().schema == VERDICT_COLUMNS
    first, second = verdicts(), verdicts(annotator="worker-3", kind="llm_judge")
    ledger.append(first)
    ledger.append(second.select(reversed(second.columns)).with_columns(extra=pl.lit(1)))
    read = Ledger(tmp_path / "ledger").read()
    assert read.schema == VERDICT_COLUMNS
    core = list(CORE_COLUMNS)
    assert read.select(core).rows() == [*first.select(core).rows(), *second.select(core).rows()]
    assert read.drop(core).unique().rows() == [(None, 0, 0, 0, 0, "", "", "", 0, 0, 0.0, None, "", [])]


def test_who_could_not_say_prefers_nothing(tmp_path):
    Ledger(tmp_path).append(verdicts(preferred=[1, None, -1]))
    assert Ledger(tmp_path).read()["preferred"].to_list() == [1, None, -1]


def test_parts_of_old_are_read_with_the_defaults(tmp_path):
    verdicts().cast(CORE_COLUMNS).write_parquet(tmp_path / "part-000000.parquet")
    Ledger(tmp_path).append(verdicts(model="m", examples=[["a"], [], ["b", "c"]]))
    read = Ledger(tmp_path).read()
    assert read.schema == VERDICT_COLUMNS
    assert read["model"].to_list() == ["", "", "", "m", "m", "m"]
    assert read["examples"].to_list() == [[], [], [], ["a"], [], ["b", "c"]]


BAD = {
    "a missing column": (verdicts().drop("cost", "kind"), r"lack the columns \['kind', 'cost'\]"),
    "an unknown kind": (verdicts(kind=["person", "parrot", "person"]), r"'parrot'.*use one of.*'person'"),
    "no kind": (verdicts(kind=["person", None, "person"]), "'kind'"),
    "preferred 2": (verdicts(preferred=[1, 2, -1]), "preferred"),
    "no preference": (verdicts(preferred=[1, None, -1], kind="source"), "'preferred'"),
    "preferences as floats": (verdicts(preferred=[1.0, 0.9, -1.0]), "`preferred` must hold integers"),
    "text for numbers": (verdicts(row=["a", "b", "c"]), "`row` must hold integers"),
    "a negative row": (verdicts(row=[-1, 0, 1]), "types"),
    "no comparison": (verdicts(comparison=["a", None, "c"]), "'comparison'"),
    "confidence above 1": (verdicts(confidence=[0.1, 1.2, None]), "confidence"),
    "confidence NaN": (verdicts(confidence=[0.1, float("nan"), None]), "confidence"),
    "a negative cost": (verdicts(cost=[1.0, -1.0, 0.0]), "cost"),
    "an infinite cost": (verdicts(cost=float("inf")), "cost"),
    "negative seconds": (verdicts(seconds=-1.0), "seconds"),
    "examples in one text": (verdicts(examples="a,b"), "types"),
    "a price in words": (verdicts(cost="cheap"), "types"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_verdicts_are_refused_and_the_ledger_stays(tmp_path, case):
    ledger = Ledger(tmp_path)
    ledger.append(verdicts())
    frame, message = BAD[case]
    with pytest.raises(DataError, match=message):
        ledger.append(frame)
    assert len(ledger.read()) == 3 and len(list(tmp_path.iterdir())) == 1


def test_a_damaged_part_is_named(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.append(verdicts())
    (part,) = tmp_path.iterdir()
    part.write_bytes(part.read_bytes()[:-40])
    with pytest.raises(DataError, match=rf"{part.name}.*build the ledger again"):
        ledger.read()
