"""Queues, overlap, blind order, changes and settling, on a real database file."""

import dataclasses
import os
import random
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rewardscale.curation.annotators.backend import make_tasks, priority
from rewardscale.curation.annotators.base import Question
from rewardscale.curation.annotators.people import access, rounds, statistics, store
from rewardscale.curation.annotators.people.backend import PageBackend, open_database
from rewardscale.curation.annotators.people.store import Answer, Refused
from rewardscale.data.comparison import DataError
from rewardscale.data.ledger.ledger import Ledger
from tests.people_small import ATTRIBUTES, task

FIRST = Answer(preferred=1, confidence=0.85)


@pytest.fixture
def database(tmp_path: Path):
    with open_database(tmp_path / "ledger") as opened:
        for name in ("ann", "ben", "cai"):
            access.create(opened, name)
        yield opened


def test_priority_puts_objective_and_uncontroversial_first_then_what_is_informative():
    subjective = dataclasses.replace(ATTRIBUTES, objectivity="subjective")
    heated = dataclasses.replace(ATTRIBUTES, controversiality="high")
    ranked = [
        priority(ATTRIBUTES, 0.9),
        priority(ATTRIBUTES, 0.1),
        priority(heated, 1.0),
        priority(subjective, 0.5),
    ]
    assert ranked == sorted(ranked, reverse=True)
    assert priority(None, 0.5) < min(ranked)


def test_tasks_share_about_the_share_asked_for_whatever_their_order():
    questions = [(task(row).question, 0.5) for row in range(400)]
    tasks = make_tasks(questions, overlap=3, shared=0.25)
    shared = {t.question.row for t in tasks if t.overlap == 3}
    assert 60 < len(shared) < 140
    again = make_tasks(questions[::-1], overlap=3, shared=0.25)
    assert {t.question.row for t in again if t.overlap == 3} == shared


def test_a_queue_goes_by_priority_and_a_pair_stays_until_it_is_judged(database):
    rounds.push(database, 0, [task(1, priority=1), task(2, priority=5), task(3, priority=3)])
    seen = []
    while (given := store.current(database, "ann")) is not None:
        assert store.current(database, "ann") == given  # a reload
        seen.append(given.row)
        store.submit(database, "ann", given.id, FIRST, write=f"write-{given.id}", revision=0)
    assert seen == [2, 3, 1]


@given(overlaps=st.lists(st.integers(1, 3), min_size=1, max_size=6), seed=st.integers(0, 2**32))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_everybody_together_judge_each_pair_as_often_as_asked(tmp_path_factory, overlaps, seed):
    order = random.Random(seed)
    with open_database(tmp_path_factory.mktemp("ledger")) as database:
        rounds.push(database, 0, [task(row, overlap=n) for row, n in enumerate(overlaps)])
        working = ["ann", "ben", "cai"]
        given = []
        while working:
            name = order.choice(working)
            pair = store.current(database, name)
            if pair is None:
                working.remove(name)
                continue
            if order.random() < 0.3:
                continue  # looks, and comes back later
            store.submit(database, name, pair.id, FIRST, write=f"write-{pair.id}", revision=0)
            given.append((pair.row, name))
        for name in ("ann", "ben", "cai"):  # what had been held for somebody who came back
            while pair := store.current(database, name):
                store.submit(database, name, pair.id, FIRST, write=f"write-{pair.id}", revision=0)
                given.append((pair.row, name))
        assert len(set(given)) == len(given)
        assert [sum(row == r for r, _ in given) for row in range(len(overlaps))] == overlaps
        assert rounds.status(database, 0).done


def test_a_pair_that_was_left_goes_to_somebody_else_and_is_not_asked_twice(database):
    rounds.push(database, 0, [task(1)])
    left = store.current(database, "ann", now=0.0)
    assert left is not None
    assert store.current(database, "ben", now=60.0) is None
    taken = store.current(database, "ben", now=store.HOLD_SECONDS + 1)
    assert taken is not None
    store.submit(database, "ben", taken.id, FIRST, write="write-b", revision=0)
    assert store.current(database, "ann", now=2 * store.HOLD_SECONDS) is None
    # One who answers late all the same is heard.
    assert store.submit(database, "ann", left.id, FIRST, write="write-a", revision=0)
    assert rounds.status(database, 0).given == 2


def test_the_order_shown_is_a_persons_own_and_the_verdict_is_in_the_corpus_order(database):
    rounds.push(database, 0, [task(row, overlap=2) for row in range(40)])
    orders = {}
    for name in ("ann", "ben"):
        orders[name] = []
        while pair := store.current(database, name):
            orders[name].append(pair.swapped)
            store.submit(database, name, pair.id, FIRST, write=f"write-{pair.id}", revision=0)
    assert orders["ann"] != orders["ben"]
    assert 8 < sum(orders["ann"]) < 32 and 8 < sum(orders["ben"]) < 32
    counts = {c.name: c for c in statistics.per_person(database)}
    assert counts["ann"].first_shown == orders["ann"].count(False) / 40


