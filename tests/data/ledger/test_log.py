"""A log gives back a prefix of what was added, whatever byte its writer died at, and no record twice."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rewardscale.data.comparison import DataError
from rewardscale.data.ledger.log import AppendLog, payloads, read_log

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(values, max_size=6), st.lists(values, max_size=3), st.data())
def test_a_crash_at_any_byte_leaves_a_prefix(tmp_path_factory, before, after, data):
    folder = tmp_path_factory.mktemp("log")
    with AppendLog(folder, "a") as log:
        for record in before:
            log.add(record)
    path = folder / "a.jsonl"
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    assert len(ends) == len(before)
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    kept = sum(end <= cut for end in ends)
    assert list(read_log(folder)) == before[:kept]
    with AppendLog(folder, "a") as log:
        assert log.records == kept and log.torn_bytes == cut - ([0, *ends][kept])
        log.extend(after)
    assert list(read_log(folder)) == before[:kept] + after
    with AppendLog(folder, "a") as log:
        assert log.torn_bytes == 0 and log.records == kept + len(after)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_no_changed_byte_goes_unnoticed(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("log")
    records = [{"key": f"k{i}", "n": i} for i in range(4)]
    with AppendLog(folder, "a") as log:
        log.extend(records)
    path = folder / "a.jsonl"
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        read = list(read_log(folder))
    except DataError as error:
        assert "a.jsonl, line" in str(error)
    else:  # the damage touched the end alone, and is a torn tail
        assert read == records[: len(read)] and len(read) < 4


def test_damage_before_whole_records_is_named_and_nothing_is_cut(tmp_path):
    with AppendLog(tmp_path, "a") as log:
        log.extend(range(5))
    path = tmp_path / "a.jsonl"
    damaged = path.read_bytes().replace(b" 1\n", b" 7\n")
    path.write_bytes(damaged)
    for use in (lambda: payloads(path), lambda: AppendLog(tmp_path, "a")):
        with pytest.raises(DataError, match=r"a\.jsonl, line 2: the record is damaged"):
            use()
    assert path.read_bytes() == damaged


def test_names_that_leave_the_folder_are_refused(tmp_path):
    for name in ("", "../a", "a/b", ".a", "a b", "x" * 101):
        with pytest.raises(DataError, match="use letters"):
            AppendLog(tmp_path, name)
    with AppendLog(tmp_path, "a") as log, pytest.raises(DataError, match="cannot be written as JSON"):
        log.add({"a": object()})
    assert list(read_log(tmp_path)) == [] and list(read_log(tmp_path / "nowhere")) == []


def test_a_full_disk_leaves_whole_records(tmp_path, python):
    code = """
import resource, signal, sys
from pathlib import Path
from rewardscale.data.ledger.log import AppendLog, read_log
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
log = AppendLog(Path(sys.argv[1]), "a")
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
added = 0
try:
    while added < 50:
        log.add({"n": added})
        added += 1
except OSError as error:
    print(type(error).__name__)
print(added == log.records == len(list(read_log(Path(sys.argv[1])))) > 2)
"""
    assert python(code, tmp_path).stdout.split() == ["OSError", "True"]
    assert [record["n"] for record in read_log(tmp_path)] == list(range(len(payloads(tmp_path / "a.jsonl"))))


WRITER = """
import sys
from pathlib import Path
from rewardscale.data.ledger.log import AppendLog
folder, name, group = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
with AppendLog(folder, name, group=group) as log:
    for n in range(log.records, 10**9):
        log.add({"writer": name, "n": n, "text": "x" * (n % 97)})
        print(n, flush=True)  # the acknowledgement
"""


def start(folder: Path, name: str, group: int = 20) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(folder), name, str(group)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_kill_9_loses_nothing_acknowledged(tmp_path):
    acknowledged = -1
    for delay in (0.01, 0.05, 0.2):
        writer = start(tmp_path, "a")
        assert writer.stdout is not None
        first = writer.stdout.readline()
        time.sleep(delay)
        writer.send_signal(signal.SIGKILL)
        seen = [int(line) for line in (first + writer.stdout.read()).split("\n")[:-1]]
        writer.wait()
        assert seen[0] > acknowledged
        acknowledged = seen[-1]
        numbers = [record["n"] for record in read_log(tmp_path)]
        assert numbers == list(range(len(numbers))) and len(numbers) > acknowledged


def test_two_writers_at_once_and_readers_beside_them(tmp_path):
    writers = [start(tmp_path, name) for name in ("a", "b")]
    try:
        for writer in writers:
            assert writer.stdout is not None and writer.stdout.readline()
        with pytest.raises(DataError, match="being written by another process"):
            AppendLog(tmp_path, "a")
        seen = {"a": 0, "b": 0}
        for _ in range(3):
            for name in seen:
                numbers = [json.loads(line)["n"] for line in payloads(tmp_path / f"{name}.jsonl")]
                assert numbers == list(range(len(numbers))) and len(numbers) >= seen[name]
                seen[name] = len(numbers)
    finally:
        for writer in writers:
            os.kill(writer.pid, signal.SIGKILL)
            writer.communicate()
    with AppendLog(tmp_path, "a") as log:  # its lock died with it
        log.add("more")
    assert list(read_log(tmp_path))[log.records - 1] == "more"
