"""What an annotator does: gets a pair, in which order of its responses, answers, changes an answer, edits attributes.

Every revision of an answer is kept. A write carries an id of its own, so that a double click, a reload or a repeated
request is one write; and the revision it is based on, so that two tabs do not overwrite each other.
"""

import dataclasses
import hashlib
import hmac
import math
import secrets
import sqlite3
import time

from rewardscale.curation.annotators.people import access
from rewardscale.curation.annotators.people.rounds import latest_attributes
from rewardscale.data.comparison import Comparison, DataError
from rewardscale.data.ledger.database import PeopleStore
from rewardscale.data.ledger.schema import Attributes

HOLD_SECONDS = 1800.0  # for so long a pair waits for the one it was shown to
MOST_REASON = 4000  # characters
MOST_GUIDELINE = 8000


class Refused(ValueError):
    """A write that cannot be taken; the message is a sentence for the annotator."""


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """What an annotator said. `preferred` is in the corpus's order: +1, -1, 0 tie, None cannot say."""

    preferred: int | None
    confidence: float | None
    reason: str = ""
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Assignment:
    """A pair that an annotator was given.

    Attributes:
      id: opaque. swapped: whether the corpus's second response is shown first. revision: of the latest answer, 0 where
        there is none. settled: whether it has become a verdict.
    """

    id: str
    round: int
    row: int
    comparison: Comparison
    swapped: bool
    answer: Answer | None
    revision: int
    settled: bool


def current(store: PeopleStore, person: str, now: float | None = None) -> Assignment | None:
    """The pair this annotator has to judge: the one they were shown, else the next; None where none waits for them.

    A pair is held for them for HOLD_SECONDS; then somebody else may get it too.
    """
    now = time.time() if now is None else now
    with store.transaction() as connection:
        row = connection.execute(
            "SELECT a.id FROM page_assignments a JOIN page_tasks t ON t.id = a.task JOIN page_rounds r USING (round)"
            " WHERE a.person = :person AND a.answer IS NULL AND NOT r.closed"
            " AND (a.held_until > :now OR t.given + (SELECT count(*) FROM page_assignments o WHERE o.task = t.id"
            "      AND o.answer IS NULL AND o.held_until > :now) < t.overlap)"
            " ORDER BY a.shown DESC LIMIT 1",
            {"person": person, "now": now},
        ).fetchone() or _assign(connection, person, now)
        if row is None:
            return None
        connection.execute(
            "UPDATE page_assignments SET held_until = ? WHERE id = ?", (now + HOLD_SECONDS, row[0])
        )
        return find(store, person, row[0])


def _assign(connection: sqlite3.Connection, person: str, now: float) -> tuple[str] | None:
    task = connection.execute(
        "SELECT t.id, t.comparison FROM page_tasks t JOIN page_rounds r USING (round)"
        " WHERE t.given < t.overlap AND NOT r.closed"
        " AND NOT EXISTS (SELECT 1 FROM page_assignments m WHERE m.task = t.id AND m.person = :person)"
        " AND t.given + (SELECT count(*) FROM page_assignments o WHERE o.task = t.id AND o.answer IS NULL"
        "                AND o.held_until > :now) < t.overlap"
        " ORDER BY t.priority DESC, t.id LIMIT 1",
        {"person": person, "now": now},
    ).fetchone()
    if task is None:
        return None
    order = hmac.new(access.secret(connection, "order"), f"{person}|{task[1]}".encode(), hashlib.sha256)
    name = secrets.token_urlsafe(12)
    connection.execute(
        "INSERT INTO page_assignments (id, task, person, swapped, shown, held_until) VALUES (?, ?, ?, ?, ?, ?)",
        (name, task[0], person, order.digest()[0] & 1, now, now + HOLD_SECONDS),
    )
    return (name,)


def find(store: PeopleStore, person: str, assignment: str) -> Assignment | None:
    """An annotator's own assignment; None where it is not theirs or there is none."""
    with store.transaction() as connection:
        found = connection.execute(
            "SELECT t.round, t.row, t.content, a.swapped, a.answer, a.verdict IS NOT NULL, w.preferred,"
            " w.confidence, w.reason, w.seconds FROM page_assignments a JOIN page_tasks t ON t.id = a.task"
            " LEFT JOIN page_answers w ON w.id = a.answer WHERE a.id = ? AND a.person = ?",
            (assignment, person),
        ).fetchone()
    if found is None:
        return None
    round_, row, content, swapped, revision, settled, *said = found
    answer = Answer(*said) if revision else None
    pair = Comparison.from_bytes(content)
    return Assignment(assignment, round_, row, pair, bool(swapped), answer, revision or 0, bool(settled))


