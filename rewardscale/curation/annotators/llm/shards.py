"""LLM judging on the stage runner: a task is a shard of questions, with a call log of its own and its part of a budget.
So is the writing of attributes.

    <calls>/shards.json        how many shards there are: fixed when the folder is made
    <calls>/run.json           judges and budget of the present run
    <calls>/shares.json        what each shard may have spent (shares.py)
    <calls>/00012/calls.jsonl  the shard's call log
    <directory>/<stage>/00012/verdicts.parquet, or attributes.jsonl

A pair belongs to a shard by a hash of its id, so whatever is asked about it, in whatever stage, is looked up in one
log, which one process writes at a time. Memory is a shard's questions and answers, never a corpus's.
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from rewardscale import atomic
from rewardscale.config import ConfigError
from rewardscale.config.judges import BudgetConfig, EndpointConfig, JudgeConfig, PriceConfig, RetryConfig
from rewardscale.curation.annotators.base import Question
from rewardscale.curation.annotators.llm import panel
from rewardscale.curation.annotators.llm.attributes import AttributeWriter, Described
from rewardscale.curation.annotators.llm.calls import Bill, CallLog, bills_of
from rewardscale.curation.annotators.llm.judge import LLMJudge
from rewardscale.curation.annotators.llm.prompts import load
from rewardscale.curation.annotators.llm.questions import read_questions, write_questions
from rewardscale.curation.annotators.llm.shares import SharedBudget, Shares, divided, slot
from rewardscale.data.ledger.checks import to_frame
from rewardscale.data.ledger.ledger import Ledger
from rewardscale.data.ledger.schema import Attributes
from rewardscale.stages import Done, Engine, Task, run
from rewardscale.stages.task import cores

VERDICTS = "verdicts.parquet"
ATTRIBUTES = "attributes.jsonl"
_LOG = "calls"
_ROWS = 2**18  # verdicts of one part of the ledger
# Of a judge's config what decides neither its answers nor what is made of them.
_NOT_ASKED = ("endpoints", "retry", "length_field", "structured", "many", "prompt")


@dataclasses.dataclass(frozen=True)
class Judged:
    """A stage of judging. verdicts, failed: how many questions of all judges ended so. tasks: in order."""

    verdicts: int
    failed: int
    tasks: tuple[Done, ...]

    def frames(self) -> Iterator[pl.DataFrame]:
        """The verdicts, those of several shards together."""
        held: list[pl.DataFrame] = []
        for done in self.tasks:
            held.append(pl.read_parquet(done.folder / VERDICTS))
            if sum(map(len, held)) >= _ROWS:
                yield pl.concat(held)
                held = []
        if held:
            yield pl.concat(held)

    def into(self, ledger: Ledger) -> int:
        """Adds the verdicts to the ledger; returns how many were new."""
        return sum(ledger.append(frame) for frame in self.frames())


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
    progress: Callable[[int, int], None] | None = None,
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
      progress: called with (shards that are done, shards).

    Raises:
      StageError: the budget is spent, an endpoint cannot be used; what was answered is kept.
      ConfigError: a judge without a price, two of one name, a call log of another number of shards.
    """
    more = {"iteration": iteration}
    place = _Place(directory, stage, calls, shards, at_once, Engine.parse(engine), progress)
    done = _run_stage(place, "judge_shard", questions, judges, budget, more)
    return Judged(
        sum(d.counts["verdicts"] for d in done),
        sum(sum(of.values()) for d in done for of in d.counts["failed"].values()),
        tuple(done),
    )


def describe(
    directory: Path,
    stage: str,
    questions: Iterable[Question],
    writer: JudgeConfig,
    budget: BudgetConfig,
    *,
    calls: Path,
    shards: int = 16,
    at_once: int | None = None,
    engine: str | Engine = "inline",
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Described]:
    """Has attributes written of every question's pair; all else as `judge`. Read when the whole stage is done."""
    place = _Place(directory, stage, calls, shards, at_once, Engine.parse(engine), progress)
    done = _run_stage(place, "describe_shard", questions, [_as_writer(writer)], budget, {})
    for one in done:
        for line in (one.folder / ATTRIBUTES).read_bytes().splitlines():
            record = orjson.loads(line)
            yield Described(record["row"], record["comparison"], Attributes(**record["attributes"]))


