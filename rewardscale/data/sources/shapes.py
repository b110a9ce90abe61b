"""From a record to a judged comparison, by the shape in which its source publishes it.

    Pairs        two responses or two whole conversations, the first the chosen one or as a label says
    Responses    a prompt and K responses in columns or in a list, with ratings, ranks, votes or right and wrong
    Rows         a response a row; consecutive rows with one prompt belong together
    NoPreferences  not preferences: refused, with the reason

A record that cannot be used raises ItemError with a code; one of more than two responses of which some are unusable
gives the comparison of the others, and an ItemError for each that was left out.
"""

import dataclasses
import functools
import string
from collections.abc import Mapping, Sequence
from typing import Any

from rewardscale.data.comparison import Comparison, Message
from rewardscale.data.records import ItemError, parse_item
from rewardscale.data.sources import turns
from rewardscale.data.sources.judged import Judged, Judgement
from rewardscale.data.sources.labels import Annotator, Label, get, judgements

MAX_BYTES = 1_000_000  # of a text: from here on it is refused

Conversation = Sequence[Mapping[str, Any]]
Labels = tuple[tuple[Label, Annotator], ...]

STEPS = (
    "labels of single steps say where a solution goes wrong and not which of two responses is better: they are no "
    "preferences; train a process reward model on them, or pair whole solutions by their final answers"
)


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Two responses.

    Attributes:
      first, second: keys of the two: texts, messages that follow the prompt, or whole conversations.
      prompt: its key: text or messages; "" where the conversations bring it.
      form: how `first` and `second` are written: "any" as records.parse_item says and transcripts, "transcript"
        hh-rlhf's alone, "turns" lists of one side's turns as in Arena-55k.
    """

    first: str = "chosen"
    second: str = "rejected"
    prompt: str = "prompt"
    form: str = "any"


@dataclasses.dataclass(frozen=True)
class Responses:
    """A prompt and K responses.

    Attributes:
      prompt: path of a text or of messages, or a template with {keys}.
      responses: path of a list ("completions[].response"), or of each text in order, or templates with {keys}; of
        several paths of lists ("chosen[]", "rejected[]") the one list after the other.
      form: of a prompt that is a text: "text", "transcript" (hh-rlhf's) or "marked" (turns after <extra_id_1>).
      options: path of a list of answers to choose from, lettered and put under the question, or "".
      passages: path of a list of passages, each a list [title, sentence, ...], put under the question, or "".
    """

    prompt: str
    responses: str | tuple[str, ...]
    form: str = "text"
    options: str = ""
    passages: str = ""


@dataclasses.dataclass(frozen=True)
class Rows:
    """A response a row: consecutive rows with the same `prompt` are one comparison; files are not cut into parts.

    Labels see {"rows": [...]}. `form`: of the prompt, as in Responses.
    """

    prompt: str = "prompt"
    response: str = "response"
    form: str = "text"


@dataclasses.dataclass(frozen=True)
class NoPreferences:
    """A source that holds no preferences, and why."""

    reason: str = STEPS


Shape = Pairs | Responses | Rows | NoPreferences


@dataclasses.dataclass(frozen=True, slots=True)
class About:
    """What a comparison takes from its source rather than from its record: name, split, where category and group are.

    `max_bytes`: a text of so many bytes or more is refused.
    """

    source: str
    split: str = ""
    category: str = ""
    group: str = ""
    max_bytes: int = MAX_BYTES


def shaped(shape: Shape, labels: Labels, record: Mapping[str, Any], about: About) -> list[Judged | ItemError]:
    """The record's comparison first, then what was left out of it.

    Args:
      record: of the source; for Rows {"rows": the consecutive records}.

    Raises ItemError, with a code and a sentence that names the key, where there is none.
    """
    match shape:
        case Pairs():
            prompt, responses = _pair(shape, record)
        case Responses():
            prompt, responses = _several(shape, record)
        case Rows():
            rows = record["rows"]
            prompt = _prompt(rows[0].get(shape.prompt), shape.prompt, shape.form)
            responses = [row.get(shape.response) for row in rows]
            if len(rows) < 2:
                raise ItemError("no_response", "the prompt has one response; a comparison needs two")
        case NoPreferences():
            raise ItemError("step_labels", shape.reason)
    found = []
    for label, who in labels:
        found.extend(judgements(label, who, record, len(responses)))
    if not found:
        raise ItemError("no_label", "nobody has judged the responses")
    return _validated(turns.checked(prompt), responses, found, record, about)


def _pair(shape: Pairs, record: Mapping[str, Any]) -> tuple[Conversation, list[Any]]:
    first, second = record.get(shape.first), record.get(shape.second)
    if first is None or second is None:
        _refuse_steps(record)
        lacking = shape.first if first is None else shape.second
        raise ItemError("no_response", f"`{lacking}` is missing or null")
    if shape.form == "turns":
        asked = record.get(shape.prompt)
        a = turns.alternating(asked, first, (shape.prompt, shape.first))
        b = turns.alternating(asked, second, (shape.prompt, shape.second))
        return _parted(a, b)
    prompt = record.get(shape.prompt) if shape.prompt else None
    if shape.form == "transcript" or (prompt is None and turns.is_transcript(first)):
        return _parted(turns.transcript(first, shape.first), turns.transcript(second, shape.second))
    if prompt is None and not shape.prompt:
        return _parted(turns.messages(first, shape.first), turns.messages(second, shape.second))
    if type(prompt) is type(first) is type(second) is str and not record.get("tools"):
        return _prompt(prompt, shape.prompt, "text"), [first, second]
    item = {
        "prompt": prompt if prompt is None or type(prompt) is str else turns.messages(prompt, shape.prompt),
        "chosen": first if type(first) is str else turns.messages(first, shape.first),
        "rejected": second if type(second) is str else turns.messages(second, shape.second),
        "tools": record.get("tools"),
    }
    if prompt is None and record.get("messages") is not None:
        item["messages"] = turns.messages(record["messages"], "messages")
    parsed = parse_item(item)
    if parsed.tools:
        raise ItemError("tools", "`tools` are offered in the prompt; a corpus holds text alone")
    (messages, responses), *other = parsed.parts
    if other:
        raise _parted_early(len(messages), len(other[0][0]))
    return messages, list(responses)


def _parted(first: list[dict[str, str]], second: list[dict[str, str]]) -> tuple[Conversation, list[Any]]:
    """The common beginning of two conversations and the answer with which each ends."""
    for conversation in (first, second):
        if not conversation or conversation[-1]["role"] != "assistant":
            raise ItemError("roles", "each conversation must end with a message of the assistant")
    if first[:-1] != second[:-1]:
        raise _parted_early(len(first) - 1, len(second) - 1)
    if len(first) == 1:
        raise ItemError("no_prompt", "there is an answer and nothing that it answers")
    return first[:-1], [first[-1]["content"], second[-1]["content"]]


def _parted_early(first: int, second: int) -> ItemError:
    return ItemError(
        "parted_early",
        "the two conversations part before their last answer, so that the answers reply to different prompts "
        f"({first} and {second} messages)",
    )


def _refuse_steps(record: Mapping[str, Any]) -> None:
    """Raises ItemError if the record looks like one of a process reward set."""
    label, asked = record.get("label"), record.get("input")
    stepwise = isinstance(record.get("completions"), list) and isinstance(record.get("labels"), list)
    prm800k = isinstance(label, Mapping) and "steps" in label
    shepherd = isinstance(label, str) and isinstance(asked, str) and "ки" in asked  # the mark after a step
    if stepwise or prm800k or shepherd or isinstance(record.get("steps"), list):
        raise ItemError("step_labels", STEPS)


def _several(shape: Responses, record: Mapping[str, Any]) -> tuple[Conversation, list[Any]]:
    value = _filled(shape.prompt, record) if "{" in shape.prompt else get(record, shape.prompt)
    if value is None:
        _refuse_steps(record)
    prompt = _prompt(value, shape.prompt, shape.form)
    if shape.options or shape.passages:
        more = _options(record, shape.options) if shape.options else _passages(record, shape.passages)
        prompt = [*prompt[:-1], {**prompt[-1], "content": prompt[-1]["content"] + more}]
    paths = (shape.responses,) if isinstance(shape.responses, str) else shape.responses
    responses = []
    for path in paths:
        found = _filled(path, record) if "{" in path else get(record, path)
        if "[]" not in path:
            responses.append(found)
        elif isinstance(found, list):
            responses += found
        else:
            raise ItemError("no_response", f"`{path}` must hold responses")
    if len(responses) < 2:
        raise ItemError("no_response", f"`{paths[0]}` must hold two responses or more")
    return prompt, responses


def _options(record: Mapping[str, Any], path: str) -> str:
    options = get(record, path)
    if not isinstance(options, list) or len(options) > 26 or not all(isinstance(own, str) for own in options):
        raise ItemError("not_text", f"`{path}` must be a list of texts, one to choose")
    return "".join(f"\n{letter}. {own}" for letter, own in zip(string.ascii_uppercase, options, strict=False))


def _passages(record: Mapping[str, Any], path: str) -> str:
    """What the answers are to be based on: a blank line, "[1] title", and its sentences on a line."""
    passages = get(record, path)
    whole = isinstance(passages, list) and all(isinstance(own, list) and own for own in passages)
    if not whole or not all(isinstance(text, str) for own in passages for text in own):
        raise ItemError(
            "not_text", f"`{path}` must be a list of passages, each a list of a title and sentences"
        )
    return "".join(
        f"\n\n[{number}] {title}\n{' '.join(rest)}".rstrip()
        for number, (title, *rest) in enumerate(passages, 1)
    )


def _prompt(value: Any, key: str, form: str) -> list[dict[str, str]]:
    if value is None:
        raise ItemError("no_prompt", f"`{key}` is missing or null")
    if form == "transcript":
        conversation = turns.transcript(value, key)
        opened = conversation[-1] == {
            "role": "assistant",
            "content": "",
        }  # "...\n\nAssistant: " asks for the answer
        return conversation[:-1] if opened else conversation
    if type(value) is str:
        if not value.strip():
            raise ItemError("empty_prompt", f"`{key}` is empty")
        return turns.marked(value) if form == "marked" else [{"role": "user", "content": value}]
    return turns.messages(value, key)


def _filled(template: str, record: Mapping[str, Any]) -> str | None:
    """The template with the record's texts; None where one is missing."""
    values = {key: record.get(key) for key in _keys(template)}
    if any(value is None for value in values.values()):
        return None
    return template.format_map(values)


@functools.cache
def _keys(template: str) -> tuple[str, ...]:
    return tuple(key for _, key, _, _ in string.Formatter().parse(template) if key)


# --- checks ------------------------------------------------------------------------------------------


def _validated(
    prompt: tuple[Message, ...],
    responses: list[Any],
    found: list[Judgement],
    record: Mapping[str, Any],
    about: About,
) -> list[Judged | ItemError]:
    limit = about.max_bytes
    for message in prompt:
        if wrong := _wrong(message.content, limit):
            raise ItemError(wrong[0], f"the prompt {wrong[1]}")
    left_out: list[tuple[int, ItemError]] = []
    for number, response in enumerate(responses):
        if wrong := _wrong_response(response, limit):
            left_out.append((number, ItemError(wrong[0], f"response {number + 1} {wrong[1]}")))
    if left_out:
        if len(responses) - len(left_out) < 2:
            raise left_out[0][1]
        gone = {number for number, _ in left_out}
        responses = [own for number, own in enumerate(responses) if number not in gone]
        found = [_without(judgement, gone) for judgement in found]
    if len(set(responses)) < 2:
        raise ItemError("identical_responses", f"all {len(responses)} responses are the same text")
    category = _named(record, about.category) if about.category else ""
    group = _named(record, about.group) if about.group else ""
    comparison = Comparison(prompt, tuple(responses), about.source, about.split, category, group)
    if not left_out:
        return [Judged(comparison, tuple(found))]
    kept = "the record's other responses are kept"
    return [Judged(comparison, tuple(found)), *(ItemError(own.code, f"{own}; {kept}") for _, own in left_out)]


def _wrong_response(response: Any, max_bytes: int) -> tuple[str, str] | None:
    if type(response) is str:
        return _wrong(response, max_bytes) if response.strip() else ("empty_response", "is empty")
    if response is None:
        return "no_response", "is missing or null"
    return "not_text", f"is of type {type(response).__name__} and not a text"


def _wrong(text: str, max_bytes: int) -> tuple[str, str] | None:
    """The code and what is wrong with a text, or None."""
    size = len(text)
    if not text.isascii():
        try:
            size = len(text.encode())
        except UnicodeEncodeError as error:
            return "not_unicode", f"is not valid Unicode (a lone surrogate at {error.start}); repair it"
    if size >= max_bytes:
        return "too_long", f"has {size:,} bytes; the limit is {max_bytes:,}"
    if "\x00" in text:
        return "nul", f"holds a NUL character at {text.index(chr(0))}"
    return None


def _without(judgement: Judgement, gone: set[int]) -> Judgement:
    scores = tuple(score for number, score in enumerate(judgement.scores) if number not in gone)
    return dataclasses.replace(judgement, scores=scores)


def _named(record: Mapping[str, Any], path: str) -> str:
    value = get(record["rows"][0] if "rows" in record else record, path)
    if isinstance(value, list):
        return "+".join(map(str, value))
    return "" if value is None else str(value)
