"""The tokenised view of a corpus: token shards and lengths under one tokenizer and template.

The template is one of our own by name (`templates`), or comes with a Hugging Face tokenizer (`chat`).

<view>/shard-*.array_record   record i = the token ids of corpus row i: prompt, then each response
<view>/lengths.npy            uint32 [rows, 1 + K]: tokens of the prompt and of each response (0: absent)
<view>/tokenizer.json         and for a Hugging Face tokenizer what else belongs to it, its template too
<view>/view.json              commit record; `key` hashes corpus, tokenizer and template
"""

import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from grain.sources import ArrayRecordDataSource
from tokenizers import Tokenizer

from rewardscale import atomic
from rewardscale.data.chat import ChatTokenizer, load_chat_tokenizer
from rewardscale.data.comparison import Comparison, DataError
from rewardscale.data.corpus import Corpus, Shards, check_shards, iterate_records, write_shards
from rewardscale.data.templates import Template, get_template, tokenizer_hash

MEMORY_LIMIT_BYTES = 256 * 2**20  # views below this are read once and kept in memory
_TOKEN = np.dtype("<u4")
_ENCODE_AT_ONCE = 512


@dataclasses.dataclass(frozen=True)
class TokenisedView:
    """An opened view; it shares the corpus's row numbers.

    Attributes:
      directory: its folder.
      key: hash (32 hex digits) of corpus, tokenizer and template.
      shards: the token records.
      lengths: uint32 [rows, 1 + K], tokens of prompt and responses.
      vocab_size: number of ids that the tokenizer can produce.
    """

    directory: Path
    key: str
    shards: Shards
    lengths: np.ndarray
    vocab_size: int

    def __len__(self) -> int:
        return len(self.lengths)


def view_key(corpus: Corpus, tokenizer: Tokenizer | ChatTokenizer, template: str | None = None) -> str:
    """Hash (32 hex digits) of what a view depends on; the arguments are those of `build_view`."""
    parts = json.dumps([corpus.fingerprint, *_rule(tokenizer, template).key])
    return hashlib.blake2b(parts.encode(), digest_size=16).hexdigest()


def build_view(
    corpus: Corpus,
    tokenizer: Tokenizer | ChatTokenizer,
    template: str | None = None,
    *,
    progress: Callable[[int], None] | None = None,
) -> TokenisedView:
    """Tokenises `corpus` into `<corpus>/views/<key>`, or opens that view if it is there already.

    Args:
      corpus: the comparisons.
      tokenizer: a chat tokenizer, which brings its template, or a bare tokenizer.
      template: for a bare tokenizer the name of one of our templates.
      progress: called with the number of comparisons done.

    Raises DataError naming the comparison that cannot be encoded (a role that the template does not know, a
    special token written out in a text), or the corpus where a word is outside a closed vocabulary.
    """
    rule = _rule(tokenizer, template)
    key = view_key(corpus, tokenizer, template)
    final = corpus.directory / "views" / key
    if final.exists():
        return open_view(final)
    lengths: list[list[int]] = []
    with atomic.new_directory(final) as folder:
        described = write_shards(folder, _encode(corpus, rule, lengths), total=len(corpus), progress=progress)
        width = max(map(len, lengths))
        table = np.zeros((len(lengths), width), np.uint32)
        for row, values in enumerate(lengths):
            table[row, : len(values)] = values
        np.save(folder / "lengths.npy", table)
        for name, data in rule.files.items():
            atomic.write_bytes(folder / name, data)
        record = {
            **rule.record,
            "key": key,
            "corpus": corpus.fingerprint,
            "tokens": int(table.sum()),
            "shards": described,
            "lengths_sha256": atomic.sha256(folder / "lengths.npy"),
        }
        atomic.write_json(folder / "view.json", record)
    return open_view(final)


