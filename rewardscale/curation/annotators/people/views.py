"""What each page shows, as plain values for its template. Nothing here says where a pair comes from."""

import secrets
import time
from typing import Any, get_args

from rewardscale.curation.annotators.people import guidelines, markup, rounds, statistics, store
from rewardscale.curation.annotators.people.access import Person, people
from rewardscale.curation.annotators.people.store import Assignment, Refused
from rewardscale.data.comparison import Comparison
from rewardscale.data.ledger.database import PeopleStore
from rewardscale.data.ledger.schema import CATEGORIES, Attributes, Controversiality, Objectivity

# Key, how it is said, and the probability of being right that it stands for.
CONFIDENCES = (("6", "Guess", 0.5), ("7", "Leaning", 0.7), ("8", "Fairly sure", 0.85), ("9", "Certain", 0.97))
# Key, value of the form, what the button says.
CHOICES = (
    ("1", "first", "First"),
    ("2", "second", "Second"),
    ("T", "tie", "Tie"),
    ("S", "skip", "Cannot say"),
)


def judging(database: PeopleStore, person: Person, assignment: Assignment | None) -> dict[str, Any]:
    """The page of a pair, or of an empty queue."""
    judged, left = store.waiting(database, person.name)
    base = {"person": person, "judged": judged, "left": left, "general": guidelines.GENERAL}
    if assignment is None:
        return base | {"pair": None}
    return base | {
        "pair": pair(assignment.comparison, swapped=assignment.swapped),
        "assignment": assignment,
        "write": secrets.token_urlsafe(12),
        "revision": assignment.revision,
        "chosen": shown_choice(assignment),
        "choices": CHOICES,
        "confidences": CONFIDENCES,
        "attributes": attributes(database, assignment),
        "most_reason": store.MOST_REASON,
    }


def pair(comparison: Comparison, *, swapped: bool) -> dict[str, Any]:
    """Conversation and responses as safe HTML, in the order in which they are shown."""
    first, second = comparison.responses[::-1] if swapped else comparison.responses
    return {
        "messages": [(markup.visible(m.role), markup.render(m.content)) for m in comparison.prompt],
        "responses": list(
            zip((1, 2), markup.render_pair(first, second), (len(first), len(second)), strict=True)
        ),
        "compared": markup.compared(first, second),
    }


def attributes(database: PeopleStore, assignment: Assignment, *, editing: bool = False) -> dict[str, Any]:
    """What the pair asks for, and the form to edit it."""
    with database.transaction() as connection:
        found = rounds.latest_attributes(connection, assignment.row)
    revision, known = found or (0, None)
    return {
        "revision": revision,
        "known": known,
        "texts": [(markup.render(known.desired), markup.render(known.guideline))] if known else [],
        "rules": guidelines.rules(known),
        "editing": editing,
        "categories": CATEGORIES,
        "objectivities": get_args(Objectivity),
        "controversialities": get_args(Controversiality),
        "most": store.MOST_GUIDELINE,
    }


def shown_choice(assignment: Assignment) -> str | None:
    """The form's value of the answer there is, in the order in which the responses are shown."""
    if assignment.answer is None:
        return None
    preferred = assignment.answer.preferred
    if preferred is None or preferred == 0:
        return "skip" if preferred is None else "tie"
    return "first" if (preferred > 0) != assignment.swapped else "second"


def preference(choice: str, *, swapped: bool) -> int | None:
    """The form's value as a preference in the corpus's order. Raises Refused for one that there is not."""
    match choice:
        case "first" | "second":
            return 1 if (choice == "first") != swapped else -1
        case "tie":
            return 0
        case "skip":
            return None
        case _:
            raise Refused("Choose first (1), second (2), tie (T) or cannot say (S).")


def confidence(text: str) -> float | None:
    """The form's value as a probability; None for an empty one. Raises Refused."""
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        raise Refused("Say how sure you are, with the keys 6 to 9.") from None


def edited(form: dict[str, str], author: str) -> Attributes:
    """The attributes of the form; the store checks them."""
    return Attributes(
        category=form.get("category", ""),
        objectivity=form.get("objectivity", ""),  # type: ignore[arg-type]  # checked when it is stored
        controversiality=form.get("controversiality", ""),  # type: ignore[arg-type]
        desired=form.get("desired", "").replace("\r\n", "\n").strip(),
        guideline=form.get("guideline", "").replace("\r\n", "\n").strip(),
        author=author,
    )


def judged(database: PeopleStore, person: Person) -> dict[str, Any]:
    """The list of what an annotator has judged."""
    rows = []
    for assignment in store.history(database, person.name):
        assert assignment.answer is not None
        rows.append(
            {
                "id": assignment.id,
                "text": _short(assignment.comparison.prompt[-1].content),
                "choice": _said(shown_choice(assignment)),
                "confidence": _sure(assignment.answer.confidence),
                "seconds": duration(assignment.answer.seconds),
                "settled": assignment.settled,
            }
        )
    return {"person": person, "rows": rows, "minutes": int(rounds.SETTLE_SECONDS // 60)}


def board(database: PeopleStore, person: Person) -> dict[str, Any]:
    """The lead's page."""
    done = {counts.name: counts for counts in statistics.per_person(database)}
    known = [(name, good) for name, role, good in people(database) if role == "annotator"]
    names = sorted(done.keys() | {name for name, _ in known})
    return {
        "person": person,
        "rounds": [(number, rounds.status(database, number)) for number in rounds.rounds(database)],
        "people": [(name, done.get(name), dict(known).get(name, False)) for name in names],
        "agreements": statistics.agreements(database),
        "disagreements": [
            (d, [(who, _ordered(p), _sure(c), reason) for who, p, c, reason in d.answers])
            for d in statistics.disagreements(database)
        ],
        "duration": duration,
        "ago": lambda moment: duration(max(0.0, time.time() - moment)),
    }


def task(database: PeopleStore, person: Person, number: int) -> dict[str, Any] | None:
    """A pair and all that was said about it, for the lead, in the corpus's order; None for one that there is not."""
    with database.transaction() as connection:
        found = connection.execute(
            "SELECT round, row, content FROM page_tasks WHERE id = ?", (number,)
        ).fetchone()
    if found is None:
        return None
    answers = statistics.answers_to(database, number)
    return {
        "person": person,
        "round": found[0],
        "row": found[1],
        "pair": pair(Comparison.from_bytes(found[2]), swapped=False),
        "answers": [(who, _ordered(p), _sure(c), reason) for who, p, c, reason in answers],
    }


def duration(seconds: float) -> str:
    """12 s, 3 min, 2.5 h, 4 d."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.0f} d"


def _ordered(preferred: int | None) -> str:
    return {1: "first", -1: "second", 0: "tie", None: "cannot say"}[preferred]


def _said(choice: str | None) -> str:
    return {"first": "first", "second": "second", "tie": "tie", "skip": "cannot say", None: ""}[choice]


def _sure(value: float | None) -> str:
    if value is None:
        return ""
    return next((name.lower() for _, name, known in CONFIDENCES if known == value), f"{value:.2f}")


def _short(text: str, most: int = 140) -> str:
    text = " ".join(markup.visible(text[: 4 * most]).split())
    return text if len(text) <= most else text[: most - 1] + "…"
