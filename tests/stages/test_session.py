"""A session keeps what is slow to start. (A file of its own: test_stages.py is one session.)"""

import os
import signal

import pytest

from rewardscale.stages import StageError, Task, run, session
from tests.stages import tasks


def test_a_session_keeps_its_workers_until_one_is_killed_or_it_ends(tmp_path):
    def worker(stage: str) -> int:
        task = Task("t", f"{tasks.__name__}:environment", {})
        (done,) = run(tmp_path, stage, [task], engine=engine)
        return done.counts["pid"]

    with session("process:1") as engine:
        first = worker("one")
        with session(engine):
            assert worker("two") == first
        with pytest.raises(StageError, match="bad"):
            run(tmp_path, "three", [Task("bad", f"{tasks.__name__}:fail", {"how": "raise"})], engine=engine)
        assert worker("four") == first and not tasks.gone(first)
        os.kill(first, signal.SIGKILL)
        assert worker("five") != first
        last = worker("six")
    assert tasks.gone(last)
    assert worker("seven") != last
