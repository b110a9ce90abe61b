"""A corpus as a TensorFlow Datasets folder, read by `tfds.data_source` and `builder_from_directory` without TensorFlow.

    <out>/<name>/1.0.0/<name>-train.array_record-00000-of-00007     tf.Example records, at most 10,000 a shard
    <out>/<name>/1.0.0/{dataset_info,features}.json                 TFDS's own metadata
    <out>/<name>/1.0.0/rewardscale.json                             which corpus it is

A record holds id, prompt (role and content of each message), responses, source, category, group, preferred (+1: the
source prefers the first response, -1 the second, 0 neither) and margin. Records stand in the corpus's order, by split.
This is an export for other people's readers: training reads the corpus itself (benchmarks/results/encodings.md).
"""

import itertools
import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]

from rewardscale import atomic, stages
from rewardscale.config import ConfigError
from rewardscale.data.comparison import Comparison, DataError
from rewardscale.data.corpus import RECORDS_PER_SHARD, Corpus, link, open_corpus, record_writer

VERSION = "1.0.0"
SPLITS = ("train", "validation", "test")
SHARDS_A_TASK = 4
_SUFFIX = "array_record"


def export(
    corpus_directory: Path,
    out: Path,
    *,
    name: str,
    engine: Any = "inline",
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Writes the corpus as TFDS dataset `name` under `out`, whole or not at all; returns its folder.

    An interrupted export goes on where it stopped; a finished one is left alone. The bytes do not depend on `engine`.

    Args:
      corpus_directory: of the corpus (the folder that holds corpus.json).
      out: TFDS's `data_dir`.
      name: letters of a to z, digits and underscores.
      engine: of the stages (rewardscale/stages).
      progress: called with (tasks done, tasks).

    Raises:
      ConfigError: tensorflow-datasets is not installed, or the name will not do.
      DataError: the corpus is damaged or has a split other than train, validation and test, or `out` holds another
        dataset of this name.
      StageError, OSError: a shard could not be written; what is done stays.
    """
    _tfds()
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ConfigError(
            f"name={name!r}: a TFDS name has letters a to z, digits and underscores, a letter first"
        )
    corpus = open_corpus(corpus_directory)
    final = Path(out) / name / VERSION
    if final.exists():
        return _same(final, corpus)
    work = Path(out) / f".{name}-{VERSION}.work"
    tasks = _tasks(corpus, name)
    done = stages.run(work, "shards", tasks, engine=engine, progress=progress)
    with atomic.new_directory(final) as folder:
        for one in done:
            for shard in one.counts["shards"]:
                link(one.folder / shard["name"], folder / shard["name"])
        _write_metadata(folder, corpus, name, done)
        atomic.write_json(
            folder / "rewardscale.json", {"corpus": corpus.fingerprint, "comparisons": len(corpus)}
        )
    shutil.rmtree(work)
    return final


def _tfds() -> Any:
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise ConfigError(
            f"a TFDS export needs tensorflow-datasets ({error}): pip install 'rewardscale[tfds]', or "
            "make install EXTRAS=tfds. TensorFlow is not needed"
        ) from error
    return tensorflow_datasets


def _same(final: Path, corpus: Corpus) -> Path:
    try:
        there = json.loads((final / "rewardscale.json").read_text())["corpus"]
    except (OSError, ValueError, KeyError):
        there = None
    if there != corpus.fingerprint:
        raise DataError(f"{final} holds another dataset; choose another name or folder, or delete it")
    return final


def features() -> Any:
    """The dataset's features (`tfds.features.FeaturesDict`)."""
    tfds = _tfds()
    text = tfds.features.Text
    return tfds.features.FeaturesDict(
        {
            "id": text(),
            "prompt": tfds.features.Sequence({"role": text(), "content": text()}),
            "responses": tfds.features.Sequence(text()),
            "source": text(),
            "category": text(),
            "group": text(),
            "preferred": np.int8,
            "margin": np.float32,
        }
    )


def _tasks(corpus: Corpus, name: str) -> list[stages.Task]:
    """A task some shards of one split; a shard is described by its number and its range of corpus rows."""
    tasks = []
    for split, ranges in _ranges(corpus).items():
        numbered = [[number, *bounds] for number, bounds in enumerate(ranges)]
        for number, shards in enumerate(itertools.batched(numbered, SHARDS_A_TASK)):
            tasks.append(
                stages.Task(
                    f"{split}-{number:05d}",
                    f"{__name__}:write_shards",
                    {
                        "name": name,
                        "split": split,
                        "of": len(ranges),
                        "shards": [list(shard) for shard in shards],
                    },
                    (corpus.fingerprint,),
                    {"corpus": str(corpus.directory.resolve())},
                )
            )
    return tasks


def _ranges(corpus: Corpus) -> dict[str, list[tuple[int, int]]]:
    """Of each split: [first row, row after the last) of each shard of at most 10,000 records."""
    starts: dict[str, list[int]] = {split: [] for split in SPLITS}
    counts = dict.fromkeys(SPLITS, 0)
    row = 0
    for path in corpus.manifests:
        splits = pl.read_parquet(path, columns=["split"])["split"]
        if unknown := sorted(set(splits.unique()) - set(SPLITS)):
            raise DataError(
                f"{corpus.directory} has the split {unknown[0]!r}; a TFDS export needs {', '.join(SPLITS)}: "
                "build the corpus with a split of its own"
            )
        for split in SPLITS:
            rows = np.flatnonzero((splits == split).to_numpy())
            first = -counts[split] % RECORDS_PER_SHARD  # how many still go into the shard that is open
            starts[split] += (row + rows[first::RECORDS_PER_SHARD]).tolist()
            counts[split] += len(rows)
        row += len(splits)
    return {split: list(itertools.pairwise([*begins, row])) for split, begins in starts.items() if begins}


def write_shards(
    folder: Path, *, name: str, split: str, of: int, shards: Sequence[Sequence[int]], corpus: str
) -> Mapping[str, Any]:
    """Task: shards [number, first row, row after the last) of one split, of `of` in all."""
    opened = open_corpus(Path(corpus), deep=False)
    encode = encoder()
    out = []
    for number, first, stop in shards:
        path = folder / f"{name}-{split}.{_SUFFIX}-{number:05d}-of-{of:05d}"
        count = 0
        with record_writer(path) as write:
            for example in _examples(opened, split, first, stop):
                write(encode(example))
                count += 1
        out.append({"name": path.name, "records": count, "bytes": path.stat().st_size})
    return {"shards": out}


def encoder() -> Callable[[Mapping[str, Any]], bytes]:
    """The function that makes a record's bytes.

    Those of TFDS's own ExampleSerializer with the map in order, in a quarter of its time: all features are texts and
    two numbers, so nothing has to pass through arrays.
    """
    from tensorflow_datasets.proto import tf_example_pb2, tf_feature_pb2

    whole: Any = tf_example_pb2
    part: Any = tf_feature_pb2

    def texts(values: Iterable[str]) -> Any:
        encoded = [value.encode() for value in values]
        return part.Feature(bytes_list=part.BytesList(value=encoded))

    def encode(example: Mapping[str, Any]) -> bytes:
        feature = {name: texts([example[name]]) for name in ("id", "source", "category", "group")}
        for name in ("role", "content"):
            feature[f"prompt/{name}"] = texts(message[name] for message in example["prompt"])
        feature["responses"] = texts(example["responses"])
        preferred, margin = [example["preferred"]], [example["margin"]]
        feature["preferred"] = part.Feature(int64_list=part.Int64List(value=preferred))
        feature["margin"] = part.Feature(float_list=part.FloatList(value=margin))
        made = whole.Example(features=part.Features(feature=feature))
        return made.SerializeToString(deterministic=True)  # a map has no order of its own

    return encode


def _examples(corpus: Corpus, split: str, first: int, stop: int) -> Iterator[dict[str, Any]]:
    """The comparisons of `split` among the rows first to stop - 1."""
    query = corpus.scan_manifest().filter(
        (pl.col("row") >= first) & (pl.col("row") < stop) & (pl.col("split") == split)
    )
    there = query.collect_schema().names()
    extra = [
        pl.col(column) if column in there else pl.lit(0).alias(column) for column in ("preferred", "margin")
    ]
    manifest = query.select("row", "id", "group", *extra).sort("row").collect()
    records = _records(corpus, manifest["row"].to_numpy())
    for row, record in zip(manifest.iter_rows(named=True), records, strict=True):
        comparison = Comparison.from_bytes(record)
        yield {
            "id": row["id"],
            "prompt": [{"role": message.role, "content": message.content} for message in comparison.prompt],
            "responses": list(comparison.responses),
            "source": comparison.source,
            "category": comparison.category,
            "group": row["group"],
            "preferred": row["preferred"],
            "margin": row["margin"],
        }


def _records(corpus: Corpus, rows: np.ndarray) -> Iterator[bytes]:
    """The records of `rows`, which increase; a shard at a time."""
    starts = np.concatenate([[0], np.cumsum(corpus.shards.counts)])
    bounds = np.searchsorted(rows, starts)
    for shard, (begin, end) in enumerate(itertools.pairwise(bounds)):
        if begin == end:
            continue
        path = corpus.shards.paths[shard]
        wanted = (rows[begin:end] - starts[shard]).tolist()
        try:
            reader = array_record_module.ArrayRecordReader(str(path))
            whole = len(wanted) > corpus.shards.counts[shard] // 4
            records = reader.read_all() if whole else reader.read(wanted)
            reader.close()
        except (RuntimeError, ValueError, IndexError) as error:
            raise DataError(f"{path} cannot be read ({error}): corrupt; build it again") from error
        yield from (records[index] for index in wanted) if whole else records


def _write_metadata(folder: Path, corpus: Corpus, name: str, done: Sequence[stages.Done]) -> None:
    tfds = _tfds()
    by_split: dict[str, list[Mapping[str, Any]]] = {}
    for one in done:
        by_split.setdefault(one.name.rpartition("-")[0], []).extend(one.counts["shards"])
    template = tfds.core.ShardedFileTemplate(
        data_dir=folder,
        template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        dataset_name=name,
        filetype_suffix=_SUFFIX,
    )
    infos = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=[shard["records"] for shard in shards],
            num_bytes=sum(shard["bytes"] for shard in shards),
            filename_template=template.replace(split=split),
        )
        for split, shards in by_split.items()
    ]
    sources = corpus.about.get("sources") or []
    licences = [f"{s['name']}: {s.get('licence') or 'not stated'}" for s in sources]
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=features(),
        split_infos=infos,
        version=VERSION,
        filename_template=template,
        check_data=False,
        description=f"Preference pairs: rewardscale corpus {corpus.fingerprint}.",
        license="\n".join(licences) or None,
    )
