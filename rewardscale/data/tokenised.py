"""The tokenised view of a corpus: token shards and lengths under one tokenizer and template.

The template is one of our own by name (`templates`), or comes with a Hugging Face tokenizer (`chat`).

<view>/shard-*.tokens    token ids of the corpus's rows, in order; lengths.npy, starts.npy, sums.npy say where
                         (`token_shards`; older views: shard-*.array_record, a record a row, and lengths.npy)
<view>/tokenizer.json    and for a Hugging Face tokenizer what else belongs to it, its template too
<view>/view.json         commit record; `key` hashes corpus, tokenizer and template
<view>/batches/          plans of large runs (`pipeline`), made when they are first needed
"""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from tokenizers import Tokenizer

from rewardscale import atomic, stages
from rewardscale.data import arrays, remote
from rewardscale.data.chat import ChatTokenizer, load_chat_tokenizer
from rewardscale.data.comparison import Comparison, DataError
from rewardscale.data.corpus import Corpus, Shards, check_shards, read_shard
from rewardscale.data.templates import Template, get_template, tokenizer_hash
from rewardscale.data.token_shards import (
    INDEX,
    TOKEN,
    FlatTokens,
    RecordTokens,
    Rows,
    check_token_shards,
    flatten,
    ragged_arange,
    write_token_shards,
)

__all__ = [
    "TokenStore",
    "TokenisedView",
    "build_view",
    "open_view",
    "ragged_arange",
    "token_store",
    "view_key",
]

MEMORY_LIMIT_BYTES = 256 * 2**20  # views below this are read once and kept in memory
_ENCODE_AT_ONCE = 512


@dataclasses.dataclass(frozen=True)
class TokenisedView:
    """An opened view; it shares the corpus's row numbers.

    Attributes:
      directory: its folder.
      key: hash (32 hex digits) of corpus, tokenizer and template.
      shards: the token shards.
      lengths: uint32 [rows, 1 + K], tokens of prompt and responses; mapped where it is large.
      index: arrays that say where in flat shards the rows lie (`starts`, `sums`); none in older views.
      tokens: in all shards.
      vocab_size: number of ids that the tokenizer can produce.
      described: of each shard, its size and SHA-256.
    """

    directory: Path
    key: str
    shards: Shards
    lengths: np.ndarray
    index: Mapping[str, np.ndarray]
    tokens: int
    vocab_size: int
    described: Sequence[Mapping[str, Any]] = ()

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
    engine: Any = None,
    progress: Callable[[int], None] | None = None,
) -> TokenisedView:
    """Tokenises `corpus` into `<corpus>/views/<key>`, or opens that view if it is there already.

    Args:
      corpus: the comparisons.
      tokenizer: a chat tokenizer, which brings its template, or a bare tokenizer.
      template: for a bare tokenizer the name of one of our templates.
      engine: of the stages (rewardscale/stages), a task a shard of the corpus, so that an interrupted view goes on
        where it stopped; None encodes here, at once. The bytes are the same.
      progress: called with the number of comparisons done.

    Raises DataError naming the comparison that cannot be encoded (a role that the template does not know, a
    special token written out in a text), or the corpus where a word is outside a closed vocabulary.
    """
    rule = _rule(tokenizer, template)
    key = view_key(corpus, tokenizer, template)
    final = corpus.directory / "views" / key
    work = corpus.directory / "views" / f".{key}.work"
    if final.exists():
        return open_view(final)
    width = 1 + int(corpus.scan_manifest().select(pl.col("responses").max()).collect().item())
    with atomic.new_directory(final) as folder:
        for name, data in rule.files.items():
            atomic.write_bytes(folder / name, data)
        if engine is None:
            encoded = _encode(corpus, rule, corpus.directory)
        else:
            encoded = _by_stages(corpus, rule, work, engine, progress)
        report = progress if engine is None else None  # by stages the encoding is what takes time
        described = write_token_shards(folder, encoded, rows=len(corpus), width=width, progress=report)
        record = {
            **rule.record,
            "key": key,
            "corpus": corpus.fingerprint,
            "tokens": sum(shard["bytes"] for shard in described) // TOKEN.itemsize,
            "shards": described,
            **{f"{name}_sha256": atomic.sha256(folder / f"{name}.npy") for name in INDEX},
        }
        atomic.write_json(folder / "view.json", record)
    shutil.rmtree(work, ignore_errors=True)
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


def open_view(directory: Path | str, *, deep: bool | None = None) -> TokenisedView:
    """Opens a view and checks it against its commit record; a url is copied first (`remote.local`), shards when read.

    Raises DataError naming the file and the mend.
    """
    directory = remote.local(directory)
    path = directory / "view.json"
    mend = f"delete {directory} and build it again"
    try:
        record = json.loads(path.read_text())
        flat = "starts_sha256" in record
        shards = (check_token_shards if flat else check_shards)(directory, record["shards"], deep=deep)
        if deep is None:
            deep = record["tokens"] * TOKEN.itemsize <= MEMORY_LIMIT_BYTES
        found = {}
        for name in INDEX if flat else INDEX[:1]:
            found[name] = arrays.checked(
                directory / f"{name}.npy", None, record[f"{name}_sha256"] if deep else None, mend
            )
            if len(found[name]) - (name == "starts") != len(shards):
                raise DataError(f"{directory}: {name}.npy is not of {len(shards)} rows; {mend}")
        lengths = found.pop("lengths")
        return TokenisedView(
            directory,
            record["key"],
            shards,
            lengths,
            found,
            record["tokens"],
            record["vocab_size"],
            record["shards"],
        )
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


