"""The fixed conversations of a parity certificate (certificate_cases.json): ordinary ones, and what breaks scorers.

    {"name": ..., "prompt": ..., "responses": [...], "tools": [...], "may_be_refused": true}

prompt, responses and tools as in records.py; a long text is written {"repeat": text, "times": n}. May be refused by us
and not by transformers: an empty response, a text that holds what may be a special token of the tokenizer.
"""

import dataclasses
import functools
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rewardscale.data.records import Item, parse_item

FILE = Path(__file__).with_name("certificate_cases.json")


@dataclasses.dataclass(frozen=True)
class Case:
    """A prompt with its responses. item: one part. may_be_refused: see above."""

    name: str
    item: Item
    may_be_refused: bool = False

    @property
    def responses(self) -> tuple[str, ...]:
        return self.item.parts[0][1]


@dataclasses.dataclass(frozen=True)
class Conversation:
    """One response with its prompt.

    Attributes:
      name: for people. case: index of its case. messages: the answer last. tools: as in Item.
    """

    name: str
    case: int
    messages: list[Mapping[str, Any]]
    tools: list[Mapping[str, Any]] | None


@functools.cache
def read_cases() -> tuple[Case, ...]:
    """All cases, in the file's order."""
    records = [_expanded(record) for record in json.loads(FILE.read_text(encoding="utf-8"))]
    return tuple(
        Case(record["name"], parse_item(record), record.get("may_be_refused", False)) for record in records
    )


@functools.cache
def conversations() -> tuple[Conversation, ...]:
    """All conversations, case by case, responses in order."""
    out = []
    for number, case in enumerate(read_cases()):
        prompt, responses = case.item.parts[0]
        for k, response in enumerate(responses, 1):
            messages = [*prompt, {"role": "assistant", "content": response}]
            tools = list(case.item.tools) if case.item.tools else None
            out.append(Conversation(f"{case.name} ({k})", number, messages, tools))
    return tuple(out)


@functools.cache
def comparisons() -> tuple[tuple[int, int], ...]:
    """Any two responses to one prompt, as indices of conversations; those that are the same text left out."""
    by_case: dict[int, list[int]] = {}
    for index, one in enumerate(conversations()):
        by_case.setdefault(one.case, []).append(index)
    texts = [one.messages[-1]["content"] for one in conversations()]
    return tuple(
        pair
        for group in by_case.values()
        for pair in itertools.combinations(group, 2)
        if texts[pair[0]] != texts[pair[1]]
    )


def _expanded(value: Any) -> Any:
    match value:
        case {"repeat": str(text), "times": int(times)}:
            return text * times
        case dict():
            return {key: _expanded(item) for key, item in value.items()}
        case list():
            return [_expanded(item) for item in value]
        case _:
            return value
