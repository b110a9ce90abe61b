"""A reward model with its tokenizer and template, loaded once: conversations in, rewards out.

Rewards are raw logits in float32. Which comparisons are scored together changes none beyond rounding.
"""

import collections
import dataclasses
import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rewardscale.config import ConfigError, ModelConfig
from rewardscale.data import rows as tree_rows
from rewardscale.data.chat import ChatTokenizer, EncodedComparison, load_chat_tokenizer
from rewardscale.data.comparison import DataError
from rewardscale.data.records import Item
from rewardscale.evaluation import followers
from rewardscale.evaluation.shapes import Ladder, Microbatch, Shape, deal, make_ladder, trees_that_fit
from rewardscale.mesh import BATCH_AXES, make_mesh, place
from rewardscale.models import hf, products, reward

TOO_LONG = ("refuse", "truncate_left_of_prompt")
DTYPES = ("float32", "bfloat16")
_LONGEST_BY_DEFAULT = 4096
_IN_FLIGHT = 4  # microbatches given to the device before the first one's rewards are fetched


@dataclasses.dataclass(frozen=True)
class Prepared:
    """An item as token ids, checked: it can be scored.

    Attributes:
      skip: prompt tokens to leave out, the oldest first. pair: see records.Item.
    """

    encoded: EncodedComparison
    skip: int = 0
    pair: bool = False

    @property
    def lengths(self) -> list[int]:
        """Tokens of each conversation, prompt included, that are read."""
        return [len(self.encoded.prompt) - self.skip + len(response) for response in self.encoded.responses]

    @functools.cached_property
    def different(self) -> dict[tuple[int, ...], int]:
        """The responses that are computed, each with its number: the same one twice is computed once."""
        return {response: k for k, response in enumerate(dict.fromkeys(map(tuple, self.encoded.responses)))}