def test_an_answer_is_written_once_changed_at_will_and_settled_once(database, tmp_path: Path):
    rounds.push(database, 3, [task(7)])
    pair = store.current(database, "ann")
    assert pair is not None

    def submit(answer: Answer, write: str, revision: int) -> bool:
        return store.submit(database, "ann", pair.id, answer, write=write, revision=revision, now=pair_time)

    pair_time = 1e9
    assert submit(FIRST, "write-1", 0)
    assert not submit(FIRST, "write-1", 0)  # a double click, or a request sent again
    assert not submit(FIRST, "write-2", 0)  # the same from another tab
    second = dataclasses.replace(FIRST, preferred=-1, reason="sum is wrong")
    with pytest.raises(Refused, match="another tab"):
        submit(second, "write-3", 0)
    known = store.find(database, "ann", pair.id)
    assert known is not None
    assert submit(second, "write-4", known.revision)
    assert not submit(FIRST, "write-1", known.revision)  # the first request, late: known
    assert rounds.settle(database, now=pair_time + rounds.SETTLE_SECONDS - 1) == 0
    assert rounds.settle(database, now=pair_time + rounds.SETTLE_SECONDS + 1) == 1
    assert rounds.settle(database, now=pair_time + 1e6) == 0
    with pytest.raises(Refused, match="in use"):
        submit(FIRST, "write-5", known.revision)
    [verdict] = rounds.verdicts(database, 3)
    assert (verdict.row, verdict.annotator, verdict.preferred, verdict.reason) == (
        7,
        "ann",
        -1,
        "sum is wrong",
    )
    assert (verdict.kind, verdict.iteration, verdict.confidence) == ("person", 3, pytest.approx(0.85))
    frame = Ledger(tmp_path / "ledger").read(kind="person")
    assert frame["preferred"].to_list() == [-1]


def test_closing_a_round_settles_it_and_hands_out_nothing_more(tmp_path: Path):
    with PageBackend(tmp_path) as page:
        assert page.push_tasks(0, [task(1), task(2)]) == 2
        assert page.push_tasks(0, [task(1), task(2)]) == 0
        database = page._database
        pair = store.current(database, "ann")
        assert pair is not None
        store.submit(
            database, "ann", pair.id, dataclasses.replace(FIRST, preferred=None), write="w" * 8, revision=0
        )
        assert page.pull_verdicts(0) == [] and not page.status(0).done
        page.close(0)
        assert [v.preferred for v in page.pull_verdicts(0)] == [None]
        assert page.pull_verdicts(0) == page.pull_verdicts(0)
        assert store.current(database, "ann") is None
        status = page.status(0)
        assert (status.tasks, status.given, status.skipped, status.settled, status.done) == (2, 1, 1, 1, True)
        with pytest.raises(DataError, match="closed"):
            page.push_tasks(0, [task(3)])
        with pytest.raises(DataError, match="another corpus"):
            page.push_tasks(1, [task(1, responses=("other", "texts"))])


