"""Folders on object storage: the same rows, shards fetched when read, wrong files never taken for right ones."""

import shutil
import uuid

import fsspec
import numpy as np
import pytest

from rewardscale.data import pipeline, remote, token_shards
from rewardscale.data.comparison import DataError
from rewardscale.data.corpus import write_corpus
from rewardscale.data.levels import Level, read_level, write_level
from rewardscale.data.subsets import open_subset, subset, write_subset
from rewardscale.data.templates import word_tokenizer
from rewardscale.data.tokenised import TokenStore, build_view, open_view

WORDS = [f"w{i}" for i in range(50)]
LEVEL = Level("raw", np.arange(80, dtype=np.uint32), np.ones(80, np.int8))


@pytest.fixture(scope="module")
def view(tmp_path_factory, comparisons):
    """A view of five shards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_shards, "ROWS_PER_SHARD", 16)
        corpus = write_corpus(tmp_path_factory.mktemp("remote") / "corpus", comparisons(80), about={})
        yield build_view(corpus, word_tokenizer(WORDS), "words")


@pytest.fixture(params=["memory", "file"])
def upload(request, tmp_path, monkeypatch):
    """Puts a folder on a remote file system and returns its url; the cache is a folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def put(folder) -> str:
        name = f"{folder.name}-{uuid.uuid4().hex}"
        url = f"memory://{name}" if request.param == "memory" else f"file://{tmp_path}/remote/{name}"
        files, root = fsspec.url_to_fs(url)
        files.put(str(folder), root, recursive=True)
        return url

    return put


def shards(folder) -> list[str]:
    return sorted(path.name for path in folder.glob("*.tokens"))


def test_shards_are_fetched_when_they_are_read(view, upload):
    found = open_view(upload(view.directory))
    assert found.key == view.key and shards(found.directory) == []
    store = TokenStore(found, in_memory=False)
    for rows, wanted in ((np.array([3, 70]), [0, 4]), (np.arange(80), range(5))):
        for one, two in zip(store.gather(rows), TokenStore(view).gather(rows), strict=True):
            np.testing.assert_array_equal(one, two)
        assert shards(found.directory) == [f"shard-{i:05d}-of-00005.tokens" for i in wanted]
    assert not [path for path in found.directory.iterdir() if path.name.endswith(".tmp")]


def test_levels_subsets_and_batches_come_from_urls_too(view, upload, tmp_path):
    level = read_level(upload(write_level(tmp_path / "levels", LEVEL)))
    assert level.fingerprint == LEVEL.fingerprint
    chosen = subset(level, 40, pool=np.arange(80), seed=0, draw=0)
    again = open_subset(upload(write_subset(tmp_path / "subsets", chosen)))
    assert again.fingerprint == chosen.fingerprint
    made = []
    for where, which in ((view, chosen), (open_view(upload(view.directory)), again)):
        data = pipeline.prepare(
            where, which, positions=40, batch=8, seed=0, draw=0, max_length=99, too_long="drop",
            row_length=48, rows_per_microbatch=4,
        )  # fmt: skip
        made.append(pipeline.StepSource(data, pipeline.Capacity(8, 16)).block(0, 5))
    for name in made[0]:
        np.testing.assert_array_equal(made[0][name], made[1][name])


def test_a_second_opening_fetches_nothing_again(view, upload):
    url = upload(view.directory)
    TokenStore(open_view(url)).gather(np.arange(80))
    folder = remote.local(url)
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.npy")} | {
        path.name: path.stat().st_mtime_ns for path in folder.glob("*.tokens")
    }
    assert len(before) == 8
    TokenStore(open_view(url)).gather(np.arange(80))
    assert before == {name: (folder / name).stat().st_mtime_ns for name in before}


@pytest.mark.parametrize("name", ["shard-00001-of-00005.tokens", "starts.npy"])
@pytest.mark.parametrize("cut", [True, False])
def test_a_file_that_is_not_the_committed_one_gets_no_name(view, upload, tmp_path, name, cut):
    folder = shutil.copytree(view.directory, tmp_path / "broken")
    data = bytearray((folder / name).read_bytes())
    data[-1] ^= 1
    (folder / name).write_bytes(data[:-4] if cut else data)
    url = upload(folder)
    with pytest.raises(DataError, match=f"{name} is not the file that was committed"):
        TokenStore(open_view(url), in_memory=False).gather(np.arange(80))
    assert not list((tmp_path / "cache").rglob(name))


def test_a_folder_replaced_at_its_origin_is_named(view, upload, tmp_path):
    url = upload(view.directory)
    remote.local(url)
    files, root = fsspec.url_to_fs(url)
    files.pipe_file(f"{root}/view.json", (view.directory / "view.json").read_bytes() + b"\n")
    with pytest.raises(DataError, match="was replaced since it was copied; delete"):
        remote.local(url)


def test_a_url_without_a_commit_record_is_named(upload, tmp_path):
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "starts.npy").write_bytes(b"")
    for url in (upload(tmp_path / "half"), "memory://nowhere/at/all"):
        with pytest.raises(DataError, match="holds nothing that was committed"):
            remote.local(url)


def test_paths_are_left_alone(tmp_path):
    assert remote.local(tmp_path) == tmp_path and remote.local(str(tmp_path)) == tmp_path
