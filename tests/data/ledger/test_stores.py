"""Parts, logs and database are one ledger: all is seen, nothing twice, and export and import give the same back."""

import dataclasses
import datetime
import math
import multiprocessing
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardscale.data.comparison import DataError
from rewardscale.data.ledger import checks
from rewardscale.data.ledger.database import PeopleStore
from rewardscale.data.ledger.ledger import Ledger
from rewardscale.data.ledger.schema import KINDS, VERDICT_COLUMNS, Attributes, Verdict

NOON = datetime.datetime(2026, 1, 2, 12, 0, 0, 5, tzinfo=datetime.UTC)
PLAIN = Attributes(
    category="Math", objectivity="objective", controversiality="low", desired="right", guideline="check it"
)


def verdict(n: int, **changes) -> Verdict:
    values = {
        "row": n,
        "comparison": f"id{n}",
        "annotator": "ann",
        "kind": "person",
        "preferred": (1, -1, 0, None)[n % 4],
        "key": f"key{n}",
        "time": NOON,
        "examples": ("x", "y"),
        "reason": 'ü "\n',
    }
    return Verdict(**(values | changes))


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
counts = st.integers(0, 2**16 - 1)
good = st.builds(
    Verdict,
    row=st.integers(0, 2**32 - 1), comparison=texts, annotator=texts, kind=st.sampled_from(KINDS),
    preferred=st.sampled_from([-1, 0, 1]), round=counts, iteration=st.none() | counts,
    confidence=st.none() | st.floats(0, 1, width=32), votes_first=counts, votes_failed=counts, key=texts,
    cost=st.floats(0, 1e6, width=32), seconds=st.floats(0, 1e6, width=32), tokens_in=st.integers(0, 2**32 - 1),
    time=st.none() | st.datetimes(datetime.datetime(1970, 1, 1), timezones=st.timezones()),
    reason=texts, examples=st.lists(texts, max_size=3).map(tuple),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(good, max_size=4))
def test_json_and_table_say_the_same(verdicts):
    frame = checks.to_frame(verdicts)
    assert frame.schema == VERDICT_COLUMNS
    assert checks.checked(frame).equals(frame)
    assert checks.from_json([checks.to_json(v) for v in verdicts]).equals(frame)
    assert checks.to_frame(checks.to_verdicts(frame)).equals(frame)


