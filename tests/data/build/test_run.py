"""A whole build: counts add up, bytes are those of inputs and config, nothing half-written is taken for whole."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from rewardscale.config import ConfigError
from rewardscale.config.build import BuildConfig, DecontaminateConfig, NearConfig, SourceConfig, SplitConfig
from rewardscale.data.build.run import Built, build
from rewardscale.data.comparison import DataError
from rewardscale.data.corpus import open_corpus
from rewardscale.data.ledger.ledger import Ledger
from rewardscale.data.levels import read_level
from tests.conftest import REPO

WORDS = [f"word{i}" for i in range(400)]


def text(random: np.random.Generator, words: int) -> str:
    return " ".join(random.choice(WORDS, words))


def pairs(count: int, seed: int) -> list[dict]:
    random = np.random.default_rng(seed)
    return [
        {"prompt": text(random, 12), "chosen": text(random, 20), "rejected": text(random, 15)}
        for _ in range(count)
    ]


def write_lines(path: Path, records: list) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records))
    return path


@pytest.fixture
def sources(tmp_path) -> tuple[SourceConfig, ...]:
    """Two files: 300 and 200 pairs, of which some are the same, contradict each other or cannot be used."""
    one, two = pairs(300, 1), pairs(200, 2)
    flipped = {"prompt": one[0]["prompt"], "chosen": one[0]["rejected"], "rejected": one[0]["chosen"]}
    bad = [
        '{"prompt": "cut',
        {"prompt": "p", "chosen": "same", "rejected": "same"},
        {"prompt": "p", "chosen": "c"},
    ]
    write_lines(tmp_path / "one.jsonl", one)
    write_lines(tmp_path / "two.jsonl", [*two, *one[1:6], flipped, *bad])
    return tuple(SourceConfig(path=str(tmp_path / f"{name}.jsonl"), name=name) for name in ("one", "two"))


def files(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and "work" not in path.relative_to(directory).parts
    }


def fates(built: Built, name: str) -> dict:
    (source,) = [s for s in built.record["sources"] if s["name"] == name]
    return source


def test_what_went_in_and_what_became_of_it(sources, tmp_path):
    built = build(BuildConfig(sources=sources, split=SplitConfig(0.1, 0.1)), tmp_path / "out")
    one, two = fates(built, "one"), fates(built, "two")
    assert one["comparisons"] == 300 and one["refused"] == {} and one["kept"] == 299
    assert one["dropped"] == {"conflict": 1}
    assert two["comparisons"] == 206 and two["kept"] == 200
    assert two["dropped"] == {"conflict": 1, "duplicate": 5}
    assert sum(two["refused"].values()) == 3
    lines = [json.loads(line) for line in (tmp_path / "out/quarantine.jsonl").read_text().splitlines()]
    assert [(line["source"], line["file"], line["line"]) for line in lines] == [
        ("two", "two.jsonl", n) for n in (207, 208, 209)
    ]
    assert all(line["reason"] for line in lines)
    assert len(built.corpus) == 499 == built.record["comparisons"]
    # Records and manifest agree, and say which response the source prefers.
    manifest = built.corpus.manifest()
    assert manifest["id"].to_list() == [c.id for c in built.corpus]
    assert manifest["split"].to_list() == [c.split for c in built.corpus]
    assert set(manifest["split"]) == {"train", "validation", "test"}
    level = read_level(tmp_path / "out/levels/raw")
    wanted = {r["prompt"]: r["chosen"] for r in [*pairs(300, 1), *pairs(200, 2)]}
    for comparison, sign in zip(built.corpus, level.orientation, strict=True):
        assert comparison.responses[int(sign < 0)] == wanted[comparison.prompt[0].content]
    # The order of a pair's responses says nothing.
    assert 0.4 < (level.orientation > 0).mean() < 0.6
    ledger = Ledger(tmp_path / "out/ledger").read()
    assert ledger["row"].to_list() == list(range(499))
    assert ledger["preferred"].to_list() == level.orientation.tolist()
    assert not (tmp_path / "out/work").exists()


def test_engine_and_place_do_not_change_a_byte(sources, tmp_path):
    config = BuildConfig(
        sources=sources,
        near=NearConfig(0.8),
        decontaminate=DecontaminateConfig(
            (f"own={write_lines(tmp_path / 'own.jsonl', pairs(300, 1)[9:12])}",)
        ),
    )
    made = build(config, tmp_path / "a")
    assert fates(made, "one")["dropped"]["contaminated:own"] == 3
    (tmp_path / "moved").mkdir()
    for path in tmp_path.glob("*.jsonl"):
        shutil.copy(path, tmp_path / "moved")
    moved = dataclasses.replace(
        config,
        sources=tuple(dataclasses.replace(s, path=Path(s.path).name) for s in sources),
        decontaminate=DecontaminateConfig(("own=own.jsonl",)),
    )
    build(moved, tmp_path / "deeper" / "b", data_dir=tmp_path / "moved", engine="process:2")
    assert files(tmp_path / "a") == files(tmp_path / "deeper" / "b")


def test_a_finished_corpus_is_left_alone_and_another_is_not_put_in_its_place(sources, tmp_path):
    config = BuildConfig(sources=sources)
    first = build(config, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    again = build(config, tmp_path / "out")
    assert again.corpus.fingerprint == first.corpus.fingerprint and again.record == first.record
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before
    with pytest.raises(ConfigError, match=r"another config.*--out"):
        build(dataclasses.replace(config, conflicts="first"), tmp_path / "out")


@pytest.mark.parametrize("same_size", [True, False])
def test_a_finished_corpus_of_other_inputs_is_not_taken_for_the_one_asked_for(sources, tmp_path, same_size):
    config = BuildConfig(sources=sources)
    build(config, tmp_path / "out")
    path = Path(sources[0].path)
    text = path.read_text()
    path.write_text(text)
    build(config, tmp_path / "out")  # written to, and the same
    path.write_text(text.replace("e", "a") if same_size else text + text)
    with pytest.raises(ConfigError, match=f"built from another .*{path.name}"):
        build(config, tmp_path / "out")


def test_killed_in_the_middle_it_goes_on_and_gives_the_same_bytes(sources, tmp_path):
    whole = build(BuildConfig(sources=sources), tmp_path / "whole")
    command = [sys.executable, "-m", "rewardscale.build", "--engine=inline", f"--out={tmp_path / 'out'}"]
    command += [f"--source={source.path}" for source in sources]
    rows = tmp_path / "out" / "work" / "exact"
    process = subprocess.Popen(command, cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not rows.exists() and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "out" / "build.json").exists()
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert open_corpus(tmp_path / "out/corpus").fingerprint == whole.corpus.fingerprint
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    assert "two: 206 comparisons read" in done.stdout and "499 comparisons" in done.stdout


def test_a_group_is_never_parted(tmp_path):
    """Pairs of one prompt, and later turns of one dialogue, land in one split."""
    random = np.random.default_rng(0)
    records = []
    for _ in range(60):
        first, answer = text(random, 8), text(random, 8)
        talk = [{"role": "user", "content": first}, {"role": "assistant", "content": answer}]
        later = [*talk, {"role": "user", "content": text(random, 5)}]
        for prompt in (first, first, later):
            records.append({"prompt": prompt, "chosen": text(random, 9), "rejected": text(random, 9)})
    path = write_lines(tmp_path / "talks.jsonl", records)
    config = BuildConfig(sources=(SourceConfig(path=str(path)),), split=SplitConfig(0.3, 0.3))
    manifest = build(config, tmp_path / "out").corpus.manifest()
    assert len(manifest) == 180 and manifest["group"].n_unique() == 60
    assert manifest.group_by("group").agg(pl.col("split").n_unique())["split"].max() == 1
    assert min(Counter(manifest["split"]).values()) > 15


def test_clear_errors(sources, tmp_path):
    with pytest.raises(ConfigError, match="at least one source"):
        build(BuildConfig(), tmp_path / "out")
    with pytest.raises(DataError, match=r"nowhere\.jsonl"):
        build(BuildConfig(sources=(SourceConfig(path="nowhere.jsonl"),)), tmp_path / "out")
    empty = write_lines(tmp_path / "bad.jsonl", ["{", '{"prompt": "p"}'])
    with pytest.raises(DataError, match=r"none of the records.*not_json \(1\)"):
        build(BuildConfig(sources=(SourceConfig(path=str(empty)),)), tmp_path / "out")
    with pytest.raises(ConfigError, match="made to evaluate"):
        build(BuildConfig(sources=(SourceConfig("rm-bench", str(tmp_path)),)), tmp_path / "out")
    with pytest.raises(ConfigError, match="one is there twice"):
        BuildConfig(sources=(sources[0], sources[0]))
    assert not (tmp_path / "out" / "build.json").exists()


def test_damage_is_noticed(sources, tmp_path):
    built = build(BuildConfig(sources=sources), tmp_path / "out")
    manifest = built.corpus.manifests[0]
    content = manifest.read_bytes()
    manifest.write_bytes(content[:-8] + bytes(8))
    with pytest.raises(DataError, match=r"manifest-.*changed.*build it again"):
        build(BuildConfig(sources=sources), tmp_path / "out")
    manifest.write_bytes(content)
    shard = built.corpus.shards.paths[0]
    os.truncate(shard, shard.stat().st_size - 100)
    with pytest.raises(DataError, match=r"shard-.*truncated"):
        open_corpus(tmp_path / "out" / "corpus")
