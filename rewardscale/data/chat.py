"""A Hugging Face tokenizer with its chat template: how a comparison becomes the token ids that a reward is read from.

The ids are those of transformers' `apply_chat_template`. They are also those of the recipe on many model cards
(render, cut a beginning-of-sequence token that the tokenizer adds again, tokenise): a tokenizer for which the two
differ is refused. Facts on tokens and templates: docs/templates.md.
"""

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from rewardscale import atomic
from rewardscale.data import chat_files
from rewardscale.data.chat_template import FROZEN_DATE, ChatMessage, render
from rewardscale.data.comparison import DataError, Message
from rewardscale.data.templates import tokenizer_hash

_PROBE_PROMPT = Message("user", "Is tea warm?")
_PROBES = ("Yes, so it is.", "7 cups of it")


@dataclasses.dataclass(frozen=True)
class EncodedComparison:
    """Token ids of a comparison: `prompt + responses[k]` are the ids of the whole conversation k.

    Attributes:
      prompt: what the K conversations begin with in common; at least one token.
      responses: the rest of each; at least one token, the last being the one the reward is read at.
    """

    prompt: list[int]
    responses: list[list[int]]


@dataclasses.dataclass(frozen=True)
class RewardToken:
    """Where the reward is read: the last token of a conversation.

    Attributes:
      id, text: the token ("<|eot_id|>" for Llama 3, the newline after "<|im_end|>" for Qwen3).
      closing: what the template writes after a response.
    """

    id: int
    text: str
    closing: str


