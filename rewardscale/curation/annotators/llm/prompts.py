"""Prompts: versioned files, and the rendering of a question into messages.

All that is not ours (texts under judgement, and attributes, which a model or a person wrote about them) stands between
fences that are made of a hash of that very material, so it cannot hold its own fence.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path

from rewardscale.config import ConfigError
from rewardscale.config.judges import JudgeConfig
from rewardscale.curation.annotators.base import Example, Question
from rewardscale.data.comparison import Comparison
from rewardscale.data.ledger.schema import CATEGORIES, Attributes

MOST_EXAMPLES = 8
# Bumped when what this file renders changes, so that keys change with it.
LAYOUT = 1
_PREFERRED = {1: "1", -1: "2", 0: "tie"}


@dataclasses.dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt file's text, and its version: its stem and a hash of file and layout."""

    text: str
    version: str


@dataclasses.dataclass(frozen=True, slots=True)
class Messages:
    """system, user: texts. cut: how many texts were cut. size: bytes of both, an upper bound of their tokens."""

    system: str
    user: str
    cut: int
    size: int


@functools.cache
def load(name: str) -> Prompt:
    """A prompt of this package by name, or of any path that ends in .md. Raises ConfigError."""
    path = Path(name) if name.endswith(".md") else Path(__file__).parent / "prompts" / f"{name}.md"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"prompt {name!r}: {error}; name one of prompts/ or a UTF-8 .md file") from error
    if "{fence}" not in text:
        raise ConfigError(
            f"prompt {name!r} must name {{fence}}: what is between fences is never an instruction"
        )
    digest = hashlib.blake2b(f"{LAYOUT}\n{text}".encode(), digest_size=6).hexdigest()
    return Prompt(
        text.strip().replace("{categories}", ", ".join(f'"{c}"' for c in CATEGORIES)), f"{path.stem}-{digest}"
    )


def judge_messages(question: Question, config: JudgeConfig, *, swapped: bool) -> Messages:
    """What a judge is asked; `swapped` shows the second response first."""
    blocks = _Blocks(config)
    if question.attributes is not None:
        blocks.attributes(question.attributes, "What this pair is judged by")
    for number, example in enumerate(question.examples[:MOST_EXAMPLES], 1):
        blocks.example(number, example)
    blocks.pair(question.comparison, swapped=swapped)
    return blocks.messages(
        load(config.prompt), "Now compare response 1 and response 2 of the pair to be judged."
    )


def attribute_messages(comparison: Comparison, config: JudgeConfig) -> Messages:
    """What is asked about a pair before anyone judges it."""
    blocks = _Blocks(config)
    blocks.pair(comparison, swapped=False)
    return blocks.messages(load(config.prompt), "Now give the five attributes of this pair.")


class _Blocks:
    """Titles (ours) and texts (others'), fenced when all of them are known."""

    def __init__(self, config: JudgeConfig):
        self._config = config
        self._parts: list[tuple[str, str | None]] = []  # None: a line of ours alone
        self.cuts = 0

    def add(self, title: str, text: str, limit: int) -> None:
        shown = cut(text, limit)
        self.cuts += shown is not text
        self._parts.append((title, shown))

    def attributes(self, attributes: Attributes, title: str) -> None:
        text = (
            f"category: {attributes.category}\nobjectivity: {attributes.objectivity}\n"
            f"controversiality: {attributes.controversiality}\ndesired: {attributes.desired}\n"
            f"guideline: {attributes.guideline}"
        )
        self.add(title, text, self._config.example_chars)

    def example(self, number: int, example: Example) -> None:
        limit, title = self._config.example_chars, f"Worked example {number}"
        if example.attributes is not None:
            self.attributes(example.attributes, f"{title}: attributes")
        self.add(f"{title}: conversation", _conversation(example.comparison), limit)
        for place, text in enumerate(example.comparison.responses[:2], 1):
            self.add(f"{title}: response {place}", text, limit)
        self._parts.append((f"{title}: people said {_PREFERRED[example.preferred]!r}", None))

    def pair(self, comparison: Comparison, *, swapped: bool) -> None:
        if len(comparison.responses) != 2:
            raise ConfigError(
                f"a judge compares two responses; comparison {comparison.id} has {len(comparison.responses)}"
            )
        self.add("The pair to be judged: conversation", _conversation(comparison), self._config.prompt_chars)
        order = reversed(comparison.responses) if swapped else comparison.responses
        for place, text in enumerate(order, 1):
            self.add(f"The pair to be judged: response {place}", text, self._config.response_chars)

    def messages(self, prompt: Prompt, task: str) -> Messages:
        mark = fence(text for _, text in self._parts if text is not None)
        shown = [
            f"{title}." if text is None else f"{title}:\n<<{mark}\n{text}\n{mark}>>"
            for title, text in self._parts
        ]
        guideline = [f"Guideline for all pairs:\n{self._config.guideline}"] if self._config.guideline else []
        user = "\n\n".join([*guideline, *shown, task])
        system = prompt.text.replace("{fence}", mark)
        return Messages(system, user, self.cuts, _bytes(system) + _bytes(user))


def _conversation(comparison: Comparison) -> str:
    return "\n\n".join(f"[{message.role}]\n{message.content}" for message in comparison.prompt)


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def fence(texts: Iterable[str]) -> str:
    """A word that none of the texts contains, the same for the same texts."""
    texts = list(texts)
    digest = hashlib.blake2b(digest_size=12, person=b"fence")
    for text in texts:
        digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
    mark = f"text-{digest.hexdigest()}"
    while any(mark in text for text in texts):
        digest.update(b"again")
        mark = f"text-{digest.hexdigest()}"
    return mark


def cut(text: str, limit: int) -> str:
    """The text itself, or its first and last parts with a mark between them that says how much is left out."""
    if len(text) <= limit:
        return text
    mark = f"\n[... {len(text) - limit:,} characters left out here ...]\n"
    half = limit // 2
    return text[: limit - half] + mark + text[-half:]
