"""Writes are whole or absent: errors, full disks, read-only folders, races and killed processes leave no litter."""

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from rewardscale import atomic


def test_bytes_are_written_and_replaced(tmp_path):
    path = tmp_path / "new" / "file"
    atomic.write_bytes(path, b"one")
    atomic.write_bytes(path, b"two")
    assert path.read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir()] == ["file"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_json_that_cannot_be_read_back_is_refused_and_the_old_file_stays(tmp_path):
    path = tmp_path / "value.json"
    atomic.write_json(path, {"b": 1.5, "a": [None]})
    with pytest.raises(ValueError, match="JSON"):
        atomic.write_json(path, {"b": math.nan})
    assert json.loads(path.read_text()) == {"b": 1.5, "a": [None]}
    assert path.read_text().index('"a"') < path.read_text().index('"b"')
    assert [p.name for p in tmp_path.iterdir()] == ["value.json"]


def test_a_directory_appears_whole(tmp_path):
    final = tmp_path / "deep" / "final"
    with atomic.new_directory(final) as folder:
        (folder / "file").write_text("content")
        assert not final.exists() and folder.parent == final.parent
    assert (final / "file").read_text() == "content"
    assert final.stat().st_mode & 0o777 == 0o755
    assert [p.name for p in final.parent.iterdir()] == ["final"]


def test_an_error_leaves_no_directory(tmp_path):
    with pytest.raises(KeyError), atomic.new_directory(tmp_path / "final") as folder:
        (folder / "file").write_text("half")
        raise KeyError
    assert not list(tmp_path.iterdir())


def test_the_first_of_two_writers_stays(tmp_path):
    final = tmp_path / "final"
    with atomic.new_directory(final) as slow:
        (slow / "file").write_text("slow")
        with atomic.new_directory(final) as quick:
            (quick / "file").write_text("quick")
    assert (final / "file").read_text() == "quick"
    assert [p.name for p in tmp_path.iterdir()] == ["final"]


def test_an_empty_folder_in_the_way_is_replaced_and_a_file_is_an_error(tmp_path):
    (tmp_path / "empty").mkdir()
    with atomic.new_directory(tmp_path / "empty") as folder:
        (folder / "file").write_text("content")
    assert (tmp_path / "empty" / "file").exists()
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(OSError), atomic.new_directory(tmp_path / "taken"):
        pass
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "taken"]


HOLD = """
import sys, time
from pathlib import Path
from rewardscale import atomic
with atomic.locked(Path(sys.argv[1])) as held:
    print(held, flush=True)
    time.sleep(60)
"""


def test_a_lock_excludes_others_until_its_holder_dies_however_it_dies(tmp_path):
    path = tmp_path / "folder" / "lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "True\n"
        with atomic.locked(path, wait=False) as held:
            assert not held
        holder.send_signal(signal.SIGKILL)
        holder.wait(30)
        with atomic.locked(path) as held:
            assert held
        with atomic.locked(path, wait=False) as held:
            assert held
    finally:
        holder.kill()
        holder.communicate()


# Each writer of the data floor writes to a folder; more than 4 KiB in one file, to meet the limit below.
WRITERS = """
import json, os, resource, shutil, sys
from pathlib import Path
import numpy as np
import polars as pl
from rewardscale import atomic
from rewardscale.data.comparison import Comparison, Message
from rewardscale.data.corpus import write_corpus
from rewardscale.data.templates import word_tokenizer
from rewardscale.data.tokenised import build_view
from rewardscale.data.ledger.ledger import Ledger
from rewardscale.data.levels import Level, write_level

noise = np.random.default_rng(0)
rows = np.arange(20_000, dtype=np.uint32)
level = Level("raw", rows, np.ones(len(rows), np.int8))
few = [Comparison((Message("user", "a"),), (f"b {i}", "c"), "s") for i in range(300)]
tokenizer = word_tokenizer(["a", "b", "c", *map(str, range(300))])
votes = pl.DataFrame({"row": rows, "comparison": [noise.bytes(16).hex() for _ in rows], "annotator": "a",
                      "kind": "person", "round": 0, "preferred": 1, "confidence": noise.random(len(rows)),
                      "cost": 1.0})
wide = {"text": [noise.bytes(2000).hex() for _ in few]}

def view(folder):
    corpus = write_corpus(folder / "corpus", few, about={}) if not (folder / "corpus").exists() else None
    from rewardscale.data.corpus import open_corpus
    build_view(corpus or open_corpus(folder / "corpus"), tokenizer, "words")

WRITERS = {
    "bytes": lambda folder: atomic.write_bytes(folder / "file", noise.bytes(2_000_000)),
    "level": lambda folder: write_level(folder, level),
    "ledger": lambda folder: Ledger(folder).append(votes),
    "corpus": lambda folder: write_corpus(folder / "c", few, about={}),
    "manifest": lambda folder: write_corpus(folder / "c", few, about={}, columns=wide),
    "view": view,
}

def attempt(root):
    found = {}
    for name, write in WRITERS.items():
        folder = root / name
        before = sorted(map(str, folder.rglob("*")))
        try:
            write(folder)
            found[name] = ["no error", "", []]
        except BaseException as error:
            new = [p for p in sorted(map(str, folder.rglob("*"))) if p not in before]
            found[name] = [isinstance(error, OSError), repr(error), new]
    return found

root, how = Path(sys.argv[1]), sys.argv[2]
for name in WRITERS:
    (root / "well" / name).mkdir(parents=True)
    (root / "ill" / name).mkdir(parents=True)
write_corpus(root / "ill" / "view" / "corpus", few, about={})
well = attempt(root / "well")  # also imports whatever is imported late
assert all(error == "" for _, error, _ in well.values()), well
if how == "full":
    for limit in map(int, sys.argv[3:]):
        shutil.copytree(root / "ill", root / f"limit-{limit}")
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        print(json.dumps(attempt(root / f"limit-{limit}")))
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
else:
    for folder in [root / "ill", *(root / "ill").rglob("*")]:
        os.chmod(folder, 0o555 if folder.is_dir() else 0o444)
    if os.getuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    print(json.dumps(attempt(root / "ill")))
"""


@pytest.fixture
def open_folder():
    """A folder that other users may enter (pytest's own are closed to them)."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        closed = [p for p in Path(name).resolve().parents if not p.stat().st_mode & 0o001]
        if closed and os.getuid() == 0:  # the test then works as the user nobody
            pytest.skip(f"other users may not enter {closed[0]}: set TMPDIR to a folder that they may")
        yield Path(name)


def test_a_full_disk_is_an_oserror_and_leaves_no_litter(python, tmp_path):
    # The second limit lets shards (they are padded to 64 KiB) pass where the manifest is to fail.
    fail_at = {
        4_096: {"bytes", "level", "ledger", "corpus", "manifest", "view"},
        200_000: {"bytes", "ledger", "manifest"},
    }
    lines = python(WRITERS, tmp_path, "full", *fail_at).stdout.splitlines()
    for writers, line in zip(fail_at.values(), lines, strict=True):
        found = json.loads(line)
        assert {name for name, (kind, _, _) in found.items() if kind is True} == writers, found
        assert {name for name, (kind, _, _) in found.items() if kind == "no error"} == set(found) - writers
        for name in writers:
            assert not [p for p in found[name][2] if Path(p).name != "views"], found[name]


def test_a_read_only_folder_is_an_oserror(python, open_folder):
    found = json.loads(python(WRITERS, open_folder, "read-only").stdout)
    for name, (kind, message, new) in found.items():
        assert kind is True and not new, (name, message)
        assert "ermission" in message or "ead-only" in message, (name, message)