@dataclasses.dataclass(frozen=True, eq=False)
class RewardScorer:
    """A loaded reward model.

    Attributes:
      name: of the model. chat: its tokenizer and template.
      config, params, mesh: the model and what it is spread over.
      dtype: of weights and computation; the head is float32 in any case.
      max_length: most tokens of a prompt with its longest response.
      ladder: the shapes in which it computes.
      label: the checkpoint's name of its one output.
      responses_per_tree: most that share a computed prompt; 0 for any number.
    """

    name: str
    chat: ChatTokenizer
    config: ModelConfig
    params: reward.Params
    mesh: Mesh
    dtype: str
    max_length: int
    ladder: Ladder
    label: str
    responses_per_tree: int = 0

    @classmethod
    def load(
        cls,
        directory: str | Path,
        *,
        revision: str | None = None,
        mesh: Mesh | tuple[int, int, int] = (-1, 1, 1),
        dtype: str = "float32",
        max_length: int = 0,
        batch_tokens: int = 8192,
    ) -> "RewardScorer":
        """Loads a Hugging Face directory (or hub id) that holds a reward model, its tokenizer and template.

        Args:
          mesh: what the model is spread over, or the sizes of one over all devices (data, fsdp, tensor), of which
            one may be -1 (what is left).
          max_length: 0 means the model's context, at most 4096.
          batch_tokens: tokens computed in one call.

        Raises ConfigError for a directory or a setting that cannot be used (no reward head among them), DataError
        for a tokenizer or template that cannot.
        """
        checkpoint = hf.open_checkpoint(directory, revision=revision)
        if not checkpoint.has_head:
            raise ConfigError(
                f"{directory} is a language model without a reward head, whose rewards would be noise; "
                "name the directory of a trained reward model"
            )
        if dtype not in DTYPES:
            raise ConfigError(f"dtype={dtype!r} must be one of {', '.join(DTYPES)}")
        products.check(dtype)
        context = checkpoint.context
        longest = max_length or min(context, _LONGEST_BY_DEFAULT)
        if not 0 < longest <= context:
            raise ConfigError(
                f"max_length={max_length} must lie within 1..{context}, the context of {directory}"
            )
        if batch_tokens < 1:
            raise ConfigError(f"batch_tokens={batch_tokens} must be greater than 0")
        chat = _tokenizer(checkpoint)
        devices = mesh if isinstance(mesh, Mesh) else make_mesh(mesh)
        labels = checkpoint.config.get("id2label") or {}
        return cls(
            name=Path(directory).resolve().name if Path(directory).exists() else str(directory),
            chat=chat,
            config=checkpoint.model,
            params=hf.load(checkpoint, devices, dtype=dtype),
            mesh=devices,
            dtype=dtype,
            max_length=longest,
            ladder=make_ladder(
                longest,
                batch_tokens,
                width=checkpoint.model.width,
                multiple=int(np.prod([devices.shape[axis] for axis in BATCH_AXES])),
            ),
            label=str(labels.get("0", "LABEL_0")),
        )

    def prepare(
        self, items: Sequence[Item], *, too_long: str = "refuse", allow_special_text: bool = False
    ) -> list[Prepared | DataError]:
        """Renders and tokenises items; where one cannot be scored, the reason stands in its place.

        Args:
          too_long: "refuse", or "truncate_left_of_prompt": the oldest part of the prompt goes.
          allow_special_text: as in ChatTokenizer.encode_comparisons.
        """
        encoded: list[EncodedComparison | DataError] = [DataError("")] * len(items)
        by_tools: dict[str, list[int]] = {}
        for number, item in enumerate(items):
            by_tools.setdefault(json.dumps(item.tools), []).append(number)
        for numbers in by_tools.values():
            found = iter(
                self.chat.encode_comparisons(
                    [part for n in numbers for part in items[n].parts],
                    tools=items[numbers[0]].tools,
                    allow_special_text=allow_special_text,
                )
            )
            for n in numbers:
                encoded[n] = _joined([next(found) for _ in items[n].parts])
        return [
            one if isinstance(one, DataError) else self._checked(one, too_long, pair=item.pair)
            for one, item in zip(encoded, items, strict=True)
        ]

    def prepare_texts(
        self, texts: Sequence[str | Sequence[int]], *, add_special_tokens: bool, too_long: str = "refuse"
    ) -> list[Prepared | DataError]:
        """Texts rendered already (or token ids), one reward each, read at the last token that is no pad token.

        Special tokens written in a text become those tokens. A beginning-of-sequence token that the tokenizer adds
        (with `add_special_tokens`) and the text has too is there once.
        """
        bos = self.chat.bos_token if add_special_tokens else None
        whole = [text.removeprefix(bos) if bos and isinstance(text, str) else text for text in texts]
        try:
            given = [text for text in whole if isinstance(text, str)]
            encodings = iter(
                self.chat.tokenizer.encode_batch_fast(given, add_special_tokens=add_special_tokens)
            )
        except Exception as error:  # the tokenizers library raises bare Exception
            return [DataError(f"a text cannot be tokenised ({error})")] * len(texts)
        out: list[Prepared | DataError] = []
        for text in whole:
            ids = list(next(encodings).ids if isinstance(text, str) else text)
            while ids and ids[-1] == self.chat.pad_token_id:
                ids.pop()
            if not ids:
                out.append(DataError("the text is empty"))
            elif min(ids) < 0:
                out.append(DataError(f"token id {min(ids)} is negative"))
            else:
                out.append(self._checked(EncodedComparison(ids[:-1], [ids[-1:]]), too_long))
        return out

    def _checked(
        self, encoded: EncodedComparison, too_long: str, *, pair: bool = False
    ) -> Prepared | DataError:
        largest = max(map(max, [encoded.prompt or [0], *encoded.responses]))
        if largest >= self.config.vocab_size:
            return DataError(
                f"token id {largest} is not among the {self.config.vocab_size} that the model knows"
            )
        longest = max(map(len, encoded.responses))
        over = len(encoded.prompt) + longest - self.max_length
        if over <= 0:
            return Prepared(encoded, 0, pair)
        if too_long == "refuse":
            return DataError(
                f"too long: {over + self.max_length} tokens, and {self.max_length} are allowed (max_length, too_long)"
            )
        if over >= len(encoded.prompt):
            return DataError(
                f"too long: a response of {longest} tokens leaves no room for a prompt within {self.max_length}"
            )
        return Prepared(encoded, over, pair)

    def score(
        self, items: Sequence[Prepared], *, done: Callable[[int], None] | None = None
    ) -> list[np.ndarray]:
        """Rewards float32 [responses] of each item, in the order given; not finite where the model says so.

        `done` is told the number of tokens of each finished microbatch. The same response twice in one item is
        computed once: its rewards are exactly equal, which rounding would not make them at two places of a row.
        """
        if not items:
            return []
        out = [np.full(len(item.different), np.nan, np.float32) for item in items]
        table = tree_rows.TokenTable.of([[item.encoded.prompt, *item.different] for item in items])
        trees, sizes = self._trees(items)
        waiting: collections.deque[tuple[Microbatch, tuple[jax.Array, jax.Array]]] = collections.deque()
        for batch in deal(sizes, self.ladder, trees.branch):
            waiting.append((batch, self._call(table, trees, batch)))
            if len(waiting) > _IN_FLIGHT:
                _collect(*waiting.popleft(), trees, sizes, out, done)
        while waiting:
            _collect(*waiting.popleft(), trees, sizes, out, done)
        return [
            values[[item.different[tuple(response)] for response in item.encoded.responses]]
            for item, values in zip(items, out, strict=True)
        ]

    def tokens(self, items: Sequence[Prepared]) -> int:
        """Tokens that scoring `items` computes, padding left out."""
        return int(self._trees(items)[1].sum())

    def _trees(self, items: Sequence[Prepared]) -> tuple[tree_rows.Trees, np.ndarray]:
        """The trees of all different responses, and their sizes in tokens."""
        prompts = [len(item.encoded.prompt) - item.skip for item in items]
        responses = [[len(response) for response in item.different] for item in items]
        skip = np.array([item.skip for item in items], np.int64)
        return trees_that_fit(prompts, responses, skip, self.ladder, self.responses_per_tree)

    def warm_up(self) -> Iterable[Shape]:
        """Compiles the program of each shape, the largest first; yields each shape when it is ready."""
        none, (trees, _) = np.zeros(0, np.int64), self._trees([])
        for shape in self.ladder.shapes:
            empty = Microbatch(shape, none, none, none, none)
            jax.block_until_ready(self._call(tree_rows.TokenTable.of([]), trees, empty))
            yield shape

    def _call(
        self, table: tree_rows.TokenTable, trees: tree_rows.Trees, batch: Microbatch
    ) -> tuple[jax.Array, jax.Array]:
        arrays = tree_rows.assemble(
            table, table.lengths, trees[batch.trees], batch.row, batch.offset, batch.slot,
            shape=(batch.shape.rows, batch.shape.length), slots=batch.shape.slots,
        )  # fmt: skip
        followers.tell(arrays)
        return self.compute(arrays)

    def compute(self, arrays: Mapping[str, np.ndarray]) -> tuple[jax.Array, jax.Array]:
        """Rewards of the left and right responses [rows, slots] of a microbatch (data/rows.py); all hosts call it."""
        placed = place(dict(arrays), dict.fromkeys(arrays, NamedSharding(self.mesh, P(BATCH_AXES))))
        return _compiled(self.config, reward.Options(dtype=self.dtype), self.mesh)(self.params, placed)


