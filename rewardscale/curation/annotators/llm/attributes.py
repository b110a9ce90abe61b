"""Preference attributes of a pair, written by a model (Skywork-Reward-V2, arXiv 2507.01352, section 3.1)."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from rewardscale.config.judges import PICO, JudgeConfig
from rewardscale.curation.annotators.base import Estimate, Question
from rewardscale.curation.annotators.llm import panel
from rewardscale.curation.annotators.llm.calls import CallLog, key_of
from rewardscale.curation.annotators.llm.client import TEMPLATE_TOKENS, CallFailed, Client, Request
from rewardscale.curation.annotators.llm.parse import Unreadable, json_object
from rewardscale.curation.annotators.llm.prompts import attribute_messages, load
from rewardscale.data.ledger.schema import CATEGORIES, Attributes

_CHOICES = {
    "category": CATEGORIES,
    "objectivity": ("objective", "subjective"),
    "controversiality": ("low", "medium", "high"),
}
_TEXT_CHARS = 2000

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        **{name: {"type": "string", "enum": list(values)} for name, values in _CHOICES.items()},
        "desired": {"type": "string"},
        "guideline": {"type": "string"},
    },
    "required": [*_CHOICES, "desired", "guideline"],
    "additionalProperties": False,
}


def parse(text: Any, author: str) -> Attributes:
    """Reads the five attributes. Raises Unreadable and nothing else."""
    record = json_object(text)
    if set(record) != set(SCHEMA["required"]):
        raise Unreadable(f"fields {sorted(record)}")
    for name, value in record.items():
        if not isinstance(value, str) or not value.strip() or len(value) > _TEXT_CHARS:
            raise Unreadable(f"{name} is not a text of 1 to {_TEXT_CHARS} characters")
        if name in _CHOICES and value not in _CHOICES[name]:
            raise Unreadable(f"{name} {value!r:.50}")
    return Attributes(**record, author=author)


@dataclasses.dataclass(frozen=True, slots=True)
class Described:
    """The attributes of one pair."""

    row: int
    comparison: str
    attributes: Attributes


class AttributeWriter:
    """Writes the attributes of pairs, one call a pair; cache, budget and failures as a judge has them.

    Args:
      config: of the model; its `prompt` is a file as prompts/attributes.md, its votes do not matter.
      log: as for LLMJudge.
    """

    def __init__(self, config: JudgeConfig, log: CallLog):
        if config.prompt == "judge":
            config = dataclasses.replace(config, prompt="attributes")
        self.config, self.log, self.name = config, log, config.name
        self.prompt_version = load(config.prompt).version
        self.tally = panel.Tally()

    def describe(self, questions: Sequence[Question]) -> Iterator[Described]:
        """Attributes a question, in any order, each as soon as it is there. Raises as `panel.run` does."""
        return panel.run([self], questions)

    def estimate(self, questions: Sequence[Question]) -> Estimate:
        """An upper bound: a call a pair, a token a byte of prompt, what is already paid included."""
        tokens_in = tokens_out = 0
        for question in questions:
            tokens_in += attribute_messages(question.comparison, self.config).size + TEMPLATE_TOKENS
            tokens_out += self.config.max_tokens
        price = self.log.budget.config.price(self.config.model)
        cost = price.pico(tokens_in, tokens_out) / PICO
        return Estimate(len(questions), tokens_in, tokens_out, cost, panel.seconds(self, len(questions)))

    def _read(self, key: str) -> Attributes | None:
        for text, _ in self.log.of(key):
            try:
                return parse(text, self.name)
            except Unreadable:
                continue
        return None

    async def answer(self, client: Client, question: Question, iteration: int | None) -> Described | None:
        """See `panel.Asker`."""
        config = self.config
        messages = attribute_messages(question.comparison, config)
        key = key_of("attributes", config.sampling, self.prompt_version, messages.system, messages.user)
        why = "unreadable"
        while (found := self._read(key)) is None and len(self.log.of(key)) <= config.re_asks:
            seed = config.seed + len(self.log.of(key))
            try:
                await client.ask(Request(messages, [key], seed, SCHEMA, question.comparison.id))
            except CallFailed as error:
                why = str(error)
                break
        if found is None:
            self.tally.failed[why] += 1
            return None
        self.tally.answered += 1
        return Described(question.row, question.comparison.id, found)