def _encode(comparisons: Iterable[Comparison], rule: _Rule, where: Path) -> Iterator[Rows]:
    """Their token ids in order, some hundreds at a time; `where` they are, for messages."""
    for chunk in itertools.batched(comparisons, _ENCODE_AT_ONCE):
        try:
            rows = list(rule.encode(chunk))
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
        for comparison, parts in zip(chunk, rows, strict=True):
            if not all(parts):
                raise DataError(f"{where}: comparison {comparison.id} has a part without tokens")
        yield flatten(rows)


def _by_stages(
    corpus: Corpus, rule: _Rule, work: Path, engine: Any, progress: Callable[[int], None] | None
) -> Iterator[Rows]:
    """The same, a task a shard of the corpus, by workers that read the tokenizer from `work`."""
    for name, data in rule.files.items():
        atomic.write_bytes(work / "tokenizer" / name, data)
    tasks = [
        stages.Task(
            f"shard-{number:05d}",
            f"{__name__}:encode_shard",
            {"record": rule.record, "key": rule.key, "count": count},
            (corpus.fingerprint, path.name),
            {"shard": str(path), "tokenizer": str(work / "tokenizer")},
        )
        for number, (path, count) in enumerate(zip(corpus.shards.paths, corpus.shards.counts, strict=True))
    ]
    ends = np.cumsum([0, *corpus.shards.counts]).tolist()

    def report(done: int, of: int) -> None:
        del of
        if progress:
            progress(ends[done])

    for done in stages.run(work, "tokens", tasks, engine=engine, progress=report):
        yield np.load(done.folder / "lengths.npy"), np.load(done.folder / "ids.npy")


def encode_shard(
    folder: Path, *, record: Mapping[str, Any], key: Sequence[str], count: int, shard: str, tokenizer: str
) -> Mapping[str, Any]:
    """Task: lengths.npy and ids.npy of a shard of the corpus."""
    del key  # it is in the fingerprint
    rule = _written_rule(Path(tokenizer), json.dumps(record))
    comparisons = map(Comparison.from_bytes, read_shard(Path(shard), count))
    parts = list(_encode(comparisons, rule, Path(shard)))
    width = max(lengths.shape[1] for lengths, _ in parts)
    lengths = np.zeros((count, width), np.uint32)
    done = 0
    for some, _ in parts:
        lengths[done : done + len(some), : some.shape[1]] = some
        done += len(some)
    np.save(folder / "lengths.npy", lengths)
    ids = np.concatenate([ids for _, ids in parts])
    np.save(folder / "ids.npy", ids)
    return {"rows": count, "tokens": len(ids)}


@functools.lru_cache(maxsize=1)
def _written_rule(folder: Path, record: str) -> _Rule:
    about = json.loads(record)
    if "chat" in about:
        return _rule(load_chat_tokenizer(folder, date=about["date"]), None)
    return _rule(Tokenizer.from_file(str(folder / "tokenizer.json")), about["template"])


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

    Small views (under 256 MiB of tokens) are read once into memory; larger ones are mapped (older ones: read record
    by record through grain's ArrayRecordDataSource). All give the same tokens.
    """

    def __init__(self, view: TokenisedView, *, in_memory: bool | None = None):
        """Raises DataError if the view's tokens cannot be read or are not as many as its lengths say."""
        self.view = view
        if in_memory is None:
            in_memory = view.tokens * TOKEN.itemsize <= MEMORY_LIMIT_BYTES
        with self._mend():
            if view.index:
                starts, sums = view.index["starts"], view.index["sums"]
                self._tokens = FlatTokens(
                    view.shards, starts, sums, described=view.described, in_memory=in_memory
                )
            else:
                self._tokens = RecordTokens(view.shards, view.lengths, in_memory=in_memory)

    def __len__(self) -> int:
        return len(self.view)

    def gather(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of `rows`, one after another.

        Returns:
          flat uint32 [sum of the rows' tokens] and starts int64 [len(rows)], where each row's tokens
          (prompt, then responses, as long as `lengths` says) begin in it.

        Raises DataError if a record does not hold what was written.
        """
        sizes = self.view.lengths[rows].sum(1, dtype=np.int64)
        with self._mend():
            return self._tokens.read(rows, sizes), np.cumsum(sizes) - sizes

    @contextlib.contextmanager
    def _mend(self) -> Iterator[None]:
        try:
            yield
        except DataError as error:
            raise DataError(f"{self.view.directory}: {error}; delete the view and build it again") from error


@functools.lru_cache(maxsize=4)
def token_store(directory: Path) -> TokenStore:
    """The store of the view at `directory`, opened once a process."""
    return TokenStore(open_view(directory))
