"""A small round of pairs for the annotation page, and its server in a process of its own."""

import contextlib
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from rewardscale.curation.annotators.backend import Task
from rewardscale.curation.annotators.base import Question
from rewardscale.data.comparison import Comparison, Message
from rewardscale.data.ledger.schema import Attributes

REPO = Path(__file__).parents[1]
ATTRIBUTES = Attributes(
    category="Math", objectivity="objective", controversiality="low", desired="the right sum",
    guideline="Add the numbers yourself.", author="judge-a",
)  # fmt: skip
SOURCE = "secret-source"


def task(
    row: int,
    *,
    responses: Sequence[str] = (),
    priority: float = 0.0,
    overlap: int = 1,
    described: bool = True,
):
    """A task of row `row`."""
    first, second = responses or (f"The sum is {row}.", f"The sum is {row} and a bit more, I believe.")
    prompt = (Message("user", f"What is {row} plus 0?"),)
    comparison = Comparison(prompt, (first, second), SOURCE, category="secret-category")
    return Task(Question(row, comparison, ATTRIBUTES if described else None), priority, overlap)


_SERVE = """
import sys
from pathlib import Path
from rewardscale.curation.annotators.people import backend
backend.serve(Path(sys.argv[1]), port=int(sys.argv[2]))
"""


@contextlib.contextmanager
def serving(ledger: Path, *, port: int = 0, log: Path) -> Iterator[tuple[subprocess.Popen, str]]:
    """(process, address) of a server that answers; killed at the end if it still runs. Its output goes to `log`."""
    with log.open("ab") as file:
        before = log.stat().st_size
        command = [sys.executable, "-c", _SERVE, str(ledger), str(port)]
        environment = {**os.environ, "PYTHONPATH": str(REPO), "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
    try:
        address = ""
        while not address:
            assert process.poll() is None, log.read_text()
            for line in log.read_bytes()[before:].decode().splitlines():
                if line.startswith("listening on "):
                    address = line.removeprefix("listening on ")
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.05)
        assert urllib.request.urlopen(f"{address}/health", timeout=30).read() == b"ok"
        yield process, address
    finally:
        process.kill()
        process.wait()