def submit(
    store: PeopleStore,
    person: str,
    assignment: str,
    answer: Answer,
    *,
    write: str,
    revision: int,
    now: float | None = None,
) -> bool:
    """Takes an annotator's answer; it is on the disk when this returns. Returns False for a repetition.

    Args:
      write: the form's own id; the same one again changes nothing.
      revision: the answer that the annotator saw and changes, 0 for none.

    Raises Refused where the answer cannot be taken, with a sentence that says why and what was kept.
    """
    now = time.time() if now is None else now
    with store.transaction() as connection:
        task = connection.execute(
            "SELECT task, answer, verdict IS NOT NULL, shown FROM page_assignments WHERE id = ? AND person = ?",
            (assignment, person),
        ).fetchone()
        if task is None:
            raise Refused("This pair was not given to you; reload the page to get yours.")
        repeated = connection.execute(
            "SELECT assignment FROM page_answers WHERE write = ?", (write,)
        ).fetchone()
        if repeated:
            return False
        number, latest, settled, shown = task
        if latest is not None and _content(connection, latest) == (
            answer.preferred,
            answer.confidence,
            answer.reason,
        ):
            return False
        if settled:
            raise Refused("This verdict is already in use and can no longer be changed; nothing was saved.")
        if (latest or 0) != revision:
            raise Refused(
                "You have judged this pair in another tab meanwhile; that answer was kept. Reload to see or change it."
            )
        _check(answer)
        spent = min(answer.seconds, max(0.0, now - shown)) if math.isfinite(answer.seconds) else 0.0
        done = connection.execute(
            "INSERT INTO page_answers (write, assignment, preferred, confidence, reason, seconds, time)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (write, assignment, answer.preferred, answer.confidence, answer.reason, max(0.0, spent), now),
        )
        connection.execute(
            "UPDATE page_assignments SET answer = ? WHERE id = ?", (done.lastrowid, assignment)
        )
        if latest is None:
            connection.execute("UPDATE page_tasks SET given = given + 1 WHERE id = ?", (number,))
    return True


def _content(connection: sqlite3.Connection, answer: int) -> tuple:
    query = "SELECT preferred, confidence, reason FROM page_answers WHERE id = ?"
    return connection.execute(query, (answer,)).fetchone()


def _check(answer: Answer) -> None:
    if answer.preferred not in (1, -1, 0, None):
        raise Refused("Choose first, second, tie or cannot say.")
    if answer.confidence is None and answer.preferred is not None:
        raise Refused("Say how sure you are.")
    if answer.confidence is not None and not 0 <= answer.confidence <= 1:
        raise Refused("Say how sure you are, from 0 to 1.")
    if len(answer.reason) > MOST_REASON:
        raise Refused(f"The reason has {len(answer.reason)} characters; shorten it to {MOST_REASON}.")


def history(store: PeopleStore, person: str, most: int = 100) -> list[Assignment]:
    """What this annotator has judged, what was answered first last."""
    with store.transaction() as connection:
        found = connection.execute(
            "SELECT a.id FROM page_assignments a JOIN page_answers f ON f.id ="
            " (SELECT min(id) FROM page_answers WHERE assignment = a.id) WHERE a.person = ? ORDER BY f.id DESC LIMIT ?",
            (person, most),
        ).fetchall()
        return [a for (name,) in found if (a := find(store, person, name))]


def before(store: PeopleStore, person: str, assignment: str | None) -> Assignment | None:
    """The pair judged before this one (the last one, if this has no answer yet); None if there is none."""
    with store.transaction() as connection:
        found = connection.execute(
            "SELECT assignment FROM page_answers f JOIN page_assignments a ON a.id = f.assignment"
            " WHERE a.person = :person AND f.id = (SELECT min(id) FROM page_answers WHERE assignment = a.id)"
            " AND f.id < ifnull((SELECT min(id) FROM page_answers WHERE assignment = :here), 9e18)"
            " ORDER BY f.id DESC LIMIT 1",
            {"person": person, "here": assignment},
        ).fetchone()
    return find(store, person, found[0]) if found else None


def waiting(store: PeopleStore, person: str) -> tuple[int, int]:
    """(pairs this annotator has judged in open rounds, pairs that wait for them, the one on the screen included)."""
    with store.transaction() as connection:
        (judged,) = connection.execute(
            "SELECT count(*) FROM page_assignments a JOIN page_tasks t ON t.id = a.task"
            " JOIN page_rounds r USING (round) WHERE a.person = ? AND a.answer IS NOT NULL AND NOT r.closed",
            (person,),
        ).fetchone()
        (left,) = connection.execute(
            "SELECT count(*) FROM page_tasks t JOIN page_rounds r USING (round)"
            " WHERE t.given < t.overlap AND NOT r.closed AND NOT EXISTS"
            " (SELECT 1 FROM page_assignments m WHERE m.task = t.id AND m.person = ? AND m.answer IS NOT NULL)",
            (person,),
        ).fetchone()
    return judged, left


def edit_attributes(
    store: PeopleStore, assignment: Assignment, attributes: Attributes, *, revision: int
) -> bool:
    """Makes these the attributes of an assignment's pair, the former being history; False where they are already.

    Args:
      revision: the edit that the annotator saw and changes, 0 for none.

    Raises Refused where somebody else has edited them meanwhile, or for a value that there is not.
    """
    with store.transaction() as connection:
        latest = latest_attributes(connection, assignment.row)
        same = latest is not None and dataclasses.replace(latest[1], author=attributes.author) == attributes
        if same:
            return False
        if latest is not None and latest[0] != revision:
            raise Refused(
                f"{latest[1].author} has edited this meanwhile; your text was not saved. Compare, then save again."
            )
        if max(len(attributes.desired), len(attributes.guideline)) > MOST_GUIDELINE:
            raise Refused(f"A text is too long; {MOST_GUIDELINE} characters are enough for a guideline.")
        try:
            return store.add_attributes(assignment.row, assignment.comparison.id, attributes)
        except DataError as error:
            raise Refused(f"Not saved: {error}.") from error
