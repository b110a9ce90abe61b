"""What people ask to have scored, as JSON: a prompt with responses, or a chosen and a rejected one.

Shared by the file scorer and the server. Public preference sets come in these forms:

    {"prompt": "...", "responses": ["...", "..."]}                     one user message and its answers
    {"prompt": [{"role": ..., "content": ...}, ...], "responses": []}  a conversation and its answers
    {"prompt": ..., "chosen": "...", "rejected": "..."}
    {"chosen": [messages], "rejected": [messages]}                     whole conversations
    {"prompt": [messages], "chosen": [messages], "rejected": [messages]}   what follows the prompt
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from rewardscale.data.comparison import DataError

Messages = Sequence[Mapping[str, Any]]
_KEYS = ("prompt", "messages", "responses", "chosen", "rejected")


class ItemError(DataError):
    """A record that is no item.

    Attributes:
      code: short name to count by ("no_response", "not_text", ...).
    """

    def __init__(self, code: str, reason: str):
        super().__init__(reason)
        self.code = code


@dataclasses.dataclass(frozen=True)
class Item:
    """What is scored together.

    Attributes:
      parts: (prompt, responses) each. One, unless chosen and rejected part before the last turn.
      tools: JSON schemas that the prompt offers, or None.
      pair: whether there are two responses of which the first is the chosen one.
    """

    parts: tuple[tuple[Messages, tuple[str, ...]], ...]
    tools: Sequence[Mapping[str, Any]] | None = None
    pair: bool = False


def parse_item(record: Any) -> Item:
    """Raises ItemError (a DataError) naming the key that is missing or of a wrong type."""
    if not isinstance(record, Mapping):
        raise ItemError("not_object", f"an item is a JSON object, not {_kind(record)}")
    record = {key: value for key, value in record.items() if value is not None}
    tools = record.get("tools") or None
    if tools is not None and not (
        isinstance(tools, list) and all(isinstance(tool, Mapping) for tool in tools)
    ):
        raise ItemError("tools", "'tools' must be a list of JSON objects")
    if "responses" in record:
        if "chosen" in record or "rejected" in record:
            raise ItemError("ambiguous", "give either 'responses' or 'chosen' and 'rejected', not both")
        return Item(((_prompt(record), _responses(record["responses"])),), tools)
    if "chosen" not in record or "rejected" not in record:
        found = ", ".join(repr(key) for key in _KEYS if key in record) or "none of them"
        raise ItemError(
            "no_response",
            f"an item needs 'prompt' and 'responses', or 'chosen' and 'rejected'; found {found}",
        )
    chosen, rejected = record["chosen"], record["rejected"]
    if isinstance(chosen, str) and isinstance(rejected, str):
        return Item(((_prompt(record), (chosen, rejected)),), tools, pair=True)
    (first, a), (second, b) = (_conversation(record, key) for key in ("chosen", "rejected"))
    parts = ((first, (a, b)),) if first == second else ((first, (a,)), (second, (b,)))
    return Item(parts, tools, pair=True)


def parse_messages(value: Any, key: str) -> Messages:
    """A list of chat messages; their content is the template's to judge."""
    if not isinstance(value, list) or not value:
        raise ItemError("not_text", f"{key!r} must be a list of messages, at least one")
    for number, message in enumerate(value):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise ItemError("roles", f"{key!r}: message {number} needs a 'role' and a 'content'")
        if not isinstance(message.get("content"), str) and not message.get("tool_calls"):
            raise ItemError("not_text", f"{key!r}: the content of message {number} must be a string")
    return [{k: v for k, v in message.items() if v is not None} for message in value]


def split_answer(messages: Messages, key: str) -> tuple[Messages, str]:
    """A conversation without its last message, and that message's text, which must be the assistant's."""
    *before, last = messages
    if last["role"] != "assistant" or set(last) != {"role", "content"}:
        raise ItemError(
            "roles", f"{key!r} must end with a message of the assistant that is a text and nothing else"
        )
    if not before:
        raise ItemError("no_prompt", f"{key!r} holds an answer and no prompt")
    return before, last["content"]


def _prompt(record: Mapping[str, Any]) -> Messages:
    if "prompt" in record and "messages" in record:
        raise ItemError("ambiguous", "give either 'prompt' or 'messages', not both")
    if isinstance(record.get("prompt"), str):
        if not record["prompt"].strip():
            raise ItemError("empty_prompt", "the prompt is empty")
        return [{"role": "user", "content": record["prompt"]}]
    key = "messages" if "messages" in record else "prompt"
    if key not in record:
        raise ItemError(
            "no_prompt", "there is no 'prompt': a string (one user message) or a list of messages"
        )
    return parse_messages(record[key], key)


def _responses(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise ItemError("no_response", "'responses' must be a list of strings, at least one")
    for number, response in enumerate(value):
        if not isinstance(response, str):
            raise ItemError("not_text", f"response {number} is {_kind(response)}, not a string")
    return tuple(value)


def _conversation(record: Mapping[str, Any], key: str) -> tuple[Messages, str]:
    """Prompt and answer of a chosen or rejected list of messages; 'prompt' is put in front where it lacks."""
    messages = parse_messages(record[key], key)
    if "prompt" in record or "messages" in record:
        prompt = list(_prompt(record))
        if list(messages[: len(prompt)]) != prompt:
            if messages[0]["role"] != "assistant":
                raise ItemError(
                    "parted_early",
                    f"{key!r} begins neither with the messages of 'prompt' nor with an answer to them",
                )
            messages = [*prompt, *messages]
    return split_answer(messages, key)


def _kind(value: Any) -> str:
    names = {str: "a string", list: "a list", dict: "an object", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
