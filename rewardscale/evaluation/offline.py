"""Scores a file of comparisons: jsonl or Parquet in, one record an item out, in the input's order.

OUT.parts/identity.json    hashes of model and input, and the settings: what the parts belong to
OUT.parts/000000.jsonl     results of the first chunk of items, written whole or not at all
OUT                        all of them; written when the last chunk is done, then the parts go
OUT.summary.json           written last: the identity, the counts, the hash of OUT

A chunk's results are a function of its items and the identity, so a run that was killed and started again writes
the same bytes.
"""

import codecs
import dataclasses
import hashlib
import itertools
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from tqdm import tqdm

from rewardscale import atomic
from rewardscale.config import ConfigError
from rewardscale.data.comparison import DataError
from rewardscale.data.records import Item, parse_item
from rewardscale.evaluation.identity import model_hash
from rewardscale.evaluation.reward_scorer import TOO_LONG, RewardScorer
from rewardscale.models import hf

_FORMAT = 1  # of the parts and the output
_SCHEMA = {
    "index": pl.Int64,
    "id": pl.String,
    "rewards": pl.List(pl.Float32),
    "tokens": pl.List(pl.Int32),
    "truncated": pl.Boolean,
    "error": pl.String,
}
_SUFFIXES = (".jsonl", ".parquet")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is scored, by what, and how.

    Attributes:
      model: a Hugging Face directory or hub id (with `revision`). input, output: .jsonl or .parquet.
      mesh, dtype, max_length, batch_tokens: as in RewardScorer.load.
      too_long, allow_special_text: as in RewardScorer.prepare.
      chunk_items: items whose results are committed together.
      overwrite: replace an output that is there already.
    """

    model: str
    input: Path
    output: Path
    revision: str | None = None
    mesh: tuple[int, int, int] = (-1, 1, 1)
    dtype: str = "float32"
    max_length: int = 0
    too_long: str = "refuse"
    allow_special_text: bool = False
    batch_tokens: int = 8192
    chunk_items: int = 1024
    overwrite: bool = False

    def __post_init__(self) -> None:
        for name in ("input", "output"):
            if getattr(self, name).suffix not in _SUFFIXES:
                raise ConfigError(f"{name}={getattr(self, name)} must end in {' or '.join(_SUFFIXES)}")
        if self.too_long not in TOO_LONG:
            raise ConfigError(f"too_long={self.too_long!r} must be one of {', '.join(TOO_LONG)}")
        if self.chunk_items < 1:
            raise ConfigError(f"chunk_items={self.chunk_items} must be greater than 0")
        if self.input.resolve() == self.output.resolve():
            raise ConfigError(f"output={self.output} is the input; name another file")


@dataclasses.dataclass(frozen=True)
class Summary:
    """Counts of a finished file: read = scored + refused.

    Attributes:
      truncated: scored items whose prompt lost its oldest part. responses, tokens: of the scored items.
      pairs: scored items with a chosen and a rejected response; right, ties: of these, how many have the higher, or
        exactly the same, reward for the chosen one.
      errors: the first few refusals.
    """

    read: int
    scored: int
    refused: int
    truncated: int
    responses: int
    tokens: int
    pairs: int
    right: int
    ties: int
    errors: tuple[str, ...] = ()

    @property
    def accuracy(self) -> float | None:
        """Share of pairs with a strictly higher reward for the chosen response; a tie is not right."""
        return self.right / self.pairs if self.pairs else None


def score_file(settings: Settings) -> tuple[Summary, float | None]:
    """Scores `settings.input` into `settings.output`, going on where an earlier call was cut off.

    Returns the summary, and the seconds that scoring took (None where all had been done before).

    Raises ConfigError for settings, a model, or an output that does not belong to them; DataError for an input or
    tokenizer that cannot be read at all. A single bad item is a record with an "error".
    """
    started = time.monotonic()
    if not settings.input.exists():
        raise DataError(f"input {settings.input} does not exist")
    parts = settings.output.with_name(settings.output.name + ".parts")
    summary_path = settings.output.with_name(settings.output.name + ".summary.json")
    checkpoint = hf.open_checkpoint(settings.model, revision=settings.revision)
    identity, items = _identity(settings, checkpoint.directory)
    if (found := _finished(settings.output, summary_path, identity)) is not None:
        return found, None
    with atomic.locked(parts / "lock", wait=False) as ours:
        if not ours:
            raise ConfigError(
                f"another process is scoring into {settings.output}; wait for it or name another file"
            )
        _claim(settings, parts, identity)
        if any(not (parts / _part(k)).exists() for k in range(-(-items // settings.chunk_items))):
            scorer = RewardScorer.load(
                checkpoint.directory, mesh=settings.mesh, dtype=settings.dtype,
                max_length=settings.max_length, batch_tokens=settings.batch_tokens,
            )  # fmt: skip
            _score_chunks(settings, scorer, parts, items)
        summary = _merge(settings, parts, items)
        record = {
            "identity": identity,
            "sha256": atomic.sha256(settings.output),
            **dataclasses.asdict(summary),
        }
        atomic.write_json(summary_path, record | {"accuracy": summary.accuracy})
        shutil.rmtree(parts)
    return summary, time.monotonic() - started


def score_items(
    scorer: RewardScorer, records: Sequence[Any], *, first: int, settings: Settings, done: Any = None
) -> list[dict[str, Any]]:
    """Results of parsed records (DataError: one that could not be read), the first of which is item `first`."""
    parsed = [_parse(record) for record in records]
    good = [i for i, (_, item) in enumerate(parsed) if isinstance(item, Item)]
    prepared = scorer.prepare(
        [item for _, item in parsed if isinstance(item, Item)],
        too_long=settings.too_long,
        allow_special_text=settings.allow_special_text,
    )
    outcome: list[Any] = [item for _, item in parsed]
    fit = []
    for i, one in zip(good, prepared, strict=True):
        if isinstance(one, DataError):
            outcome[i] = one
        else:
            fit.append((i, one))
    rewards = scorer.score([one for _, one in fit], done=done)
    results = [
        {
            "index": first + i,
            "id": name,
            "rewards": None,
            "tokens": None,
            "truncated": False,
            "error": str(why),
        }
        for i, ((name, _), why) in enumerate(zip(parsed, outcome, strict=True))
    ]
    for (i, one), values in zip(fit, rewards, strict=True):
        if not np.isfinite(values).all():
            results[i]["error"] = f"reward {int(np.flatnonzero(~np.isfinite(values))[0])} is not finite"
            continue
        # The shortest decimal that is this float32.
        numbers = [float(str(value)) for value in values]
        results[i] |= {"rewards": numbers, "tokens": one.lengths, "truncated": one.skip > 0, "error": None}
        if one.pair:
            results[i]["pair"] = True
    return results


def _parse(record: Any) -> tuple[str | int | None, Item | DataError]:
    """Id and item of a record."""
    if isinstance(record, DataError):
        return None, record
    name = record.get("id") if isinstance(record, Mapping) else None
    if name is not None and (not isinstance(name, str | int) or isinstance(name, bool)):
        return None, DataError("'id' must be a string or a whole number")
    try:
        return name, parse_item(record)
    except DataError as error:
        return name, error


# --- the input ---------------------------------------------------------------------------------------


def _identity(settings: Settings, model: Path) -> tuple[dict[str, Any], int]:
    """What results depend on, and the number of items in the input."""
    if settings.input.suffix == ".parquet":
        digest = atomic.sha256(settings.input)
        items = _parquet(settings.input).select(pl.len()).collect().item()
    else:
        running, items = hashlib.sha256(), 0
        with settings.input.open("rb") as file:
            for line in file:
                running.update(line)
                items += bool(line.strip())
        digest = running.hexdigest()
    kept = ("mesh", "dtype", "max_length", "too_long", "allow_special_text", "batch_tokens", "chunk_items")
    chosen = {name: getattr(settings, name) for name in kept} | {"mesh": list(settings.mesh)}
    return {"format": _FORMAT, "model": model_hash(model), "input": digest, **chosen}, items


def _raw_records(path: Path) -> Iterator[tuple[int, Any]]:
    """(line or row number, the line's bytes or the row) of each item; a blank line is none."""
    if path.suffix == ".parquet":
        frame, first = _parquet(path), 0
        while rows := frame.slice(first, 4096).collect().to_dicts():
            yield from enumerate(rows, start=first)
            first += len(rows)
        return
    with path.open("rb") as file:
        yield from ((number, line) for number, line in enumerate(file, start=1) if line.strip())


def _decoded(number: int, raw: Any) -> Any:
    """The record, or the DataError that says why a line is none."""
    if not isinstance(raw, bytes):
        return raw
    try:
        return json.loads(raw.removeprefix(codecs.BOM_UTF8).decode())
    except (ValueError, RecursionError) as error:
        return DataError(f"line {number} is not JSON: {error}")


def _parquet(path: Path) -> pl.LazyFrame:
    try:
        frame = pl.scan_parquet(path)
        frame.collect_schema()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet ({error})") from error
    return frame


# --- the output --------------------------------------------------------------------------------------


def _finished(output: Path, path: Path, identity: Mapping[str, Any]) -> Summary | None:
    """The summary of an output that these settings have made already."""
    if not output.exists() or not path.exists():
        return None
    try:
        record = json.loads(path.read_text())
        if record["identity"] != identity or record["sha256"] != atomic.sha256(output):
            return None
        names = [field.name for field in dataclasses.fields(Summary)]
        values: dict[str, Any] = {name: record[name] for name in names}
        values["errors"] = tuple(values["errors"])
        return Summary(**values)
    except (ValueError, KeyError, TypeError):
        return None


def _claim(settings: Settings, parts: Path, identity: Mapping[str, Any]) -> None:
    """Makes the folder of parts, or checks that the one there belongs to these settings."""
    if settings.overwrite and not _same(parts, identity):
        for path in (
            parts / "identity.json",
            *parts.glob("*.jsonl"),
        ):  # the identity first: parts belong to one
            path.unlink(missing_ok=True)
    if (parts / "identity.json").exists():
        if not _same(parts, identity):
            before = json.loads((parts / "identity.json").read_text())
            other = ", ".join(sorted(k for k in identity if before.get(k) != identity[k]))
            raise ConfigError(
                f"{parts} holds the beginning of another run (it differs in: {other}); start that one again to "
                "finish it, name another output, or give --overwrite to begin anew"
            )
        return
    if settings.output.exists() and not settings.overwrite:
        shutil.rmtree(parts)
        raise ConfigError(
            f"{settings.output} exists and was not made from this model, input and settings; name another output, "
            "or give --overwrite to replace it"
        )
    atomic.write_json(parts / "identity.json", dict(identity))


def _same(parts: Path, identity: Mapping[str, Any]) -> bool:
    try:
        return json.loads((parts / "identity.json").read_text()) == identity
    except (OSError, ValueError):
        return False


def _part(chunk: int) -> str:
    return f"{chunk:06d}.jsonl"


def _score_chunks(settings: Settings, scorer: RewardScorer, parts: Path, items: int) -> None:
    """Computes and commits the chunks that are not there yet."""
    size, tokens, started = settings.chunk_items, 0, time.monotonic()
    with tqdm(total=items, unit=" items", disable=None, smoothing=0.1) as bar:

        def done(more: int) -> None:
            nonlocal tokens
            tokens += more
            bar.set_postfix_str(f"{tokens / max(time.monotonic() - started, 1e-9):,.0f} tokens/s")

        for chunk, raw in enumerate(itertools.batched(_raw_records(settings.input), size)):
            path = parts / _part(chunk)
            if not path.exists():
                records = [_decoded(*one) for one in raw]
                results = score_items(scorer, records, first=chunk * size, settings=settings, done=done)
                atomic.write_bytes(path, b"".join(json.dumps(result).encode() + b"\n" for result in results))
            bar.update(len(raw))


def _merge(settings: Settings, parts: Path, items: int) -> Summary:
    """Writes the output from the parts, and counts."""
    counts = dict.fromkeys([f.name for f in dataclasses.fields(Summary)][:-1], 0)
    errors: list[str] = []
    frames = [pl.DataFrame(schema=_SCHEMA)]
    parquet = settings.output.suffix == ".parquet"
    with atomic.new_file(settings.output) as file:
        for chunk in range(-(-items // settings.chunk_items)):
            results = [json.loads(line) for line in (parts / _part(chunk)).read_bytes().splitlines()]
            for result in results:
                _count(result, counts, errors)
                result.pop("pair", None)
                if not parquet:
                    file.write(json.dumps(result).encode() + b"\n")
            if parquet:
                rows = [{**r, "id": _utf8(r["id"]), "error": _utf8(r["error"])} for r in results]
                frames.append(pl.DataFrame(rows, schema=_SCHEMA))
        if parquet:
            pl.concat(frames).write_parquet(file)
    if counts["read"] != items:
        raise DataError(f"{parts} holds {counts['read']} results of {items} items; delete it and score again")
    return Summary(**counts, errors=tuple(errors))


def _count(result: Mapping[str, Any], counts: dict[str, int], errors: list[str]) -> None:
    counts["read"] += 1
    if result["error"] is not None:
        counts["refused"] += 1
        if len(errors) < 5:
            name = "" if result["id"] is None else f" ({result['id']})"
            errors.append(f"item {result['index']}{name}: {result['error']}")
        return
    counts["scored"] += 1
    counts["truncated"] += result["truncated"]
    counts["responses"] += len(result["rewards"])
    counts["tokens"] += sum(result["tokens"])
    if result.get("pair"):
        counts["pairs"] += 1
        counts["right"] += result["rewards"][0] > result["rewards"][1]
        counts["ties"] += result["rewards"][0] == result["rewards"][1]


def _utf8(value: Any) -> str | None:
    """As a string that Parquet can hold; a lone surrogate is written out."""
    return None if value is None else str(value).encode(errors="backslashreplace").decode()