@dataclasses.dataclass(frozen=True, eq=False)
class ChatTokenizer:
    """A tokenizer, a Jinja chat template, and the special tokens that go with them.

    Raises DataError if the pad token is the end-of-sequence token or is written by the template, if the template
    ends a response without a special token, or if the tokenizer adds tokens that the template does not write.

    Attributes:
      tokenizer: without truncation and padding.
      template: Jinja source.
      named_tokens: what the template sees: bos_token, eos_token, pad_token, ...
      tool_template: the one used instead where tools are given, if there is one.
      date: what strftime_now gives.
      files: name -> contents of what is written beside exported weights, for transformers to load the same.
    """

    tokenizer: Tokenizer
    template: str
    named_tokens: Mapping[str, str]
    tool_template: str | None = None
    date: str = FROZEN_DATE
    files: Mapping[str, bytes] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(self)

    @property
    def bos_token(self) -> str | None:
        return self.named_tokens.get("bos_token")

    @property
    def eos_token(self) -> str | None:
        return self.named_tokens.get("eos_token")

    @property
    def pad_token(self) -> str:
        return self.named_tokens["pad_token"]

    @functools.cached_property
    def pad_token_id(self) -> int:
        id = self.tokenizer.token_to_id(self.pad_token)
        if id is None:
            raise DataError(f"pad token {self.pad_token!r} is not in the vocabulary")
        return id

    @functools.cached_property
    def vocab_size(self) -> int:
        """One more than the largest id: rows that an embedding needs."""
        return max(self.tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    @functools.cached_property
    def template_hash(self) -> str:
        """Hash (32 hex digits) of the templates' sources."""
        return _digest([self.template, self.tool_template])

    @functools.cached_property
    def tokenizer_hash(self) -> str:
        """Hash (32 hex digits) of the tokenizer's definition."""
        return tokenizer_hash(self.tokenizer)

    @functools.cached_property
    def key(self) -> str:
        """Hash (32 hex digits) of all that ids depend on: templates, tokenizer, date, named special tokens."""
        return _digest(
            [self.template_hash, self.tokenizer_hash, self.date, sorted(self.named_tokens.items())]
        )

    @functools.cached_property
    def special_tokens(self) -> frozenset[str]:
        """Texts that the tokenizer turns into special tokens wherever they stand."""
        added = self.tokenizer.get_added_tokens_decoder().values()
        return frozenset(
            {token.content for token in added if token.special} | set(self.named_tokens.values())
        )

    @functools.cached_property
    def reward_token(self) -> RewardToken:
        """Found by rendering two responses. Raises DataError if the template has no place to read a reward at."""
        return _reward_token(self)

    def render(
        self,
        messages: Sequence[ChatMessage],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = False,
        **variables: Any,
    ) -> str:
        """The conversation as text; `variables` are passed to the template. Raises DataError: see `chat_template`."""
        source = self.template if tools is None or self.tool_template is None else self.tool_template
        return render(
            source,
            messages,
            date=self.date,
            tools=tools,
            add_generation_prompt=add_generation_prompt,
            variables={**self.named_tokens, **variables},
        )

    def encode(
        self,
        messages: Sequence[ChatMessage],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = False,
        **variables: Any,
    ) -> list[int]:
        """Token ids of the conversation, as `apply_chat_template` gives them. Raises DataError as `render` does.

        A special token written out in a message becomes that token, as in transformers; `encode_comparison` refuses it.
        """
        text = self.render(messages, tools=tools, add_generation_prompt=add_generation_prompt, **variables)
        return self._encode(text)

    def encode_comparison(
        self,
        prompt: Sequence[ChatMessage],
        responses: Sequence[str],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        allow_special_text: bool = False,
    ) -> EncodedComparison:
        """Token ids of K >= 1 responses to one prompt; see `encode_comparisons`. Raises DataError."""
        (encoded,) = self.encode_comparisons(
            [(prompt, responses)], tools=tools, allow_special_text=allow_special_text
        )
        if isinstance(encoded, DataError):
            raise encoded
        return encoded

    def encode_comparisons(
        self,
        batch: Sequence[tuple[Sequence[ChatMessage], Sequence[str]]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        allow_special_text: bool = False,
    ) -> list[EncodedComparison | DataError]:
        """Token ids of many (prompt, responses), whole conversations encoded in parallel.

        The shared prompt of K responses is the longest common prefix of their K conversations, as tokens; a
        response alone parts from its prompt where another answer would. So no merge across the boundary is lost.

        Args:
          batch: (prompt, K >= 1 responses) each.
          tools: JSON schemas of functions, the same for all.
          allow_special_text: let a special token that is written out in a text become that token, as
            transformers does. Otherwise such an item fails: it could end its own turn, or speak for another.

        Returns, in order, the ids, or the DataError that says why there are none: no prompt, no response, an
        empty response, a conversation that the template refuses, a special or pad token written out.
        """
        texts = _each(batch, lambda item: self._conversations(*item, tools, allow_special_text))
        ids = self._encode_each(texts)
        paired = [
            item if isinstance(item, DataError) else (item, len(responses))
            for item, (_, responses) in zip(ids, batch, strict=True)
        ]
        return _each(paired, lambda item: self._split(*item))

    def save(self, directory: Path) -> None:
        """Writes `files` into `directory`, each whole or not at all."""
        for name, data in self.files.items():
            atomic.write_bytes(Path(directory) / name, data)

    def _conversations(
        self,
        prompt: Sequence[ChatMessage],
        responses: Sequence[str],
        tools: Sequence[Mapping[str, Any]] | None,
        allow_special_text: bool,
    ) -> list[str]:
        """The K conversations as text, and for a response alone another answer's, to part it from its prompt."""
        for where, value in (("messages of the prompt", prompt), ("responses", responses)):
            if isinstance(value, str) or not isinstance(value, Sequence):
                raise DataError(f"the {where} are a {type(value).__name__}; needed: a list")
        if not prompt:
            raise DataError("the prompt is empty; give at least one message")
        if not responses:
            raise DataError("there is no response; give at least one")
        for number, response in enumerate(responses):
            if not isinstance(response, str):
                raise DataError(f"response {number} is a {type(response).__name__}; needed: a string")
            if not response.strip():
                raise DataError(f"response {number} is empty; take it out")
        if not allow_special_text:
            for where, value in (("prompt's messages", prompt), ("tools", tools), ("responses", responses)):
                _refuse_special(where, value, self._special_pattern)
        if len(responses) == 1:
            responses = [*responses, "0" if responses[0].lstrip()[0] != "0" else "1"]
        return [
            self.render([*prompt, {"role": "assistant", "content": response}], tools=tools)
            for response in responses
        ]

    @functools.cached_property
    def _special_pattern(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, sorted(self.special_tokens, key=len, reverse=True))))

    def _encode(self, text: str) -> list[int]:
        # Special tokens are the template's to write. `_check` has seen that the tokenizer would add no other.
        try:
            return self.tokenizer.encode(text, add_special_tokens=False).ids
        except Exception as error:  # the tokenizers library raises bare Exception
            raise DataError(f"a conversation cannot be tokenised ({error})") from error

    def _encode_each(self, items: Sequence[list[str] | DataError]) -> list[list[list[int]] | DataError]:
        """Ids of each item's texts, all encoded at once; one item that cannot be tokenised fails alone."""
        texts = [text for item in items if not isinstance(item, DataError) for text in item]
        try:
            encoded = iter(self.tokenizer.encode_batch_fast(texts, add_special_tokens=False))
        except Exception:  # as above; which text it was is not said
            return _each(items, lambda item: [self._encode(text) for text in item])
        return _each(items, lambda item: [next(encoded).ids for _ in item])

    def _split(self, whole: Sequence[list[int]], count: int) -> EncodedComparison:
        """Ids of the conversations -> ids of the prompt and of the first `count` responses. Raises DataError."""
        for number, ids in enumerate(whole[:count]):
            if not ids or ids[-1] != self.reward_token.id:
                raise DataError(
                    f"the chat template does not end response {number} with {self.reward_token.closing!r}, "
                    "so there is no token to read the reward at"
                )
            if self.pad_token_id in ids:
                raise DataError(
                    f"the conversation of response {number} holds the pad token {self.pad_token!r}; "
                    "take it out, or name another pad token (pad_token=...)"
                )
        shared = min(_common_prefix(whole), min(map(len, whole[:count])) - 1)
        if not shared:
            raise DataError(
                "the chat template begins these conversations with different tokens; nothing is shared"
            )
        return EncodedComparison(whole[0][:shared], [ids[shared:] for ids in whole[:count]])


