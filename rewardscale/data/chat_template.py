"""Jinja chat templates by the rules of Hugging Face transformers 5, but for the date, which is frozen.

A template comes with a model, so it is a stranger's program: it runs in Jinja's immutable sandbox, sees plain
JSON values only, and whatever it raises becomes one DataError. The rules (what a template may call, how missing
and renamed fields are treated) are those of `transformers/utils/chat_template_utils.py`.
"""

import datetime
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox
import jinja2.utils

from rewardscale.data.comparison import DataError, Message

ChatMessage = Message | Mapping[str, Any]

# What a template's strftime_now gives: a reward must not depend on the day on which it is computed.
FROZEN_DATE = "26 Jul 2024"
_DATE_FORMAT = "%d %b %Y"
# The names under which a message's reasoning is found, the standard one first.
_REASONING = ("reasoning_content", "thinking", "reasoning")


def render(
    source: str,
    messages: Sequence[ChatMessage],
    *,
    date: str = FROZEN_DATE,
    tools: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = False,
    variables: Mapping[str, Any] | None = None,
) -> str:
    """The conversation as text.

    Args:
      source: the Jinja template.
      messages: `Message`s, or mappings of JSON values with "role", "content" and what the template knows.
      date: what strftime_now gives, such as "26 Jul 2024".
      tools: JSON schemas of functions.
      add_generation_prompt: whether the text ends with the opening of the assistant's next turn.
      variables: what else the template sees (bos_token, enable_thinking, ...).

    Raises DataError on an empty conversation, on values that are not JSON, on a template that cannot be compiled
    or refuses the conversation, and on a text that is not valid Unicode.
    """
    if not messages:
        raise DataError("the conversation is empty; give at least one message")
    compiled = _compile(source, date)
    seen = {
        "documents": None,
        **_plain(variables or {}),
        "messages": [_message(message) for message in messages],
        "tools": None if tools is None else _plain(list(tools)),
        "add_generation_prompt": add_generation_prompt,
    }
    try:
        text = compiled.render(seen)
    except Exception as error:  # a template is a program and may raise anything
        raise DataError(f"the chat template refuses the conversation: {error or repr(error)}") from error
    try:
        text.encode()
    except UnicodeEncodeError as error:
        near = text[max(0, error.start - 30) : error.start + 10]
        raise DataError(
            f"a text is not valid Unicode near {near!r} (a lone surrogate); repair the source"
        ) from error
    return text


def _message(message: ChatMessage) -> dict[str, Any]:
    """The message as a template sees it: absent fields left out, reasoning under its standard name too."""
    if isinstance(message, Message):
        return {"role": _plain(message.role), "content": _plain(message.content)}
    if not isinstance(message, Mapping):
        raise DataError(f"a message is a {type(message).__name__}; needed: a mapping with role and content")
    fields = {key: value for key, value in _plain(message).items() if value is not None}
    reasoning = next((fields[name] for name in _REASONING if name in fields), None)
    if reasoning is not None:
        fields = {"thinking": reasoning, **fields, "reasoning_content": reasoning}
    return fields


def _plain(value: Any) -> Any:
    """A copy made of exact JSON types: a subclass could bring methods that the sandbox does not know."""
    match value:
        case None | bool():
            return value
        case str():
            return str.__str__(value)
        case int():
            return int.__int__(value)
        case float():
            return float.__float__(value)
        case Mapping():
            return {_plain(key): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case _:
            raise DataError(
                f"a conversation holds a {type(value).__name__}; only JSON values can be rendered"
            )


@functools.lru_cache(maxsize=64)
def _compile(source: str, date: str) -> jinja2.Template:
    """Raises DataError naming the line of a syntax error, or a date that is not like "26 Jul 2024"."""
    try:
        today = datetime.datetime.strptime(date, _DATE_FORMAT)
    except ValueError as error:
        raise DataError(f"date {date!r} is not of the form {FROZEN_DATE!r}") from error
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals |= {
        "raise_exception": _raise_exception,
        "strftime_now": today.strftime,
        "dict": _Dict(),
        "namespace": _Namespace,
    }
    try:
        return environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise DataError(f"the chat template cannot be read: line {error.lineno}: {error.message}") from error


class _Generation(jinja2.ext.Extension):
    """{% generation %} marks what the assistant said; a reward has no use for the mark, only for the text."""

    tags = {"generation"}  # noqa: RUF012 (Jinja's own name and type)

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        # A call block, as in transformers: what is set inside stays inside.
        return jinja2.nodes.CallBlock(self.call_method("_text"), [], [], body).set_lineno(line)

    def _text(self, caller: Any) -> str:
        return caller()


class _Dict:
    """`dict` without the attributes of the type."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _Namespace(jinja2.utils.Namespace):
    """Jinja's namespace without names that begin with an underscore, which could reach into Python."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *values = args  # so that namespace(self=...) works
        attributes = dict(*values, **kwargs)
        for name in attributes:
            _refuse_underscore(name)
        jinja2.utils.Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_underscore(name)
        super().__setitem__(name, value)


def _refuse_underscore(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.sandbox.SecurityError(f"a namespace cannot hold {name!r}: it begins with an underscore")


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
):
    # Not Jinja's own filter, which escapes what HTML would.
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
