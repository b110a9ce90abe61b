"""Rounds of the page: tables, tasks pushed, answers that become verdicts, and how far it all is.

An answer may be changed by who gave it until it is *settled*, that is, until it becomes a verdict of the ledger in the
same file: SETTLE_SECONDS after it was given, or when its round is closed.
"""

import datetime
import hashlib
import sqlite3
import time
from collections.abc import Sequence

from rewardscale.curation.annotators.backend import RoundStatus, Task
from rewardscale.data.comparison import DataError
from rewardscale.data.ledger.checks import from_json
from rewardscale.data.ledger.database import PeopleStore
from rewardscale.data.ledger.schema import Attributes, Verdict

SETTLE_SECONDS = 600.0  # for so long an answer may be changed
PAGE = "page-1"  # what was shown and asked; rises when that changes
_TABLES = """
CREATE TABLE IF NOT EXISTS page_rounds (
    round INTEGER PRIMARY KEY,
    closed INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS page_tasks (
    id INTEGER PRIMARY KEY,
    round INTEGER NOT NULL REFERENCES page_rounds (round),
    row INTEGER NOT NULL,
    comparison TEXT NOT NULL,
    content BLOB NOT NULL,                  -- Comparison.to_bytes
    priority REAL NOT NULL,
    overlap INTEGER NOT NULL,
    given INTEGER NOT NULL DEFAULT 0,       -- assignments with an answer
    UNIQUE (round, row)
);
CREATE INDEX IF NOT EXISTS page_waiting ON page_tasks (priority DESC, id) WHERE given < overlap;
CREATE TABLE IF NOT EXISTS page_assignments (
    id TEXT PRIMARY KEY,                    -- random: it says nothing about the pair
    task INTEGER NOT NULL REFERENCES page_tasks (id),
    person TEXT NOT NULL,
    swapped INTEGER NOT NULL,               -- 1: the corpus's second response stands first
    shown REAL NOT NULL,                    -- when first
    held_until REAL NOT NULL,
    answer INTEGER REFERENCES page_answers (id),
    verdict TEXT REFERENCES verdicts (key), -- once it is settled
    UNIQUE (task, person)
);
CREATE INDEX IF NOT EXISTS page_assignments_open ON page_assignments (person, answer);
CREATE INDEX IF NOT EXISTS page_unsettled ON page_assignments (task) WHERE answer IS NOT NULL AND verdict IS NULL;
CREATE TABLE IF NOT EXISTS page_answers (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    write TEXT NOT NULL UNIQUE,
    assignment TEXT NOT NULL REFERENCES page_assignments (id),
    preferred INTEGER,                      -- in the corpus's order; NULL: cannot say
    confidence REAL,
    reason TEXT NOT NULL,
    seconds REAL NOT NULL,
    time REAL NOT NULL
);
"""


def open_tables(store: PeopleStore) -> PeopleStore:
    """The store with the tables of this module."""
    with store.transaction() as connection:
        for statement in _TABLES.split(";\n"):
            connection.execute(statement)
    return store


def push(store: PeopleStore, round: int, tasks: Sequence[Task]) -> int:
    """As AnnotationBackend.push_tasks. Raises DataError for a row of another corpus, or a closed round."""
    new = 0
    with store.transaction() as connection:
        connection.execute("INSERT OR IGNORE INTO page_rounds (round) VALUES (?)", (round,))
        if connection.execute("SELECT closed FROM page_rounds WHERE round = ?", (round,)).fetchone()[0]:
            raise DataError(f"round {round} is closed; push to a new one")
        for task in tasks:
            question = task.question
            comparison = question.comparison.id
            known = connection.execute(
                "SELECT comparison FROM page_tasks WHERE row = ? LIMIT 1", (question.row,)
            ).fetchone()
            if known and known[0] != comparison:
                raise DataError(f"row {question.row} is another pair in earlier tasks: another corpus")
            new += connection.execute(
                "INSERT INTO page_tasks (round, row, comparison, content, priority, overlap)"
                " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (round, row) DO NOTHING",
                (
                    round,
                    question.row,
                    comparison,
                    question.comparison.to_bytes(),
                    task.priority,
                    task.overlap,
                ),
            ).rowcount
            if question.attributes is not None and latest_attributes(connection, question.row) is None:
                store.add_attributes(question.row, comparison, question.attributes)
    return new