@dataclasses.dataclass(frozen=True)
class _Place:
    directory: Path
    stage: str
    calls: Path
    shards: int
    at_once: int | None
    engine: Engine
    progress: Callable[[int, int], None] | None


def _run_stage(
    place: _Place,
    function: str,
    questions: Iterable[Question],
    judges: Sequence[JudgeConfig],
    budget: BudgetConfig,
    more: dict[str, Any],
) -> list[Done]:
    names, engine, at_once = [one.name for one in judges], place.engine, place.at_once
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"judges {names}: at least one, and each a name of its own")
    for one in judges:
        budget.price(one.model)
    directory, calls = Path(place.directory).absolute(), Path(place.calls).absolute()
    _fix_shards(calls, place.shards)
    if at_once is None:
        at_once = 1 if engine.name == "inline" else engine.workers or cores()
    asked = [_asked(one) for one in judges]
    tasks = [
        Task(
            name,
            f"{__name__}:{function}",
            {"shard": name, "judges": asked, **more},
            (digest,),
            {"questions": str(path), "calls": str(calls)},
        )
        for name, path, digest in write_questions(
            directory / f"{place.stage}.questions", questions, place.shards
        )
    ]
    _write_run(calls, judges, budget, max(1, min(at_once, len(tasks))))
    return run(directory, place.stage, tasks, engine=engine, progress=place.progress)


# --- tasks ------------------------------------------------------------------------------------------------


def judge_shard(
    folder: Path, *, shard: str, judges: Sequence[Any], iteration: int | None, questions: str, calls: str
) -> dict[str, Any]:
    """A task. Writes verdicts.parquet; its call log lies under `calls`, as it must outlive a killed task."""
    asked = sorted(read_questions(Path(questions)), key=lambda q: q.row)
    with _log_of(Path(calls), shard, judges) as (configs, log):
        panels = [LLMJudge(one, log) for one in configs]
        verdicts = list(panel.run(panels, asked, iteration=iteration))
    verdicts.sort(key=lambda v: (v.row, v.annotator))
    atomic.write_parquet(folder / VERDICTS, to_frame(verdicts))
    return {"verdicts": len(verdicts), "failed": {one.name: dict(one.tally.failed) for one in panels}}


def describe_shard(
    folder: Path, *, shard: str, judges: Sequence[Any], questions: str, calls: str
) -> dict[str, Any]:
    """A task. Writes attributes.jsonl, a line a pair."""
    asked = list(read_questions(Path(questions)))
    with _log_of(Path(calls), shard, judges) as (configs, log):
        (writer,) = (AttributeWriter(one, log) for one in configs)
        found = sorted(writer.describe(asked), key=lambda one: one.row)
    lines = b"".join(orjson.dumps(one, option=orjson.OPT_APPEND_NEWLINE) for one in found)
    atomic.write_bytes(folder / ATTRIBUTES, lines)
    return {"described": len(found), "failed": dict(writer.tally.failed)}


@contextlib.contextmanager
def _log_of(calls: Path, shard: str, judges: Sequence[Any]) -> Iterator[tuple[list[JudgeConfig], CallLog]]:
    """Judges with this shard's part of limits, and its call log with its part of the budget."""
    configs, budget_config, slots = _read_run(calls)
    if [_asked(one) for one in configs] != list(judges):
        raise ConfigError(f"{calls}/run.json was written for other judges meanwhile: one run at a time")
    shares, own = Shares(calls, budget_config), calls / shard
    # A worker that is being killed may hold the shard a moment longer.
    with slot(calls, slots), atomic.locked(own / "shard.lock"):
        budget = SharedBudget(shares, shard)
        try:
            with CallLog(own, budget, writer=_LOG) as log:
                yield [divided(one, slots) for one in configs], log
        finally:
            budget.give_back()


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


def divided_into(calls: Path) -> int | None:
    """How many shards a folder of calls has; None for one that has none."""
    path = calls / "shards.json"
    return json.loads(path.read_bytes())["shards"] if path.exists() else None


def _as_writer(one: JudgeConfig) -> JudgeConfig:
    return dataclasses.replace(one, prompt="attributes") if one.prompt == "judge" else one


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
