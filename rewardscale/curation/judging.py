"""Where the LLM judges of a pass are asked from: this process, or tasks of the stage runner. The verdicts are the same.

InMemory    one call log, <calls>/*.jsonl, all of whose answers are in memory
Sharded     a call log a shard, <calls>/00012/; the questions of a step and their verdicts in <directory>/
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import polars as pl

from rewardscale.config import ConfigError
from rewardscale.config.curation import CurationConfig
from rewardscale.config.judges import JudgeConfig
from rewardscale.curation.annotators.base import Question
from rewardscale.curation.annotators.llm import panel, shards
from rewardscale.curation.annotators.llm.attributes import AttributeWriter, Described
from rewardscale.curation.annotators.llm.budget import Budget
from rewardscale.curation.annotators.llm.calls import CallLog
from rewardscale.curation.annotators.llm.judge import LLMJudge
from rewardscale.data.ledger.checks import to_frame
from rewardscale.stages import Engine, session

AT_ONCE = 4096  # questions in memory, and between two commits to the ledger
Progress = Callable[[int, int], None]  # (done, of how many): results, or shards


class Judging(Protocol):
    """All LLM judges of a config, and whoever of them writes attributes.

    `step` names what is asked: the same questions under the same name, whatever is answered already. `number` is how
    many questions there are. Asking raises BudgetSpent and EndpointError, or StageError, which says either.
    """

    def verdicts(
        self, step: str, questions: Iterable[Question], number: int, progress: Progress, iteration: int
    ) -> Iterator[pl.DataFrame]:
        """Verdicts (VERDICT_COLUMNS) of every judge, in parts, sorted by row and judge in each."""
        ...

    def attributes(
        self, step: str, questions: Iterable[Question], number: int, progress: Progress
    ) -> Iterator[Described]:
        """Attributes of the pairs, in any order."""
        ...

    def askers(self) -> contextlib.AbstractContextManager[tuple[list[LLMJudge], AttributeWriter | None]]:
        """Judges and writer, for estimates."""
        ...


@contextlib.contextmanager
def judging(config: CurationConfig, directory: Path, calls: Path) -> Iterator[Judging]:
    """As `config.judging` says.

    Args:
      directory: of a pass, for questions and verdicts by shard. calls: of the paid answers of all passes.

    Raises ConfigError where `calls` was begun the other way: what is paid there would not be found.
    """
    there = shards.divided_into(calls)
    if not config.judging.shards:
        if there is not None:
            raise ConfigError(
                f"{calls} is divided into {there} shards: with judging.shards=0 answers that are paid would not be "
                f"found; take judging.shards={there}, or another --workdir"
            )
        with CallLog(calls, Budget(config.budget)) as log:
            yield InMemory(config, log)
        return
    if any(calls.glob("*.jsonl")):
        raise ConfigError(
            f"{calls} holds answers that were paid without shards and would not be found; take judging.shards=0, or "
            "another --workdir"
        )
    Engine.parse(config.judging.engine)
    with contextlib.ExitStack() as resources:
        yield Sharded(config, directory / "judging", calls, resources)


def folders(calls: Path) -> list[Path]:
    """Of the call logs below `calls`, one a shard or one in all: for `bills_of` and `statistics_of`."""
    if shards.divided_into(calls) is None:
        return [calls]
    return sorted(path for path in calls.iterdir() if path.is_dir())


def writer_of(config: CurationConfig) -> JudgeConfig | None:
    """Who writes attributes, as a judge is configured; None where no LLM judge does."""
    named = {judge.name: judge for judge in config.llm_judges}
    if config.attributes not in named:
        return None
    return dataclasses.replace(named[config.attributes], prompt="attributes", votes=1)


def _askers(config: CurationConfig, log: CallLog) -> tuple[list[LLMJudge], AttributeWriter | None]:
    writer = writer_of(config)
    judges = [LLMJudge(judge, log) for judge in config.llm_judges]
    return judges, None if writer is None else AttributeWriter(writer, log)


class InMemory:
    """`Judging` in this process."""

    def __init__(self, config: CurationConfig, log: CallLog):
        self._judges, self._writer = _askers(config, log)

    def verdicts(
        self, step: str, questions: Iterable[Question], number: int, progress: Progress, iteration: int
    ) -> Iterator[pl.DataFrame]:
        """See Judging."""
        done, of = 0, number * len(self._judges)
        for some in itertools.batched(questions, AT_ONCE):
            found = []
            for verdict in panel.run(self._judges, some, iteration=iteration):
                found.append(verdict)
                progress(done := done + 1, of)
            # In whatever order they came, the part is the same.
            yield to_frame(sorted(found, key=lambda v: (v.row, v.annotator)))

    def attributes(
        self, step: str, questions: Iterable[Question], number: int, progress: Progress
    ) -> Iterator[Described]:
        """See Judging."""
        assert self._writer is not None
        done = 0
        for some in itertools.batched(questions, AT_ONCE):
            for one in self._writer.describe(some):
                progress(done := done + 1, number)
                yield one

    @contextlib.contextmanager
    def askers(self) -> Iterator[tuple[list[LLMJudge], AttributeWriter | None]]:
        """See Judging. They know what is paid."""
        yield self._judges, self._writer


class Sharded:
    """`Judging` by tasks of the stage runner (annotators/llm/shards.py).

    Args:
      resources: closed when no more is asked; holds the engine's workers from the first stage on, for all of them.
    """

    def __init__(self, config: CurationConfig, directory: Path, calls: Path, resources: contextlib.ExitStack):
        self._config, self._directory, self._calls, self._resources = config, directory, calls, resources
        self._engine: Engine | None = None

    def verdicts(
        self, step: str, questions: Iterable[Question], number: int, progress: Progress, iteration: int
    ) -> Iterator[pl.DataFrame]:
        """See Judging."""
        config = self._config
        done = shards.judge(
            self._directory, f"judges-{step}", questions, config.llm_judges, config.budget,
            calls=self._calls, iteration=iteration, progress=progress, **self._where(),
        )  # fmt: skip
        for frame in done.frames():
            yield frame.sort("row", "annotator")

    def attributes(
        self, step: str, questions: Iterable[Question], number: int, progress: Progress
    ) -> Iterator[Described]:
        """See Judging."""
        writer = writer_of(self._config)
        assert writer is not None
        yield from shards.describe(
            self._directory, f"attributes-{step}", questions, writer, self._config.budget,
            calls=self._calls, progress=progress, **self._where(),
        )  # fmt: skip

    def _where(self) -> dict[str, Any]:
        judging = self._config.judging
        if self._engine is None:
            self._engine = self._resources.enter_context(session(judging.engine))
        return {"shards": judging.shards, "at_once": judging.at_once or None, "engine": self._engine}

    @contextlib.contextmanager
    def askers(self) -> Iterator[tuple[list[LLMJudge], AttributeWriter | None]]:
        """See Judging. They know what calls have cost so far, and no answers: what is paid counts again."""
        log = CallLog(None, Budget(self._config.budget))
        if self._calls.exists():
            log.bills.update(shards.bills(self._calls))
        yield _askers(self._config, log)
