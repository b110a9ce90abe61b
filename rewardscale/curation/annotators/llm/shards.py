"""LLM judging on the stage runner: a task is a shard of questions, with a call log of its own and its part of a budget.

    <calls>/shards.json        how many shards there are: fixed when the folder is made
    <calls>/run.json           judges and budget of the present run
    <calls>/shares.json        what each shard may have spent (shares.py)
    <calls>/00012/calls.jsonl  the shard's call log
    <directory>/<stage>/00012/verdicts.parquet

A pair belongs to a shard by a hash of its id, so whatever is asked about it, in whatever stage, is looked up in one
log, which one process writes at a time. Memory is a shard's questions and answers, never a corpus's.
"""

import dataclasses
import json
import os
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import zstandard

from rewardscale import atomic
from rewardscale.config import ConfigError
from rewardscale.config.judges import BudgetConfig, EndpointConfig, JudgeConfig, PriceConfig, RetryConfig
from rewardscale.curation.annotators.base import Example, Question
from rewardscale.curation.annotators.llm import panel
from rewardscale.curation.annotators.llm.calls import Bill, CallLog, bills_of
from rewardscale.curation.annotators.llm.judge import LLMJudge
from rewardscale.curation.annotators.llm.prompts import load
from rewardscale.curation.annotators.llm.shares import SharedBudget, Shares, divided, slot
from rewardscale.data.comparison import Comparison, DataError
from rewardscale.data.ledger.checks import to_frame
from rewardscale.data.ledger.ledger import Ledger
from rewardscale.data.ledger.schema import Attributes
from rewardscale.stages import Done, Engine, Task, run
from rewardscale.stages.task import cores

VERDICTS = "verdicts.parquet"
_LOG = "calls"
_FLUSH_BYTES = 2**20
# Of a judge's config what decides neither its answers nor what is made of them.
_NOT_ASKED = ("endpoints", "retry", "length_field", "structured", "many", "prompt")


@dataclasses.dataclass(frozen=True)
class Judged:
    """A stage of judging. verdicts, failed: how many questions of all judges ended so. tasks: in order."""

    verdicts: int
    failed: int
    tasks: tuple[Done, ...]

    def into(self, ledger: Ledger) -> int:
        """Adds the verdicts to the ledger, a part a shard; returns how many were new."""
        return sum(ledger.append(pl.read_parquet(done.folder / VERDICTS)) for done in self.tasks)


def judge(
    directory: Path,
    stage: str,
    questions: Iterable[Question],
    judges: Sequence[JudgeConfig],
    budget: BudgetConfig,
    *,
    calls: Path,
    shards: int = 16,
    at_once: int | None = None,
    engine: str | Engine = "inline",
    iteration: int | None = None,
) -> Judged:
    """Has every question judged by every judge, shard by shard.

    Stopped or killed anywhere, the same call goes on and pays no answer twice. A question without a verdict (every
    call failed) is counted; ask it again in another stage.

    Args:
      directory: of the stages. calls: of the call logs and the budget, shared by all stages; both on a file system
        that all machines share. stage: name of this one.
      questions: read once, and written to disk by shard; a pair as often as it comes.
      budget: of all that is in `calls`, earlier stages too.
      shards: of a new `calls` folder; an older one keeps its number.
      at_once: shards that may ask at the same time, each with that part of the endpoints' limits. By default the
        engine's workers.

    Raises:
      StageError: the budget is spent, an endpoint cannot be used; what was answered is kept.
      ConfigError: a judge without a price, two of one name, a call log of another number of shards.
    """
    engine = Engine.parse(engine)
    names = [one.name for one in judges]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"judges {names}: at least one, and each a name of its own")
    for one in judges:
        budget.price(one.model)
    directory, calls = Path(directory).absolute(), Path(calls).absolute()
    _fix_shards(calls, shards)
    if at_once is None:
        at_once = 1 if engine.name == "inline" else engine.workers or cores()
    asked = [_asked(one) for one in judges]
    tasks = [
        Task(
            name,
            f"{__name__}:judge_shard",
            {"shard": name, "judges": asked, "iteration": iteration},
            (digest,),
            {"questions": str(path), "calls": str(calls)},
        )
        for name, path, digest in write_questions(directory / f"{stage}.questions", questions, shards)
    ]
    _write_run(calls, judges, budget, max(1, min(at_once, len(tasks))))
    done = run(directory, stage, tasks, engine=engine)
    return Judged(
        sum(d.counts["verdicts"] for d in done),
        sum(sum(of.values()) for d in done for of in d.counts["failed"].values()),
        tuple(done),
    )


