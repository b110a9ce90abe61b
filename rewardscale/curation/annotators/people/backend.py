"""The built-in page as a backend, and the functions that a command line calls."""

import threading
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from rewardscale import web
from rewardscale.config import ConfigError
from rewardscale.curation.annotators.backend import RoundStatus, Task
from rewardscale.curation.annotators.people import access, rounds
from rewardscale.data.ledger.database import PeopleStore
from rewardscale.data.ledger.schema import Verdict

_LOCAL = ("127.0.0.1", "::1", "localhost")


def open_database(ledger: Path) -> PeopleStore:
    """The database of the ledger in this folder, with the page's tables. Raises DataError as PeopleStore."""
    return rounds.open_tables(access.open_store(ledger))


class PageBackend:
    """The annotation page as AnnotationBackend; it works on the ledger's database, whether the page is served or not.

    Args:
      ledger: the ledger's folder, created if absent.

    Raises DataError as PeopleStore.
    """

    name = "page"

    def __init__(self, ledger: Path):
        self._database = open_database(ledger)

    def push_tasks(self, round: int, tasks: Sequence[Task]) -> int:
        """Adds tasks to a round; a pair that the round has already is left as it is. Returns how many were new.

        Attributes that come with a question become the pair's where it has none yet. The worked examples of a question
        are for judges: people see none.

        Raises DataError for rows of another corpus, and for a closed round.
        """
        return rounds.push(self._database, round, tasks)

    def pull_verdicts(self, round: int) -> list[Verdict]:
        """The round's settled verdicts, oldest first; they are in the ledger already."""
        rounds.settle(self._database)
        return rounds.verdicts(self._database, round)

    def status(self, round: int) -> RoundStatus:
        """How far the round is."""
        return rounds.status(self._database, round)

    def close(self, round: int) -> None:
        """Ends a round and settles its verdicts. Raises DataError where there is none."""
        rounds.close(self._database, round)

    def shutdown(self) -> None:
        """Closes the database."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()


def serve(
    ledger: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8010,
    public_url: str = "",
    tasks: tuple[int, Sequence[Task]] | None = None,
) -> None:
    """Serves the page until SIGTERM or SIGINT, then answers what it has accepted and returns.

    Args:
      ledger: the ledger's folder; everything the page knows lies in its database.
      host, port: where to listen; 127.0.0.1 is this machine alone, port 0 any free one.
      public_url: how browsers reach the page if not by host and port, say "https://judge.example.org" of a proxy that
        speaks https; needed where `host` is not this machine.
      tasks: (round, tasks) to push first.

    Raises ConfigError for an address that cannot be had, DataError as PeopleStore.
    """
    from rewardscale.curation.annotators.people.app import make_app

    hosts, secure = _names(host, public_url)
    with open_database(ledger) as database:
        if tasks is not None:
            rounds.push(database, *tasks)
        rounds.settle(database)
        listening = web.listen(host, port)
        ended = threading.Event()

        def started() -> None:
            print(f"listening on {web.address(host, listening)}", flush=True)

        web.run(
            make_app(database, hosts=hosts, secure=secure), listening,
            stop=ended.set, stopping=ended.is_set, finished=ended.is_set, started=started,
        )  # fmt: skip
        rounds.settle(database)
    print("stopped", flush=True)


def _names(host: str, public_url: str) -> tuple[frozenset[str], bool]:
    """(names by which the page may be asked for, whether browsers use https). Raises ConfigError."""
    given = urllib.parse.urlsplit(public_url)
    if public_url and (given.scheme not in ("http", "https") or not given.hostname or given.path.strip("/")):
        raise ConfigError(f"public_url={public_url!r} must be http(s)://NAME or http(s)://NAME:PORT")
    if not public_url and host not in _LOCAL:
        raise ConfigError(
            f"host={host} opens the page to the network: give public_url, the address that annotators type, best with "
            "https by a proxy in front"
        )
    names = {*_LOCAL, host.lower(), *([given.hostname.lower()] if given.hostname else [])}
    return frozenset(names), given.scheme == "https"


def invite(ledger: Path, name: str, *, role: access.Role = "annotator", url: str = "") -> str:
    """Makes an annotator (or a lead), or gives them a new token; returns the link to log in, or the token without url.

    The token is nowhere else: only its hash is stored. Raises DataError for a name that will not do.
    """
    with open_database(ledger) as database:
        token = access.create(database, name, role)
    return access.link(url.rstrip("/"), token) if url else token


def revoke(ledger: Path, name: str) -> None:
    """Ends a person's token and sessions; verdicts stay. Raises DataError for a name that nobody has."""
    with open_database(ledger) as database:
        access.revoke(database, name)


def status_text(ledger: Path) -> str:
    """Rounds and annotators, a line each."""
    from rewardscale.curation.annotators.people.statistics import per_person

    with open_database(ledger) as database:
        lines = []
        for number in rounds.rounds(database):
            s = rounds.status(database, number)
            lines.append(
                f"round {number}{' (closed)' if s.closed else ''}: {s.given} of {s.wanted} verdicts, {s.complete} of "
                f"{s.tasks} pairs complete, {s.skipped} could not be said, {s.settled} in the ledger, "
                f"{s.seconds / 60:.0f} person-minutes"
            )
        counts = {c.name: c for c in per_person(database)}
        for name, role, good in access.people(database):
            done = counts.get(name)
            lines.append(
                f"{role} {name}{'' if good else ' (revoked)'}"
                + (f": {done.answers} verdicts, median {done.median_seconds:.0f} s" if done else "")
            )
    return "\n".join(lines or ["no rounds, nobody invited"])
