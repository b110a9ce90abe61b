"""The TFDS export: what TFDS and grain read back is the corpus, in the same bytes however it was written."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import grain
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardscale.config import ConfigError
from rewardscale.config.build import SplitConfig
from rewardscale.data.build import tfds as export_module
from rewardscale.data.build.run import Built
from rewardscale.data.build.tfds import export
from rewardscale.data.comparison import Comparison, DataError, Message
from rewardscale.data.corpus import Corpus, write_corpus
from rewardscale.data.sources.judged import Judged, Judgement
from tests.data.build import built_small
from tests.data.build.built_small import judged

tfds = pytest.importorskip("tensorflow_datasets", reason="the extra tfds is not installed")
ExampleSerializer = pytest.importorskip("tensorflow_datasets.core.example_serializer").ExampleSerializer

NASTY = ["ends with nul\0", "\0", "e\u0301 \u202e \U0001f600", "<script>", "a\r\nb\ttab ", "x" * 5000, " "]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    pairs = [
        judged(f"q{i}", f"yes {i}", f"no {i}", source="plain", margin=0.25 * (1 + i % 5)) for i in range(60)
    ]
    nasty = [
        judged(text, text + "!", text + "?", source="nasty", category=text, tie=i % 2 > 0)
        for i, text in enumerate(NASTY)
    ]
    turns = (
        Message("system", ""),
        Message("user", "hi"),
        Message("assistant", "yes?"),
        Message("user", "go"),
    )
    chat = Comparison(turns, ("one", "two", "three"), source="chat", split="", group="g")
    directory = tmp_path_factory.mktemp("tfds") / "built"
    found = {
        "plain": pairs,
        "nasty": nasty,
        "chat": [Judged(chat, (Judgement("p", "person", (3.0, 2.0, 1.0)),))],
    }
    return built_small.build(directory, found, split=SplitConfig(validation=0.2, test=0.1))


@pytest.fixture
def many_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_module, "RECORDS_PER_SHARD", 12)
    monkeypatch.setattr(export_module, "SHARDS_A_TASK", 2)


def expected(corpus: Corpus, split: str) -> list[dict[str, Any]]:
    """The records of a split, made from the corpus's own."""
    rows = []
    for comparison, row in zip(corpus, corpus.manifest().iter_rows(named=True), strict=True):
        if row["split"] == split:
            roles, contents = (
                [getattr(m, name).encode() for m in comparison.prompt] for name in ("role", "content")
            )
            texts = {name: row[name].encode() for name in ("id", "source", "category", "group")}
            rows.append(
                {
                    **texts,
                    "prompt": {"role": roles, "content": contents},
                    "responses": [response.encode() for response in comparison.responses],
                    "preferred": row.get("preferred", 0),
                    "margin": row.get("margin", 0.0),
                }
            )
    return rows


def plain(example: dict[str, Any]) -> dict[str, Any]:
    """What TFDS gives, with arrays as lists."""
    return {
        key: {k: list(v) for k, v in value.items()} if isinstance(value, dict)
        else list(value) if key == "responses" else value
        for key, value in example.items()
    }  # fmt: skip


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.usefixtures("many_shards")
def test_tfds_and_grain_read_the_corpus(built: Built, tmp_path: Path) -> None:
    folder = export(built.corpus.directory, tmp_path, name="pairs_1", engine="inline")
    assert folder == tmp_path / "pairs_1" / "1.0.0"
    builder = tfds.builder_from_directory(folder)
    assert set(builder.info.splits) == {"train", "validation", "test"}
    for split in builder.info.splits:
        wanted = expected(built.corpus, split)
        source = builder.as_data_source(split)
        assert [plain(example) for example in source] == wanted
        assert builder.info.splits[split].num_shards == -(-len(wanted) // 12)
        by_name = tfds.data_source("pairs_1", data_dir=tmp_path, split=split)
        shuffled = [plain(example) for example in grain.MapDataset.source(by_name).shuffle(seed=1)]
        assert shuffled != wanted or len(wanted) < 3
        assert sorted(shuffled, key=lambda e: e["id"]) == sorted(wanted, key=lambda e: e["id"])
    assert "plain: unknown" in (folder / "LICENSE").read_text()
    assert not list(tmp_path.glob(".*")), "the stage's files are removed"


@given(
    st.lists(st.tuples(st.sampled_from(["user", "assistant"]), st.text()), min_size=1, max_size=3),
    st.lists(st.text(), min_size=2, max_size=3),
    st.integers(-1, 1),
    st.floats(0, 1e6, width=32),
)
@settings(deadline=None, max_examples=50)
def test_records_are_those_of_tfds_own_serializer(
    prompt: list[tuple[str, str]], responses: list[str], preferred: int, margin: float
) -> None:
    example = {
        "id": "1", "prompt": [{"role": role, "content": content} for role, content in prompt], "responses": responses,
        "source": "s", "category": "", "group": responses[0], "preferred": preferred, "margin": margin,
    }  # fmt: skip
    described = export_module.features()
    slow = ExampleSerializer(described.get_serialized_info()).get_tf_example(
        described.encode_example(example)
    )
    assert export_module.encoder()(example) == slow.SerializeToString(deterministic=True)


@pytest.mark.usefixtures("many_shards")
def test_an_interrupted_export_goes_on_and_a_finished_one_stays(built: Built, tmp_path: Path) -> None:
    whole = export(built.corpus.directory, tmp_path / "whole", name="pairs")

    def stop(done: int, of: int) -> None:
        assert of > 3
        if done == 2:
            raise KeyboardInterrupt

    out = tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt):
        export(built.corpus.directory, out, name="pairs", progress=stop)
    assert not (out / "pairs").exists()
    done = {path: path.stat().st_mtime_ns for path in out.rglob("task.json")}
    assert len(done) >= 2
    folder = export(built.corpus.directory, out, name="pairs")
    assert contents(folder) == contents(whole)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert export(built.corpus.directory, out, name="pairs", progress=stop) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.slow
