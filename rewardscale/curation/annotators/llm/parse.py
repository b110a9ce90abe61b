"""A judge's answer, read strictly: one JSON object and nothing that could be taken for another one."""

import dataclasses
import math
from typing import Any, Literal

import orjson

VERDICTS = ("1", "2", "tie", "cannot say")
REASON_CHARS = 2000
ANSWER_CHARS = 20_000

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "reason": {"type": "string"},
        "verdict": {"type": "string", "enum": list(VERDICTS)},
        "confidence": {"type": "number"},
    },
    "required": ["reason", "verdict", "confidence"],
    "additionalProperties": False,
}


class Unreadable(ValueError):
    """An answer that is not in the form asked for."""


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """verdict: of the responses as they were shown. confidence: in [0, 1]."""

    verdict: Literal["1", "2", "tie", "cannot say"]
    confidence: float
    reason: str


def parse(text: Any) -> Answer:
    """Reads {"verdict", "confidence", "reason"}, bare or in one fenced block. Raises Unreadable and nothing else."""
    record = json_object(text)
    if set(record) != {"verdict", "confidence", "reason"}:
        raise Unreadable(f"fields {sorted(record)}")
    verdict, confidence, reason = record["verdict"], record["confidence"], record["reason"]
    if not isinstance(verdict, str) or verdict not in VERDICTS:
        raise Unreadable(f"verdict {verdict!r:.50}")
    if isinstance(confidence, bool) or not isinstance(confidence, int | float):
        raise Unreadable("confidence is not a number")
    if not math.isfinite(confidence) or not 0 <= confidence <= 1:
        raise Unreadable(f"confidence {confidence}")
    if not isinstance(reason, str):
        raise Unreadable("reason is not a text")
    return Answer(verdict, float(confidence), reason[:REASON_CHARS])  # type: ignore[arg-type]


def json_object(text: Any) -> dict[str, Any]:
    """The one JSON object that `text` is. Raises Unreadable, also where a name stands twice in it."""
    if not isinstance(text, str):
        raise Unreadable("no text")
    if len(text) > ANSWER_CHARS:
        raise Unreadable("too long")
    bare = text.strip()
    if bare.startswith("```") and bare.endswith("```") and "\n" in bare:
        head, _, rest = bare.partition("\n")
        if head not in ("```", "```json"):
            raise Unreadable("a fenced block that is not JSON")
        bare = rest[:-3].strip()
    try:
        record = orjson.loads(bare)
        again = orjson.dumps(record)
    except (ValueError, TypeError) as error:
        raise Unreadable("not one JSON object") from error
    if not isinstance(record, dict):
        raise Unreadable("not one JSON object")
    # A parser keeps the last of two fields of one name: what was said first would be lost.
    same = "\\" not in bare and bare.count(":") == again.count(b":")
    if not same and _names(bare) != _names(again.decode()):
        raise Unreadable("a field stands twice")
    return record


def _names(text: str) -> int:
    """How many fields the objects in valid JSON have: colons outside strings."""
    count, inside, escaped = 0, False, False
    for character in text:
        if inside:
            if escaped:
                escaped = False
            elif character == "\\":
                escaped = True
            elif character == '"':
                inside = False
        elif character == '"':
            inside = True
        elif character == ":":
            count += 1
    return count