def judge_shard(
    folder: Path, *, shard: str, judges: Sequence[Any], iteration: int | None, questions: str, calls: str
) -> dict[str, Any]:
    """The task. Writes verdicts.parquet; its call log lies under `calls`, as it must outlive a killed task."""
    configs, budget_config, slots = _read_run(Path(calls))
    if [_asked(one) for one in configs] != list(judges):
        raise ConfigError(f"{calls}/run.json was written for other judges meanwhile: one run at a time")
    asked = sorted(read_questions(Path(questions)), key=lambda q: q.row)
    shares = Shares(Path(calls), budget_config)
    own = Path(calls) / shard
    # A worker that is being killed may hold the shard a moment longer.
    with slot(Path(calls), slots), atomic.locked(own / "shard.lock"):
        budget = SharedBudget(shares, shard)
        try:
            with CallLog(own, budget, writer=_LOG) as log:
                panels = [LLMJudge(divided(one, slots), log) for one in configs]
                verdicts = list(panel.run(panels, asked, iteration=iteration))
        finally:
            budget.give_back()
    verdicts.sort(key=lambda v: (v.row, v.annotator))
    atomic.write_parquet(folder / VERDICTS, to_frame(verdicts))
    return {"verdicts": len(verdicts), "failed": {one.name: dict(one.tally.failed) for one in panels}}


def bills(calls: Path) -> dict[tuple[str, str], Bill]:
    """What all shards of a folder have cost, by (judge, model)."""
    return bills_of(path for path in sorted(Path(calls).iterdir()) if path.is_dir())


# --- the run's file --------------------------------------------------------------------------------------


def _fix_shards(calls: Path, shards: int) -> None:
    path = calls / "shards.json"
    if not 1 <= shards <= 99_999:
        raise ConfigError(f"shards={shards} must lie in 1 to 99999")
    with atomic.locked(calls / "shards.lock"):
        if not path.exists():
            atomic.write_json(path, {"shards": shards})
        there = json.loads(path.read_bytes())["shards"]
    if there != shards:
        raise ConfigError(
            f"{calls} is divided into {there} shards: with shards={shards} answers that are paid would not be found; "
            f"take shards={there}, or another folder"
        )


def _asked(one: JudgeConfig) -> dict[str, Any]:
    """What decides a judge's verdicts, as JSON values."""
    config = {k: v for k, v in dataclasses.asdict(one).items() if k not in _NOT_ASKED}
    return {**config, "prompt_version": load(one.prompt).version}


def _write_run(calls: Path, judges: Sequence[JudgeConfig], budget: BudgetConfig, slots: int) -> None:
    found = [dataclasses.asdict(_at_home(one)) for one in judges]
    value = {"judges": found, "budget": _plain(budget), "slots": slots}
    atomic.write_json(calls / "run.json", value)


def _plain(budget: BudgetConfig) -> dict[str, Any]:
    prices = {model: dataclasses.asdict(price) for model, price in budget.prices.items()}
    return {
        "money": budget.money,
        "calls": budget.calls,
        "prices": prices,
        "prices_version": budget.prices_version,
    }


def _at_home(one: JudgeConfig) -> JudgeConfig:
    """With absolute paths: workers may have another working directory."""
    prompt = os.path.abspath(one.prompt) if one.prompt.endswith(".md") else one.prompt
    endpoints = tuple(
        dataclasses.replace(e, key_file=os.path.abspath(e.key_file)) if e.key_file else e
        for e in one.endpoints
    )
    return dataclasses.replace(one, prompt=prompt, endpoints=endpoints)