def open_chat_tokenizer(view: TokenisedView) -> ChatTokenizer:
    """The tokenizer and template that `view` was built with, to write beside a model that was trained on it.

    Raises DataError if the view was not built with a chat tokenizer, or its files were changed since.
    """
    record = json.loads((view.directory / "view.json").read_text())
    if "chat" not in record:
        raise DataError(
            f"{view.directory} was built with our template {record['template']!r}, which has no chat form"
        )
    chat = load_chat_tokenizer(view.directory, date=record["date"])
    if chat.key != record["chat"]:
        raise DataError(
            f"{view.directory}: its tokenizer or template was changed after it was written; "
            f"delete {view.directory} and build it again"
        )
    return chat


def open_view(directory: Path, *, deep: bool | None = None) -> TokenisedView:
    """Opens a view and checks it against its commit record. Raises DataError naming the file and the mend."""
    directory = Path(directory)
    path = directory / "view.json"
    mend = f"delete {directory} and build it again"
    try:
        record = json.loads(path.read_text())
        shards = check_shards(directory, record["shards"], deep=deep)
        if atomic.sha256(directory / "lengths.npy") != record["lengths_sha256"]:
            raise DataError(f"{directory / 'lengths.npy'} was changed after it was written; {mend}")
        lengths = np.load(directory / "lengths.npy")
        if len(lengths) != len(shards):
            raise DataError(f"{directory}: {len(lengths)} lengths for {len(shards)} token records; {mend}")
        return TokenisedView(directory, record["key"], shards, lengths, record["vocab_size"])
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{error.filename} is missing; {mend}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error!r}); {mend}") from error


@dataclasses.dataclass(frozen=True)
class _Rule:
    """How comparisons become tokens: what of it enters the view's key, its record and its files."""

    key: list[str]
    record: dict[str, Any]
    files: Mapping[str, bytes]
    encode: Callable[[Sequence[Comparison]], Iterable[list[list[int]]]]  # of each: prompt, then each response


def _rule(tokenizer: Tokenizer | ChatTokenizer, template: str | None) -> _Rule:
    if isinstance(tokenizer, ChatTokenizer):
        if template is not None:
            raise DataError(f"a chat tokenizer brings its template; {template!r} cannot be used with it")
        return _chat_rule(tokenizer)
    named = get_template(template or "")
    return _Rule(
        key=[tokenizer_hash(tokenizer), named.name],
        record={"template": named.name, "vocab_size": tokenizer.get_vocab_size(with_added_tokens=True)},
        files={"tokenizer.json": tokenizer.to_str(pretty=True).encode()},
        encode=functools.partial(_encode_apart, tokenizer, named),
    )


def _chat_rule(chat: ChatTokenizer) -> _Rule:
    return _Rule(
        key=[chat.key],
        record={
            "chat": chat.key,
            "template": chat.template_hash,
            "tokenizer": chat.tokenizer_hash,
            "date": chat.date,
            "reward_token": dataclasses.asdict(chat.reward_token),
            "pad_token": chat.pad_token,
            "pad_token_id": chat.pad_token_id,
            "vocab_size": chat.vocab_size,
        },
        files=chat.files,
        encode=functools.partial(_encode_whole, chat),
    )


def _encode(corpus: Corpus, rule: _Rule, lengths: list[list[int]]) -> Iterator[bytes]:
    """Token records in row order; appends each row's lengths to `lengths` on the way."""
    for chunk in itertools.batched(corpus, _ENCODE_AT_ONCE):
        try:
            encoded = rule.encode(chunk)
        except DataError as error:
            raise DataError(f"{corpus.directory}: {error}") from error
        for comparison, parts in zip(chunk, encoded, strict=True):
            if not all(parts):
                raise DataError(f"{corpus.directory}: comparison {comparison.id} has a part without tokens")
            lengths.append([len(p) for p in parts])
            yield np.concatenate([np.asarray(p, _TOKEN) for p in parts]).tobytes()