def settle(store: PeopleStore, now: float | None = None) -> int:
    """Makes verdicts of answers that are old enough or of closed rounds; returns how many. Repeating it is harmless."""
    now = time.time() if now is None else now
    with store.transaction() as connection:
        found = connection.execute(
            "SELECT a.id, a.person, t.round, t.row, t.comparison, w.preferred, w.confidence, w.reason, w.seconds,"
            " w.time FROM page_assignments a JOIN page_tasks t ON t.id = a.task JOIN page_rounds r USING (round)"
            " JOIN page_answers w ON w.id = a.answer"
            " WHERE a.answer IS NOT NULL AND a.verdict IS NULL AND (r.closed OR w.time < ?) ORDER BY w.id",
            (now - SETTLE_SECONDS,),
        ).fetchall()
        for name, who, round_, row, comparison, preferred, confidence, reason, seconds, at in found:
            (earlier,) = connection.execute("SELECT count(*) FROM verdicts WHERE row = ?", (row,)).fetchone()
            verdict = Verdict(
                row=row, comparison=comparison, annotator=who, kind="person", preferred=preferred, round=earlier,
                iteration=round_, confidence=confidence, seconds=seconds, reason=reason, prompt_version=PAGE,
                time=datetime.datetime.fromtimestamp(at, datetime.UTC), key=key(round_, comparison, who),
            )  # fmt: skip
            store.add(verdict)
            connection.execute("UPDATE page_assignments SET verdict = ? WHERE id = ?", (verdict.key, name))
    return len(found)


def key(round: int, comparison: str, person: str) -> str:
    """The key of a verdict: which round asked whom about which pair."""
    return hashlib.blake2b(f"{PAGE}|{round}|{comparison}|{person}".encode(), digest_size=16).hexdigest()


def verdicts(store: PeopleStore, round: int) -> list[Verdict]:
    """The settled verdicts of a round, oldest first."""
    with store.transaction() as connection:
        records = connection.execute(
            "SELECT v.record FROM verdicts v JOIN page_assignments a ON a.verdict = v.key"
            " JOIN page_tasks t ON t.id = a.task WHERE t.round = ? ORDER BY v.id",
            (round,),
        ).fetchall()
    frame = from_json([record.encode() for (record,) in records])
    return [Verdict(**{**r, "examples": tuple(r["examples"])}) for r in frame.iter_rows(named=True)]


def close(store: PeopleStore, round: int) -> None:
    """As AnnotationBackend.close. Raises DataError for a round that nobody pushed."""
    with store.transaction() as connection:
        if not connection.execute("UPDATE page_rounds SET closed = 1 WHERE round = ?", (round,)).rowcount:
            raise DataError(f"there is no round {round}")
        settle(store)


def status(store: PeopleStore, round: int) -> RoundStatus:
    """As AnnotationBackend.status."""
    with store.transaction() as connection:
        tasks, wanted, complete, closed = connection.execute(
            "SELECT count(*), ifnull(sum(overlap), 0), ifnull(sum(given >= overlap), 0), ifnull(max(r.closed), 0)"
            " FROM page_tasks JOIN page_rounds r USING (round) WHERE round = ?",
            (round,),
        ).fetchone()
        given, skipped, settled, seconds = connection.execute(
            "SELECT count(*), ifnull(sum(w.preferred IS NULL), 0), count(a.verdict), ifnull(sum(w.seconds), 0)"
            " FROM page_assignments a JOIN page_tasks t ON t.id = a.task JOIN page_answers w ON w.id = a.answer"
            " WHERE t.round = ?",
            (round,),
        ).fetchone()
    return RoundStatus(tasks, wanted, given, skipped, complete, settled, seconds, bool(closed))


def rounds(store: PeopleStore) -> list[int]:
    """The rounds there are."""
    with store.transaction() as connection:
        return [number for (number,) in connection.execute("SELECT round FROM page_rounds ORDER BY round")]


def latest_attributes(connection: sqlite3.Connection, row: int) -> tuple[int, Attributes] | None:
    """(number of the edit, attributes) of a pair; None where nobody wrote any."""
    found = connection.execute(
        "SELECT id, category, objectivity, controversiality, desired, guideline, author FROM attributes"
        " WHERE row = ? ORDER BY id DESC LIMIT 1",
        (row,),
    ).fetchone()
    if found is None:
        return None
    number, category, objectivity, controversiality, desired, guideline, author = found
    known = Attributes(
        category=category, objectivity=objectivity, controversiality=controversiality, desired=desired,
        guideline=guideline, author=author,
    )  # fmt: skip
    return number, known