def load_chat_tokenizer(
    directory: Path,
    *,
    pad_token: str | None = None,
    template: Path | str | None = None,
    date: str = FROZEN_DATE,
) -> ChatTokenizer:
    """The tokenizer and chat template of a Hugging Face directory (tokenizer.json, tokenizer_config.json, ...).

    Args:
      directory: a folder as `save_pretrained` writes it.
      pad_token: the pad token, a special token of the vocabulary. Without it the one that the folder names,
        or where it names none the one that its family keeps for this (Llama 3: <|finetune_right_pad_id|>).
      template: a Jinja file, or Jinja source, instead of the folder's own template.
      date: what the template's strftime_now gives.

    Raises DataError naming the folder, or the file in it, and the mend.
    """
    directory = Path(directory)
    read = chat_files.read(directory, pad_token=pad_token, template=template)
    try:
        return ChatTokenizer(
            tokenizer=read.tokenizer,
            template=read.template,
            named_tokens=read.named_tokens,
            tool_template=read.tool_template,
            date=date,
            files=read.files,
        )
    except DataError as error:
        raise DataError(f"{directory}: {error}") from error


def _check(chat: ChatTokenizer) -> None:
    """Raises DataError where a reward could not be read, or would not be the one that transformers gives."""
    tokenizer = chat.tokenizer
    mend = chat_files.suggest_pad(chat.named_tokens, chat_files.added_tokens(tokenizer))
    if chat.pad_token == chat.eos_token:
        raise DataError(f"the pad token is the end-of-sequence token {chat.eos_token!r}; {mend}")
    probe = chat.render([_PROBE_PROMPT, Message("assistant", _PROBES[0])])
    if chat.pad_token_id in chat.encode([_PROBE_PROMPT, Message("assistant", _PROBES[0])]):
        raise DataError(f"the chat template writes the pad token {chat.pad_token!r}; {mend}")
    _ = chat.reward_token
    # apply_chat_template leaves out what the tokenizer adds to a text; model cards cut the second BOS instead.
    added = tokenizer.encode("", add_special_tokens=True).ids
    bos = tokenizer.token_to_id(chat.bos_token) if chat.bos_token else None
    if added and not (added == [bos] and probe.startswith(chat.bos_token or "")):
        names = [tokenizer.id_to_token(id) for id in added]
        raise DataError(
            f"the tokenizer adds {names} to a text and the chat template does not write them, so transformers' "
            "apply_chat_template and its tokenizer called on the rendered text give different ids; write them in the "
            "template (template=...), or take them out of tokenizer.json's post_processor, as the model was trained"
        )


def _reward_token(chat: ChatTokenizer) -> RewardToken:
    closings, ids = [], []
    for response in _PROBES:
        messages = [_PROBE_PROMPT, Message("assistant", response)]
        _, found, closing = chat.render(messages).rpartition(response)
        if not found:
            raise DataError(f"the chat template leaves out the response ({response!r} is not in the text)")
        closings.append(closing)
        ids.append(chat.encode(messages))
    closing = closings[0]
    if not any(token in closing for token in chat.special_tokens):
        raise DataError(
            f"the chat template ends a response with {closing!r}, without a special token at which the reward "
            "could be read; give a template that writes one there, such as {{ eos_token }}: template=..."
        )
    if closings[1] != closing or ids[0][-1] != ids[1][-1]:
        raise DataError(
            f"the chat template ends one response with {closing!r} and another with {closings[1]!r}"
        )
    last = ids[0][-1]
    return RewardToken(last, chat.tokenizer.decode([last], skip_special_tokens=False), closing)


def _each[A, B](items: Sequence[A | DataError], step: Callable[[A], B]) -> list[B | DataError]:
    """`step` of each item in order; an item that failed, before or here, is its DataError."""
    results: list[B | DataError] = []
    for item in items:
        try:
            results.append(item if isinstance(item, DataError) else step(item))
        except DataError as error:
            results.append(error)
    return results


def _common_prefix(sequences: Sequence[list[int]]) -> int:
    """Length of the longest common prefix: that of the first and the last in order."""
    first, last = min(sequences), max(sequences)
    return next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))


def _refuse_special(where: str, value: Any, pattern: re.Pattern[str]) -> None:
    for text in _texts(value):
        if found := pattern.search(text):
            raise DataError(
                f"the {where} hold the special token {found[0]!r} as text, which would become that token; "
                "take it out, or allow it (allow_special_text=True)"
            )


def _texts(value: Any) -> Iterator[str]:
    """Every string in a structure of messages, mappings and sequences, keys included."""
    match value:
        case str():
            yield value
        case Message():
            yield value.role
            yield value.content
        case Mapping():
            for key, item in value.items():
                yield from _texts(key)
                yield from _texts(item)
        case list() | tuple():
            for item in value:
                yield from _texts(item)
        case _:
            pass


def _digest(parts: object) -> str:
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()