def test_two_at_once_never_take_the_last_place_together(tmp_path: Path):
    with open_database(tmp_path) as first, open_database(tmp_path) as second:
        rounds.push(first, 0, [task(row) for row in range(20)])
        taken: list[int] = []

        def work(database, name: str) -> None:
            while pair := store.current(database, name):
                store.submit(database, name, pair.id, FIRST, write=f"write-{pair.id}", revision=0)
                taken.append(pair.row)

        threads = [
            threading.Thread(target=work, args=(d, n)) for d, n in ((first, "a"), (second, "b"), (first, "c"))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(taken) == list(range(20))


@pytest.mark.parametrize(
    "answer",
    [
        Answer(2, 0.5), Answer(1, None), Answer(1, 1.5), Answer(1, 0.5, "x" * (store.MOST_REASON + 1)),
        Answer(1, float("nan")),
    ],
)  # fmt: skip
def test_what_is_no_answer_is_refused_with_a_sentence(database, answer):
    rounds.push(database, 0, [task(1)])
    pair = store.current(database, "ann")
    assert pair is not None
    with pytest.raises(Refused, match=r"\w+.*\.$"):
        store.submit(database, "ann", pair.id, answer, write="write-12", revision=0)
    assert rounds.status(database, 0).given == 0


def test_time_is_never_more_than_passed(database):
    rounds.push(database, 0, [task(1)])
    pair = store.current(database, "ann", now=100.0)
    assert pair is not None
    answer = dataclasses.replace(FIRST, seconds=1e6)
    store.submit(database, "ann", pair.id, answer, write="write-12", revision=0, now=130.0)
    assert rounds.status(database, 0).seconds == 30.0


def test_back_goes_through_what_was_judged_in_order(database):
    rounds.push(database, 0, [task(row, priority=-row) for row in range(4)])
    for _ in range(3):
        pair = store.current(database, "ann")
        assert pair is not None
        store.submit(database, "ann", pair.id, FIRST, write=f"write-{pair.id}", revision=0)
    here = store.current(database, "ann")
    rows = []
    while here and (here := store.before(database, "ann", here.id)):
        rows.append(here.row)
    assert rows == [2, 1, 0]
    assert [a.row for a in store.history(database, "ann")] == rows
    assert store.find(database, "ben", store.history(database, "ann")[0].id) is None


def test_edits_of_attributes_are_history_and_never_overwrite_unseen(database, tmp_path: Path):
    rounds.push(database, 0, [task(1, overlap=2), task(2, described=False)])
    pair = store.current(database, "ann")
    assert pair is not None and pair.row == 1
    with database.transaction() as connection:
        seen = rounds.latest_attributes(connection, 1)
    assert seen is not None and seen[1] == ATTRIBUTES
    mine = dataclasses.replace(ATTRIBUTES, guideline="Check twice.", author="ann")
    assert store.edit_attributes(database, pair, mine, revision=seen[0])
    assert not store.edit_attributes(database, pair, mine, revision=seen[0])
    other = dataclasses.replace(ATTRIBUTES, guideline="Check thrice.", author="ben")
    with pytest.raises(Refused, match="ann has edited"):
        store.edit_attributes(database, pair, other, revision=seen[0])
    with pytest.raises(Refused, match="category"):
        store.edit_attributes(
            database, pair, dataclasses.replace(mine, category="Cooking"), revision=seen[0] + 1
        )
    history = Ledger(tmp_path / "ledger").attributes(history=True)
    assert history["author"].to_list() == ["judge-a", "ann"]


def test_agreement_by_hand(database):
    # first/second/tie of ann and ben on six pairs: 3 the same; chance (3*2 + 2*3 + 1*1) / 36.
    said = [(1, 1), (1, 1), (1, -1), (-1, -1), (-1, 0), (0, -1)]
    same, chance = 3 / 6, (3 * 2 + 2 * 3 + 1 * 1) / 36
    rounds.push(database, 0, [task(row, overlap=2) for row in range(7)])
    for place, name in enumerate(("ann", "ben")):
        while pair := store.current(database, name):
            preferred = said[pair.row][place] if pair.row < 6 else (None, 1)[place]
            answer = Answer(preferred, 0.5, reason=f"{name} on {pair.row}")
            store.submit(database, name, pair.id, answer, write=f"write-{pair.id}", revision=0)
    [agreement] = statistics.agreements(database)
    assert (agreement.one, agreement.other, agreement.pairs) == ("ann", "ben", 6)
    assert agreement.same == same and agreement.kappa == pytest.approx((same - chance) / (1 - chance))
    assert {d.row for d in statistics.disagreements(database)} == {2, 4, 5}


def test_files_are_their_owners_alone_and_tokens_are_stored_as_hashes(tmp_path: Path):
    before = os.umask(0)
    try:
        with open_database(tmp_path / "ledger") as database:
            token = access.create(database, "ann")
            session = access.log_in(database, token)
            assert session is not None
            files = list((tmp_path / "ledger").glob("people.sqlite*"))
            assert len(files) >= 2
            for path in files:
                if path.suffix != ".lock":
                    assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
                assert token.encode() not in path.read_bytes()
                assert session.encode() not in path.read_bytes()
    finally:
        os.umask(before)


def test_a_new_token_ends_the_old_one_and_revoking_ends_the_session(database):
    old = access.create(database, "dan")
    session = access.log_in(database, old)
    assert session and access.person(database, session)
    new = access.create(database, "dan")
    assert access.person(database, session) is None and access.log_in(database, old) is None
    session = access.log_in(database, new)
    access.revoke(database, "dan")
    assert access.person(database, session) is None and access.log_in(database, new) is None
    with pytest.raises(DataError, match="role"):
        access.create(database, "dan", "lead")
    with pytest.raises(DataError, match="nobody"):
        access.revoke(database, "eve")
    for bad in ("", "a b", "../x", "<b>", "x" * 65):
        with pytest.raises(DataError, match="name"):
            access.create(database, bad)


def test_people_judge_two_responses():
    three = dataclasses.replace(task(1).question.comparison, responses=("a", "b", "c"))
    with pytest.raises(DataError, match="two responses"):
        dataclasses.replace(task(1), question=Question(1, three))