WRONG = {
    "kind": "parrot", "preferred": 2, "confidence": 1.5, "cost": math.inf, "seconds": -1.0, "row": 2**32,
    "round": -1, "tokens_out": 2**40, "votes_tie": 0.5, "iteration": 2**16, "key": None,
    "time": NOON.replace(tzinfo=None),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_one_bad_verdict_is_refused_everywhere(tmp_path, name):
    bad = verdict(1, **{name: WRONG[name]})
    ledger = Ledger(tmp_path)
    with ledger.log("w") as log, ledger.database() as store:
        for add in (log.add, store.add, lambda v: ledger.append([v])):
            with pytest.raises(DataError, match=name):
                add(bad)
    with pytest.raises(DataError, match=r"kind 'source'|for a source"):
        ledger.append([verdict(1, kind="source", preferred=None)])
    assert ledger.read().is_empty()


def filled(folder: Path) -> Ledger:
    ledger = Ledger(folder)
    assert ledger.append([verdict(0), verdict(1), verdict(2, key=""), verdict(2, key="")]) == 4
    with ledger.log("b") as log:
        log.add(verdict(4, kind="llm_judge", annotator="judge", iteration=2))
        log.add(verdict(1, preferred=0))  # known: the part's counts
    with ledger.log("a") as log:
        log.add(verdict(3, iteration=2))
    with ledger.database() as store:
        assert store.add(verdict(5)) and not store.add(verdict(5, preferred=0))
        assert store.add(verdict(4))
    return ledger


def test_one_reader_sees_all(tmp_path):
    ledger = filled(tmp_path)
    read = ledger.read()
    assert read["row"].to_list() == [0, 1, 2, 2, 3, 4, 5]
    assert read["kind"].to_list()[-2] == "llm_judge" and read["preferred"].to_list()[1] == -1
    assert ledger.read(kind="llm_judge")["row"].to_list() == [4]
    assert ledger.read(iteration=2)["row"].to_list() == [3, 4]
    assert ledger.read(kind="person", iteration=2)["row"].to_list() == [3]
    assert ledger.keys() == {f"key{n}" for n in (0, 1, 3, 4, 5)}
    stores = ledger.counts().select("store", "verdicts").rows()
    assert stores == [("part", 4), ("log", 1), ("log", 2), ("database", 2)]
    assert ledger.append([verdict(5), verdict(6), verdict(6)]) == 1  # once each, wherever it is
    assert ledger.append(ledger.read().filter(pl.col("key") != "")) == 0
    assert len(list(tmp_path.glob("part-*"))) == 2


def test_reading_writes_nothing(tmp_path):
    ledger = Ledger(tmp_path / "ledger")
    assert ledger.read().is_empty() and not ledger.keys() and ledger.counts().is_empty()
    assert ledger.attributes().is_empty() and not (tmp_path / "ledger").exists()


def test_export_and_import_give_the_same_back(tmp_path):
    ledger = filled(tmp_path / "one")
    ledger.add_attributes(1, "id1", PLAIN)
    ledger.add_attributes(1, "id1", dataclasses.replace(PLAIN, author="ann"))
    assert ledger.export(tmp_path / "all.parquet") == 7
    other = Ledger(tmp_path / "two")
    assert other.import_(tmp_path / "all.parquet") == 7
    assert other.read().equals(ledger.read())
    assert other.attributes(history=True).equals(ledger.attributes(history=True))
    for again in (other, ledger):
        assert again.import_(tmp_path / "all.parquet") == 0
        assert again.read().equals(ledger.read())
        assert len(again.attributes(history=True)) == 2


def test_edits_are_history_and_people_come_last(tmp_path):
    ledger = Ledger(tmp_path)
    by_judge = dataclasses.replace(PLAIN, author="judge", guideline="first thought")
    by_ann = dataclasses.replace(PLAIN, author="ann")
    assert ledger.add_attributes(7, "id7", by_ann)
    assert not ledger.add_attributes(7, "id7", by_ann)
    with ledger.log("judge") as log:
        log.add_attributes(7, "id7", by_judge)
        log.add_attributes(8, "id8", by_judge)
        with pytest.raises(DataError, match="category is 'Maths'"):
            log.add_attributes(8, "id8", dataclasses.replace(PLAIN, category="Maths"))
    assert ledger.attributes_by_row() == {7: by_ann, 8: by_judge}
    assert ledger.add_attributes(7, "id7", by_judge)  # somebody takes the edit back
    assert ledger.attributes_by_row()[7] == by_judge
    assert ledger.attributes(history=True)["author"].to_list() == ["judge", "ann", "judge", "judge"]
    assert ledger.attributes()["row"].to_list() == [7, 8]


def test_the_database_knows_its_corpus(tmp_path):
    with PeopleStore(tmp_path / "people.sqlite") as store:
        store.add(verdict(1))
        with pytest.raises(
            DataError, match="row 1 as comparison id1, not other: it belongs to another corpus"
        ):
            store.add(verdict(1, comparison="other", key="k"))
        with pytest.raises(DataError, match="needs a `key`"):
            store.add(verdict(2, key=""))
        with pytest.raises(KeyError), store.transaction():
            store.add(verdict(3))
            raise KeyError
        assert store.keys() == {"key1"}
    (tmp_path / "junk.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(DataError, match=r"junk\.sqlite cannot be opened"):
        PeopleStore(tmp_path / "junk.sqlite")


def test_threads_share_a_store(tmp_path):
    with PeopleStore(tmp_path / "people.sqlite") as store:
        work = [threading.Thread(target=lambda: [store.add(verdict(n)) for n in range(30)]) for _ in range(4)]
        for thread in work:
            thread.start()
        for thread in work:
            thread.join()
        assert store.read()["row"].to_list() == list(range(30))


WRITER = """
import sys
from pathlib import Path
from rewardscale.data.ledger.ledger import Ledger
from rewardscale.data.ledger.schema import Verdict
name = sys.argv[2]
ledger = Ledger(Path(sys.argv[1]))
seen = len(ledger.keys())
with ledger.database() as store, ledger.log(name) as log:
    for n in range(10**6):
        for prefix, add in (("d", store.add), ("l", log.add)):
            key = f"{prefix}-{name}-{seen + n}"
            add(Verdict(row=n, comparison=f"id{n}", annotator=name, kind="person", preferred=1, key=key))
            print(key, flush=True)
"""


def test_killed_writers_lose_nothing_and_readers_never_stop(tmp_path):
    acknowledged: list[str] = []
    for _ in range(2):
        commands = [[sys.executable, "-c", WRITER, str(tmp_path), name] for name in ("a", "b")]
        writers = [subprocess.Popen(c, stdout=subprocess.PIPE, text=True) for c in commands]
        first = [writer.stdout.readline() if writer.stdout else "" for writer in writers]
        until = time.monotonic() + 0.4
        sizes = [0]
        while time.monotonic() < until:
            read = Ledger(tmp_path).read()
            assert read["key"].is_unique().all()
            sizes.append(len(read))
        assert sizes == sorted(sizes)
        for writer, line in zip(writers, first, strict=True):
            writer.send_signal(signal.SIGKILL)
            assert writer.stdout is not None
            acknowledged += [key for key in (line + writer.stdout.read()).split("\n")[:-1] if key]
            writer.wait()
    assert set(acknowledged) <= Ledger(tmp_path).keys() and len(acknowledged) > 20


def _append(folder: str, name: str) -> None:
    for n in range(10):
        Ledger(Path(folder)).append([verdict(n, key=f"{name}{n}")])


def test_two_processes_append_parts(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    work = [spawn.Process(target=_append, args=(str(tmp_path), name)) for name in "ab"]
    for process in work:
        process.start()
    for process in work:
        process.join()
    assert len(Ledger(tmp_path).read()) == 20