def _encode_apart(
    tokenizer: Tokenizer, template: Template, comparisons: Sequence[Comparison]
) -> list[list[list[int]]]:
    """By one of our templates, under which prompt and responses may be tokenised apart."""
    texts = [[template.prompt(c), *template.responses(c)] for c in comparisons]
    try:
        encoded = iter(
            tokenizer.encode_batch_fast([t for parts in texts for t in parts], add_special_tokens=False)
        )
    except Exception as error:  # the tokenizers library raises bare Exception
        raise DataError(f"a text cannot be tokenised ({error})") from error
    return [[next(encoded).ids for _ in parts] for parts in texts]


def _encode_whole(chat: ChatTokenizer, comparisons: Sequence[Comparison]) -> list[list[list[int]]]:
    """By a foreign template: whole conversations, parted where their tokens do."""
    parts = []
    encoded = chat.encode_comparisons([(c.prompt, c.responses) for c in comparisons])
    for comparison, item in zip(comparisons, encoded, strict=True):
        if isinstance(item, DataError):
            raise DataError(f"comparison {comparison.id}: {item}") from item
        parts.append([item.prompt, *item.responses])
    return parts


class TokenStore:
    """Random access to a view's tokens by row number, many rows at a time.

    Small views (under 256 MiB of tokens) are read once into memory; larger ones are read record by
    record through grain's ArrayRecordDataSource. Both give the same tokens.
    """

    def __init__(self, view: TokenisedView, *, in_memory: bool | None = None):
        """Raises DataError if the view's tokens cannot be read or are not as many as its lengths say."""
        self._view = view
        per_row = view.lengths.sum(1, dtype=np.int64)
        if in_memory is None:
            in_memory = int(per_row.sum()) * _TOKEN.itemsize <= MEMORY_LIMIT_BYTES
        self._per_row = per_row
        self._flat: np.ndarray | None = None
        if in_memory:
            self._flat = self._decode(list(iterate_records(view.shards)), per_row)
            self._starts = np.concatenate([[0], np.cumsum(per_row)])
        else:
            self._source = ArrayRecordDataSource([str(p) for p in view.shards.paths])

    def __len__(self) -> int:
        return len(self._view)

    def gather(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of `rows`, one after another.

        Returns:
          flat uint32 [sum of the rows' tokens] and starts int64 [len(rows)], where each row's tokens
          (prompt, then responses, as long as `lengths` says) begin in it.

        Raises DataError if a record does not hold what the lengths say.
        """
        sizes = self._per_row[rows]
        starts = np.concatenate([[0], np.cumsum(sizes)])[:-1]
        if self._flat is not None:
            return self._flat[ragged_arange(self._starts[rows], sizes)], starts
        if not len(rows):
            return np.zeros(0, _TOKEN), starts
        try:
            records = self._source.__getitems__(rows.tolist())  # pyright: ignore[reportAttributeAccessIssue]
        except (RuntimeError, ValueError) as error:
            raise DataError(
                f"{self._view.directory}: token records cannot be read ({error}); "
                "delete the view and build it again"
            ) from error
        return self._decode(records, sizes), starts

    def _decode(self, records: Sequence[bytes], sizes: np.ndarray) -> np.ndarray:
        """The records' tokens, one after another; DataError unless record i holds sizes[i] tokens."""
        if not np.array_equal([len(record) for record in records], sizes * _TOKEN.itemsize):
            raise DataError(
                f"{self._view.directory}: token records disagree with lengths.npy; "
                "delete the view and build it again"
            )
        return np.frombuffer(b"".join(records), _TOKEN)


def ragged_arange(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Concatenation of arange(start, start + size), int64; sizes may be 0."""
    sizes = np.asarray(sizes, np.int64)
    ends = np.cumsum(sizes)
    return np.arange(int(ends[-1]) if len(ends) else 0) + np.repeat(
        np.asarray(starts, np.int64) - (ends - sizes), sizes
    )


@functools.lru_cache(maxsize=4)
def token_store(directory: Path) -> TokenStore:
    """The store of the view at `directory`, opened once a process."""
    return TokenStore(open_view(directory))
