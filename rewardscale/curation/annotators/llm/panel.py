"""Several judges at once on one event loop in a thread of its own; outside, a plain generator of verdicts."""

import asyncio
import contextlib
import dataclasses
import queue
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from rewardscale.config.judges import JudgeConfig
from rewardscale.curation.annotators.base import Question
from rewardscale.curation.annotators.llm.budget import BudgetSpent
from rewardscale.curation.annotators.llm.calls import CallLog
from rewardscale.curation.annotators.llm.client import Client, EndpointError, Stopped

_AT_ONCE = 1024  # questions of one judge under way


@dataclasses.dataclass(slots=True)
class Tally:
    """What became of the questions of one run. answered: with a result. failed: by reason."""

    questions: int = 0
    answered: int = 0
    failed: Counter[str] = dataclasses.field(default_factory=Counter)

    @property
    def left(self) -> int:
        """Questions without an end: neither result nor counted failure."""
        return self.questions - self.answered - sum(self.failed.values())


class Asker(Protocol):
    """One who turns questions into results by calls: a judge, a writer of attributes."""

    name: str
    config: JudgeConfig
    log: CallLog
    tally: Tally

    async def answer(self, client: Client, question: Question, iteration: int | None) -> Any:
        """The result, None where there is none (counted in `tally`)."""
        ...


def seconds(one: Asker, calls: int) -> float | None:
    """That so many calls would take, from the seconds of a call in the log and the concurrency; None without any."""
    bill = one.log.bills.get((one.name, one.config.model))
    if bill is None or not bill.calls:
        return None
    return calls * bill.seconds / bill.calls / sum(e.concurrency for e in one.config.endpoints)


class _End:
    def __init__(self, error: BaseException | None):
        self.error = error


def run(
    judges: Sequence[Asker], questions: Sequence[Question], *, iteration: int | None = None
) -> Iterator[Any]:
    """A result a question and judge, in the order in which they become final; the judges share one call log.

    When the budget ends, a judge's endpoint cannot be used, Ctrl-C is pressed or the generator is closed, no further
    call is sent; those under way have `retry.grace_seconds` to arrive and are kept.

    Raises BudgetSpent or EndpointError after all results that were final; its message says how many
    those are and how many questions are left. The same call goes on from there.
    """
    for one in judges:
        one.tally = Tally(questions=len(questions))
    work = _Work(judges, questions, iteration)
    thread = threading.Thread(target=work.run, name="judges", daemon=True)
    thread.start()
    try:
        while not isinstance(item := work.out.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        work.stop()
        thread.join()


class _Work:
    """All that happens in the thread."""

    def __init__(self, judges: Sequence[Asker], questions: Sequence[Question], iteration: int | None):
        self.out: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._judges, self._questions, self._iteration = judges, questions, iteration
        self._stopping = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake: asyncio.Event | None = None

    def stop(self) -> None:
        """No further question; safe from any thread, any number of times."""
        self._stopping.set()
        loop, wake = self._loop, self._wake
        if loop is not None and wake is not None and not loop.is_closed():
            with contextlib.suppress(RuntimeError):  # it closed meanwhile
                loop.call_soon_threadsafe(wake.set)

    def run(self) -> None:
        error: BaseException | None = None
        try:
            asyncio.run(self._main())
        except BaseException as raised:
            error = raised
        self.out.put(_End(error))

    async def _main(self) -> None:
        self._wake, self._loop = asyncio.Event(), asyncio.get_running_loop()
        failures: list[BaseException] = []
        clients: list[Client] = []
        try:
            for one in self._judges:
                clients.append(Client(one.config, one.log))
            tasks = []
            for one, client in zip(self._judges, clients, strict=True):
                waiting = iter(self._questions)
                number = min(sum(e.concurrency for e in one.config.endpoints), _AT_ONCE, len(self._questions))
                tasks += [
                    asyncio.create_task(self._worker(one, client, waiting, failures)) for _ in range(number)
                ]
            await self._until_done(tasks, clients)
        finally:
            for client in clients:
                await client.close()
            for one in self._judges:
                await one.log.drained()
        if failures:
            raise self._told(failures)

    async def _until_done(self, tasks: list[asyncio.Task[None]], clients: list[Client]) -> None:
        """Waits for the workers; once work is stopped, for the grace time only."""
        assert self._wake is not None
        stopped = asyncio.create_task(self._wake.wait())
        running: set[asyncio.Task[None]] = set(tasks)
        while running and not self._stopping.is_set():
            done, _ = await asyncio.wait({*running, stopped}, return_when=asyncio.FIRST_COMPLETED)
            running -= done
        stopped.cancel()
        if running:
            for client in clients:
                client.stopped = True
            grace = max(one.config.retry.grace_seconds for one in self._judges)
            _, late = await asyncio.wait(running, timeout=grace)
            for task in late:
                task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
                raise result

    async def _worker(
        self, one: Asker, client: Client, waiting: Iterator[Question], failures: list[BaseException]
    ) -> None:
        for question in waiting:
            if self._stopping.is_set():
                return
            try:
                result = await one.answer(client, question, self._iteration)
            except Stopped:
                return
            except (BudgetSpent, EndpointError) as error:
                failures.append(error)
                self._stopping.set()
                assert self._wake is not None
                self._wake.set()
                return
            if result is not None:
                self.out.put(result)

    def _told(self, failures: Sequence[BaseException]) -> BaseException:
        """The first failure that is not the budget's, else the budget's, with what is done and what is not."""
        chosen = next((f for f in failures if not isinstance(f, BudgetSpent)), failures[0])
        told = "; ".join(
            f"{one.name}: {one.tally.answered:,} answered, {sum(one.tally.failed.values()):,} failed, "
            f"{one.tally.left:,} of {one.tally.questions:,} questions left"
            for one in self._judges
        )
        return type(chosen)(f"{chosen}. {told}. What was answered is kept")
