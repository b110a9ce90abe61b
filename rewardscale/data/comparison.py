"""A comparison: a prompt and K >= 2 responses to it, and its bytes on disk.

The order of the responses is the order in which the source gives them; it says nothing about
which is better. A curation level says that: its orientation is +1 where the first response of a
pair is the chosen one and -1 where the second is.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import orjson


class DataError(ValueError):
    """Data that cannot be used; the message names the file or record and the mend."""


@dataclasses.dataclass(frozen=True, slots=True)
class Message:
    """One turn of a prompt."""

    role: str
    content: str


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    """A prompt (chat messages) and K >= 2 responses. Raises DataError without a prompt or with fewer responses.

    Attributes:
      prompt: the conversation before the responses, at least one message.
      responses: K >= 2 texts, in the source's order.
      source: name of the data set it comes from.
      split: "train", "validation", "test" or "" where a sweep splits by `group`.
      category: the source's own category, if any.
      group: what must never be split between train and test (a prompt, a debate); "" means the prompt.
    """

    prompt: tuple[Message, ...]
    responses: tuple[str, ...]
    source: str
    split: str = "train"
    category: str = ""
    group: str = ""

    def __post_init__(self) -> None:
        if not self.prompt:
            raise DataError(f"comparison from {self.source!r} has no prompt")
        if len(self.responses) < 2:
            raise DataError(
                f"comparison from {self.source!r} has {len(self.responses)} responses; 2 or more needed"
            )

    @property
    def id(self) -> str:
        """Content hash (32 hex digits) of prompt and responses; source and split do not enter.

        Raises DataError if a text is not valid Unicode.
        """
        return _digest([[m.role, m.content] for m in self.prompt], list(self.responses))

    @property
    def prompt_hash(self) -> str:
        """Content hash (32 hex digits) of the prompt alone."""
        return _digest([[m.role, m.content] for m in self.prompt])

    def hashes(self) -> tuple[str, str, bytes]:
        """`id`, `prompt_hash`, and 16 bytes of prompt and responses in whatever order: what duplicates share.

        Raises DataError if a text is not valid Unicode.
        """
        prompt, responses = _json([[m.role, m.content] for m in self.prompt]), list(self.responses)
        whole = _blake2b(b"[%b,%b]" % (prompt, _json(responses)))
        ordered = sorted(responses)
        unordered = whole if ordered == responses else _blake2b(b"[%b,%b]" % (prompt, _json(ordered)))
        return whole.hex(), _blake2b(b"[%b]" % prompt).hex(), unordered

    def to_bytes(self) -> bytes:
        """UTF-8 JSON with sorted keys: the payload of one corpus record."""
        record = {
            "prompt": [[m.role, m.content] for m in self.prompt],
            "responses": list(self.responses),
            "source": self.source,
            "split": self.split,
            "category": self.category,
            "group": self.group,
        }
        return _json(record)

    @classmethod
    def from_bytes(cls, data: bytes) -> "Comparison":
        """The inverse of `to_bytes`. Raises DataError on bytes that are not such a record."""
        try:
            record: Mapping[str, Any] = orjson.loads(data)
            return cls(
                prompt=tuple(Message(role, content) for role, content in record["prompt"]),
                responses=tuple(record["responses"]),
                source=record["source"],
                split=record["split"],
                category=record["category"],
                group=record["group"],
            )
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"not a comparison record: {error!r}") from error


def _digest(*parts: object) -> str:
    return _blake2b(_json(parts)).hex()


def _blake2b(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _json(value: object) -> bytes:
    """Without spaces, keys sorted, no escapes but JSON's own. Raises DataError on text that is not valid Unicode."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError:
        text = json.dumps(value, ensure_ascii=False)
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        near = text[max(0, error.start - 30) : error.start + 10]
        raise DataError(
            f"a text is not valid Unicode near {near!r} (a lone surrogate); repair the source"
        ) from error
