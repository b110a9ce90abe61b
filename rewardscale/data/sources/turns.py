"""Conversations in the spellings of public sets, as chat messages.

text                                                       one user message
[{"role": "user", "content": "..."}, ...]                  also {"from": "human", "value": "..."}, content as a list
                                                           of text parts, and {"role": [...], "content": [...]}
"\\n\\nHuman: ...\\n\\nAssistant: ..."                     the transcript of hh-rlhf
["first question", "second question"] as JSON in a text    Arena-55k: the turns of one side
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from rewardscale.data.comparison import Message
from rewardscale.data.records import ItemError

_ROLES = {
    **{"human": "user", "prompter": "user", "gpt": "assistant", "bot": "assistant", "chatbot": "assistant"},
    **{"model": "assistant", "developer": "system"},
}
# What changes how a message is rendered; without it the message would be another one.
_NOT_TEXT = ("tool_calls", "function_call", "tool_call_id", "images", "image", "audio")
_MARK = re.compile(r"\n\n(Human|Assistant):")
_EXTRA = re.compile(r"\n*<extra_id_1>(User|Assistant)\n")
_SPEAKER = {"Human": "user", "Assistant": "assistant"}
_NAME = {role: name for name, role in _SPEAKER.items()}


def messages(value: Any, key: str) -> list[dict[str, str]]:
    """{"role", "content"} of each message of a list in any of the spellings above. Raises ItemError."""
    if isinstance(value, Mapping):
        value = _from_columns(value, key)
    if not isinstance(value, list):
        raise ItemError("not_text", f"`{key}` must be a text or a list of messages")
    return [_message(own, key, number) for number, own in enumerate(value)]


def _message(value: Any, key: str, number: int) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise ItemError("not_text", f"`{key}`: message {number} must be an object with a role and a content")
    role = value.get("role") or value.get("from")
    content = value.get("content")
    if content is None:
        content = value.get("value")
    if len(value) > 2:
        for other in _NOT_TEXT:
            if value.get(other):
                raise ItemError(
                    "tools", f"`{key}`: message {number} holds `{other}`; a corpus holds text alone"
                )
    if type(content) is not str:
        content = _joined(content, key, number)
    if type(role) is not str:
        raise ItemError("roles", f"`{key}`: message {number} has no role")
    return {"role": _ROLES.get(role, role), "content": content}


def _joined(content: Any, key: str, number: int) -> str:
    """The text of a content that is a list of parts."""
    if isinstance(content, list) and content:
        texts = [part.get("text") if isinstance(part, Mapping) else None for part in content]
        kinds = {part.get("type", "text") for part in content if isinstance(part, Mapping)}
        if kinds == {"text"} and all(isinstance(text, str) for text in texts):
            return "".join(text for text in texts if text)
    raise ItemError("not_text", f"`{key}`: the content of message {number} must be a text")


def _from_columns(value: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    roles, contents = value.get("role", value.get("from")), value.get("content", value.get("value"))
    if not isinstance(roles, list) or not isinstance(contents, list) or len(roles) != len(contents):
        raise ItemError("not_text", f"`{key}` must be a text or a list of messages")
    return [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]


def transcript(text: Any, key: str) -> list[dict[str, str]]:
    """Messages of "\\n\\nHuman: ...\\n\\nAssistant: ..."; spaces around a turn belong to the format and are stripped.

    Raises ItemError for what does not begin with such a mark.
    """
    if not isinstance(text, str):
        raise ItemError(
            "no_response" if text is None else "not_text", f"`{key}` must be a transcript, a text"
        )
    before, *parts = _MARK.split(text)
    if before.strip() or not parts:
        raise ItemError("roles", f"`{key}` must begin with '\\n\\nHuman:' or '\\n\\nAssistant:'")
    return [
        {"role": _SPEAKER[name], "content": turn.strip()}
        for name, turn in zip(parts[::2], parts[1::2], strict=True)
    ]


def marked(text: str) -> list[dict[str, str]]:
    """Messages of "question\\n<extra_id_1>Assistant\\nanswer\\n<extra_id_1>User\\nquestion", HelpSteer's prompts."""
    begin, *parts = _EXTRA.split(text)
    out = [{"role": "user", "content": begin}] if begin.strip() or not parts else []
    return out + [
        {"role": _SPEAKER.get(name, "user"), "content": turn}
        for name, turn in zip(parts[::2], parts[1::2], strict=True)
    ]


def to_transcript(conversation: Sequence[Mapping[str, str]]) -> str:
    """The inverse of `transcript`, for user and assistant messages whose texts hold no marks and no outer spaces."""
    return "".join(f"\n\n{_NAME[own['role']]}: {own['content']}" for own in conversation)


def is_transcript(value: Any) -> bool:
    """Whether a text begins as an hh-rlhf transcript does."""
    return isinstance(value, str) and value.startswith(("\n\nHuman:", "\n\nAssistant:"))


def alternating(asked: Any, answered: Any, keys: tuple[str, str]) -> list[dict[str, str]]:
    """The conversation of two lists of turns (or JSON texts of lists), user and assistant by turns."""
    users, answers = _turns(asked, keys[0]), _turns(answered, keys[1])
    if len(users) != len(answers):
        reason = f"`{keys[0]}` has {len(users)} turns and `{keys[1]}` {len(answers)}"
        raise ItemError("no_response", reason)
    out = []
    for user, answer in zip(users, answers, strict=True):
        out += [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]
    return out


def _turns(value: Any, key: str) -> list[str]:
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except ValueError as error:
            code = "not_unicode" if "surrogate" in str(error) else "not_json"
            raise ItemError(code, f"`{key}` must be a JSON list of texts: {error}") from error
    if not isinstance(value, list) or not value:
        raise ItemError("no_response", f"`{key}` must be a list of turns, at least one")
    for number, turn in enumerate(value):
        if turn is None:
            raise ItemError("no_response", f"`{key}`: turn {number} is null")
        if not isinstance(turn, str):
            raise ItemError("not_text", f"`{key}`: turn {number} must be a text")
    return value


def checked(conversation: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
    """The prompt of a comparison: a system message or none, then user and assistant by turns, the user last.

    A system message without text is left out. Raises ItemError where roles are in another order or a turn is empty.
    """
    start = 0
    if conversation and conversation[0]["role"] == "system" and not conversation[0]["content"].strip():
        start = 1
    out, wanted = [], ("system", "user")
    for number in range(start, len(conversation)):
        role, content = conversation[number]["role"], conversation[number]["content"]
        if role not in wanted:
            raise ItemError(
                "roles", f"message {number} of the prompt is of {role!r} where {' or '.join(wanted)} speaks"
            )
        wanted = ("assistant",) if role == "user" else ("user",)
        if not content.strip():
            raise ItemError("empty_prompt", f"message {number} of the prompt ({role}) is empty")
        out.append(Message(role, content))
    if not out or out[-1].role == "system":
        raise ItemError("no_prompt", "there is no message of the user before the responses")
    if out[-1].role != "user":
        raise ItemError("roles", "the prompt must end with a message of the user")
    return tuple(out)
