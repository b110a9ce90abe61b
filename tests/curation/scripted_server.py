"""The simulated judge's server in a process of its own."""

import contextlib
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator


@contextlib.contextmanager
def server(**options: object) -> Iterator[str]:
    """Its url while it runs; options are flags of rewardscale.curation.annotators.llm.scripted."""
    flags = [f"--{name}={value}" if value is not True else f"--{name}" for name, value in options.items()]
    command = [sys.executable, "-m", "rewardscale.curation.annotators.llm.scripted", *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def counts(url: str) -> dict[str, int]:
    """What it answered and billed."""
    with urllib.request.urlopen(url.removesuffix("/v1") + "/counts") as answer:
        return json.load(answer)
