"""Leases: races, heartbeats, and taking over from the dead, whatever their clocks say."""

import errno
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from rewardscale.remote import leases
from rewardscale.remote.leases import Lease, Lost, held
from tests import object_store

HOURS = 3600.0


class Clock:
    """An observer's own clock, moved by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def dead(store, *, number: int = 1, seconds: float = 60.0, off: float = 0.0) -> None:
    """A lease whose owner died after putting it, its clock `off` seconds from ours."""
    record = {
        "owner": "x",
        "host": "h",
        "time": time.time() + off,
        "count": 3,
        "seconds": seconds,
        "free": False,
    }
    store.write(f"run/leases/{number:08d}", json.dumps(record).encode())


def test_of_many_one_gets_it(store):
    with ThreadPoolExecutor(8) as pool:
        found = [Lease(store, "run", 1, 60.0, time.monotonic) for _ in range(8)]
        assert sum(pool.map(Lease.take, found)) == 1
    with held(store, "run") as other:
        assert other is None


def test_a_released_lease_is_free_at_once(store):
    for number in (1, 2, 3):
        with held(store, "run", seconds=60.0) as lease:
            assert lease is not None and lease.number == number
            assert store.names() == [f"run/leases/{number:08d}"]  # the one before it has gone
            lease.check()


@pytest.mark.parametrize("off", [0.0, 5 * HOURS, -5 * HOURS])
def test_it_is_stale_by_the_clock_of_the_one_who_looks(store, off):
    dead(store, number=4, seconds=60.0, off=off)
    clock = Clock()
    for now in (0.0, 30.0, 59.0):
        clock.now = now
        with held(store, "run", seconds=1.0, clock=clock) as lease:
            assert lease is None, now
    clock.now = 60.0  # what its owner said, not what the observer would
    with held(store, "run", seconds=1.0, clock=clock) as lease:
        assert lease is not None and lease.number == 5


def test_an_observer_begins_anew_when_the_owner_gives_a_sign(store):
    clock = Clock()
    for beat in range(4):
        dead(store, off=beat)  # another time: other bytes
        with held(store, "run", clock=clock) as lease:
            assert lease is None
        clock.now += 50.0
    clock.now += 10.0
    with held(store, "run", clock=clock) as lease:
        assert lease is not None


def test_of_many_that_see_a_stale_lease_one_takes_it(store):
    dead(store, seconds=10.0)
    with ThreadPoolExecutor(8) as pool:
        found = [Lease(store, "run", 2, 60.0, time.monotonic) for _ in range(8)]
        assert sum(pool.map(Lease.take, found)) == 1


@pytest.mark.slow
def test_a_living_owner_is_never_robbed_and_a_robbed_one_knows(s3, at):
    store = at(s3)
    with held(store, "run", seconds=1.2) as lease:
        assert lease is not None
        until = time.monotonic() + 3.0
        while time.monotonic() < until:
            with held(store, "run", seconds=0.1) as other:
                assert other is None
            time.sleep(0.05)
        lease.check()
        dead(store, number=lease.number + 1, seconds=60.0)  # another took it while this machine slept
        time.sleep(0.6)
        with pytest.raises(Lost, match="another machine has taken over") as lost:
            lease.check()
        assert lost.value.errno is None  # the same command would end alike
    assert json.loads(store.read("run/leases/00000002"))["count"] == 3  # left alone


def test_an_owner_that_cannot_reach_the_store_knows_in_time(at):
    if not object_store.PYTHON.exists():
        pytest.skip("no S3 server in an environment of its own: make s3-server")
    with object_store.server() as endpoint:
        store = at(endpoint, retries=0)
        lease = Lease(store, "run", 1, 1.0, time.monotonic)
        assert lease.take()
        lease.check()
    time.sleep(1.2)
    with pytest.raises(Lost, match="no sign of life reached s3://bucket") as lost:
        lease.check()
    assert lost.value.errno == errno.EHOSTUNREACH  # it may answer later
    lease.release()


@pytest.mark.slow
def test_another_process_takes_over_from_one_that_was_killed(s3, at):
    """The owner is a process of its own whose clock is five hours ahead."""
    store = at(s3)
    code = (
        "import sys, time; real = time.time; time.time = lambda: real() + 5 * 3600\n"
        "from rewardscale.remote import leases, objects\n"
        "with leases.held(objects.Objects(sys.argv[1]), 'run', seconds=1.5) as lease:\n"
        "    print(lease.number, flush=True); time.sleep(600)\n"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", code, store.url],
        cwd=object_store.REPO,
        env=os.environ | object_store.environment(s3) | {"PYTHONPATH": str(object_store.REPO)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert owner.stdout is not None and owner.stdout.readline() == "1\n"
        until = time.monotonic() + 2.0
        while time.monotonic() < until:
            with held(store, "run", seconds=1.5) as lease:
                assert lease is None
            time.sleep(0.2)
    finally:
        owner.kill()
        owner.communicate()
    died = time.monotonic()
    while time.monotonic() < died + 20:
        with held(store, "run", seconds=1.5) as lease:
            if lease is not None:
                assert lease.number == 2 and time.monotonic() - died < 10
                return
        time.sleep(0.1)
    pytest.fail("nobody took over")


def test_who_is_alive(store):
    """By the time in the lease where it can be; where a clock is off, by whether it beats."""
    record = {
        "owner": "x",
        "host": "h",
        "time": time.time() - 9000,
        "count": 0,
        "seconds": 1.0,
        "free": False,
    }
    store.write("runs/dead/leases/00000001", json.dumps(record).encode())
    store.write("runs/freed/leases/00000001", json.dumps(record | {"free": True}).encode())
    store.write(
        "runs/fresh/leases/00000001", json.dumps(record | {"time": time.time(), "seconds": 60.0}).encode()
    )
    assert leases.alive(store, "runs") == {"runs/fresh"}
    with held(store, "runs/beats", seconds=1.0) as lease:
        assert lease is not None
        assert leases.alive(store, "runs") == {"runs/fresh", "runs/beats"}