def _read_run(calls: Path) -> tuple[list[JudgeConfig], BudgetConfig, int]:
    value = json.loads((calls / "run.json").read_bytes())
    judges = [
        JudgeConfig(
            **{
                **one,
                "endpoints": tuple(EndpointConfig(**e) for e in one["endpoints"]),
                "retry": RetryConfig(**one["retry"]),
            }
        )
        for one in value["judges"]
    ]
    prices = {model: PriceConfig(**price) for model, price in value["budget"].pop("prices").items()}
    return judges, BudgetConfig(**value["budget"], prices=prices), value["slots"]


# --- questions on disk -----------------------------------------------------------------------------------


def shard_of(comparison_id: str, shards: int) -> int:
    """Where a pair belongs, by its id (32 hex digits)."""
    return int(comparison_id[:12], 16) % shards


def write_questions(
    directory: Path, questions: Iterable[Question], shards: int
) -> list[tuple[str, Path, str]]:
    """Writes questions by shard, at most a mebibyte of each in memory; (shard, file, hash) of those that have any."""
    fresh = directory / ".new"
    with atomic.locked(directory / ".lock"):
        shutil.rmtree(fresh, ignore_errors=True)  # of a killed run
        fresh.mkdir()
        _write_by_shard(fresh, questions, shards)
        new = {path.name for path in fresh.iterdir()}
        for path in directory.glob("*.jsonl.zst"):
            if path.name not in new:
                path.unlink()
        for name in new:  # one by one, so that a task of another run always finds its file
            os.replace(fresh / name, directory / name)
        fresh.rmdir()
    paths = [directory / name for name in sorted(new)]
    return [(path.name.partition(".")[0], path, atomic.sha256(path)) for path in paths]


def _write_by_shard(folder: Path, questions: Iterable[Question], shards: int) -> None:
    held: dict[int, bytearray] = defaultdict(bytearray)
    compressor = zstandard.ZstdCompressor(level=3)

    def flush(number: int) -> None:
        with (folder / f"{number:05d}.jsonl.zst").open("ab") as file:
            file.write(compressor.compress(bytes(held.pop(number))))

    for question in questions:
        number = shard_of(question.comparison.id, shards)
        held[number] += _question_line(question)
        if len(held[number]) >= _FLUSH_BYTES:
            flush(number)
    for number in list(held):
        flush(number)


def read_questions(path: Path) -> Iterator[Question]:
    """The inverse. Raises DataError naming a file that is damaged."""
    try:
        with path.open("rb") as file:
            reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
            data = reader.read()
        for line in data.splitlines():
            yield _question(orjson.loads(line))
    except (zstandard.ZstdError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged ({error}); remove the folder and run again") from error


def _question_line(question: Question) -> bytes:
    record = {
        "row": question.row,
        "pair": orjson.Fragment(question.comparison.to_bytes()),
        "attributes": _described(question.attributes),
        "examples": [
            [orjson.Fragment(e.comparison.to_bytes()), e.preferred, _described(e.attributes)]
            for e in question.examples
        ],
    }
    return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)


def _described(attributes: Attributes | None) -> dict[str, Any] | None:
    return None if attributes is None else dataclasses.asdict(attributes)


def _question(record: Mapping[str, Any]) -> Question:
    examples = (
        Example(_comparison(pair), preferred, _attributes(attributes))
        for pair, preferred, attributes in record["examples"]
    )
    return Question(
        record["row"], _comparison(record["pair"]), _attributes(record["attributes"]), tuple(examples)
    )


def _comparison(record: Mapping[str, Any]) -> Comparison:
    return Comparison.from_bytes(orjson.dumps(record))


def _attributes(record: Mapping[str, Any] | None) -> Attributes | None:
    return None if record is None else Attributes(**record)