@pytest.mark.usefixtures("many_shards")
def test_processes_write_the_same_bytes(built: Built, tmp_path: Path) -> None:
    folders = [
        export(built.corpus.directory, tmp_path / engine[:3], name="pairs", engine=engine)
        for engine in ("inline", "process:2")
    ]
    assert contents(folders[0]) == contents(folders[1])


def test_tensorflow_is_never_imported(built: Built, tmp_path: Path) -> None:
    """In a process of its own, which also gives the same bytes: protobuf's maps have no order."""
    program = """
import json, sys
from pathlib import Path
from rewardscale.data.build.tfds import export
folder = export(Path(sys.argv[1]), Path(sys.argv[2]), name="pairs")
import tensorflow_datasets as tfds
source = tfds.builder_from_directory(folder).as_data_source("train")
print(json.dumps([len(source), source[0]["source"].decode(), "tensorflow" in sys.modules, "jax" in sys.modules]))
"""
    command = [sys.executable, "-c", program, str(built.corpus.directory), str(tmp_path / "other")]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    records, source, tensorflow, jax = json.loads(ran.stdout.splitlines()[-1])
    assert (records, source) == (len(expected(built.corpus, "train")), "plain")
    assert not tensorflow and not jax
    here = export(built.corpus.directory, tmp_path / "here", name="pairs")
    assert contents(here) == contents(tmp_path / "other" / "pairs" / "1.0.0")


def test_a_corpus_without_labels_is_exported_as_ties(tmp_path: Path) -> None:
    comparisons = [Comparison((Message("user", f"q{i}"),), ("a", "b"), source="s") for i in range(3)]
    corpus = write_corpus(tmp_path / "corpus", comparisons, about={})
    source = tfds.builder_from_directory(export(corpus.directory, tmp_path, name="x")).as_data_source("train")
    assert [plain(example) for example in source] == expected(corpus, "train")


def test_what_cannot_be_exported_is_refused(built: Built, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="letters a to z"):
        export(built.corpus.directory, tmp_path, name="no-dashes")
    with pytest.raises(DataError, match="not a corpus"):
        export(built.directory, tmp_path, name="x")
    other = Comparison((Message("user", "q"),), ("a", "b"), source="s", split="")
    corpus = write_corpus(tmp_path / "corpus", [other], about={})
    with pytest.raises(DataError, match="the split ''"):
        export(corpus.directory, tmp_path, name="x")
    export(built.corpus.directory, tmp_path, name="taken")
    one = Comparison((Message("user", "q"),), ("a", "b"), source="s")
    corpus = write_corpus(tmp_path / "second", [one], about={})
    with pytest.raises(DataError, match="holds another dataset"):
        export(corpus.directory, tmp_path, name="taken")


def test_without_the_extra_the_error_names_it(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ConfigError, match=r"rewardscale\[tfds\]"):
        export(built.corpus.directory, tmp_path, name="x")