def _tokenizer(checkpoint: hf.Checkpoint) -> ChatTokenizer:
    """The checkpoint's tokenizer, with the pad token that its weights were trained with (config.json)."""
    chat = load_chat_tokenizer(checkpoint.directory)
    pad = checkpoint.pad_token_id
    if pad is None or pad == chat.pad_token_id:
        return chat
    named = chat.tokenizer.id_to_token(pad)
    if named is None:
        raise ConfigError(
            f"{checkpoint.directory}/config.json: the tokenizer knows no token pad_token_id={pad}"
        )
    return load_chat_tokenizer(checkpoint.directory, pad_token=named)


def _joined(parts: Sequence[EncodedComparison | DataError]) -> EncodedComparison | DataError:
    """Conversations that part early as one comparison: the prompt is what their ids begin with in common."""
    whole = []
    for part in parts:
        if isinstance(part, DataError) or len(parts) == 1:
            return part
        whole += [part.prompt + response for response in part.responses]
    least = min(map(len, whole)) - 1
    shared = next((i for i in range(least) if len({ids[i] for ids in whole}) > 1), least)
    return EncodedComparison(whole[0][:shared], [ids[shared:] for ids in whole])


def _collect(
    batch: Microbatch,
    result: tuple[jax.Array, jax.Array],
    trees: tree_rows.Trees,
    sizes: np.ndarray,
    out: list[np.ndarray],
    done: Callable[[int], None] | None,
) -> None:
    """Puts a microbatch's rewards where they belong."""
    left, right = jax.device_get(result)
    for tree, row, slot in zip(batch.trees, batch.row, batch.slot, strict=True):
        rewards = out[trees.rows[tree]]
        rewards[trees.right[tree]] = right[row, slot]
        if trees.left[tree] != tree_rows.ABSENT:
            rewards[trees.left[tree]] = left[row, slot]
    if done is not None:
        done(int(sizes[batch.trees].sum()))


@functools.lru_cache(maxsize=8)
def _compiled(config: ModelConfig, options: reward.Options, mesh: Mesh) -> Callable[..., Any]:
    forward = dataclasses.replace(options, differentiated=False)

    def run(params: reward.Params, arrays: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        with reward.exact_products(options):
            return reward.rewards(config, params, arrays, forward, mesh)

    return jax.jit(
        run,
        in_shardings=(reward.shardings(mesh, reward.abstract(config)), NamedSharding(mesh, P(BATCH_AXES))),
        out_shardings=NamedSharding(mesh, P()),
    )
