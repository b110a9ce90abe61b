"""One function reads every format, whole or in parts, and says what is wrong with a file."""

import bz2
import gzip
import itertools
import json
import lzma
import random
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import zstandard
from array_record.python.array_record_module import ArrayRecordWriter
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardscale.data.comparison import DataError
from rewardscale.data.sources import formats, tables
from rewardscale.data.sources.formats import Unit, records, units
from rewardscale.data.sources.judged import Refused

RECORDS: list[dict[str, Any]] = [
    {"prompt": f"é {i}", "chosen": [{"role": "user", "content": "x" * (i % 50)}], "n": i} for i in range(3000)
]
LINES = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in RECORDS).encode()


def write(path: Path) -> None:
    name = path.name
    if name == "arrow_stream.arrow":
        pl.DataFrame(RECORDS).write_ipc_stream(path)
    elif name.endswith(".arrow"):
        pl.DataFrame(RECORDS).write_ipc(path)
    elif name.endswith(".parquet"):
        pl.DataFrame(RECORDS).write_parquet(path, row_group_size=700)
    elif ".array_record" in name:
        writer = ArrayRecordWriter(str(path), "group_size:16,zstd:3")
        for record in RECORDS:
            writer.write(json.dumps(record).encode())
        writer.close()
    else:
        path.write_bytes(TEXTS[name])


def compressed_zstd(data: bytes) -> bytes:
    one = zstandard.ZstdCompressor()
    return one.compress(data[:1000]) + one.compress(data[1000:])  # two frames


TEXTS = {
    "a.jsonl": LINES,
    "no_newline_at_the_end.jsonl": LINES[:-1],
    "windows.ndjson": LINES.replace(b"\n", b"\r\n"),
    "bom.jsonl": b"\xef\xbb\xbf" + LINES,
    "a.jsonl.gz": gzip.compress(LINES),
    "two_members.jsonl.gz": gzip.compress(LINES[:500]) + gzip.compress(LINES[500:]),
    "a.jsonl.xz": lzma.compress(LINES),
    "a.jsonl.bz2": bz2.compress(LINES),
    "a.jsonl.zst": compressed_zstd(LINES),
    "lines.json": LINES,
    "array.json": json.dumps(RECORDS, indent=1).encode(),
    "array.json.gz": gzip.compress(json.dumps(RECORDS).encode()),
    "arrays.json": json.dumps({"version": "1.0", "train": RECORDS[:10], "test": RECORDS[10:]}).encode(),
}
FILES = [
    *TEXTS,
    "arrow_stream.arrow",
    "arrow_file.arrow",
    "a.parquet",
    "a.array_record",
    "x.array_record-00000-of-00001",
]


@pytest.mark.parametrize("name", FILES)
def test_all_formats_give_the_same_records(tmp_path: Path, name: str) -> None:
    write(tmp_path / name)
    found = list(records(Unit(tmp_path, name)))
    assert found == list(enumerate(RECORDS, 1))
    in_parts = [item for unit in units(Unit(tmp_path, name), target=10_000) for item in records(unit)]
    assert in_parts == found


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "a.array_record"])
def test_big_files_are_cut_the_same_way_each_time(tmp_path: Path, name: str) -> None:
    write(tmp_path / name)
    size = (tmp_path / name).stat().st_size
    found = units(Unit(tmp_path, name, split="train"), target=size // 4)
    assert 3 <= len(found) <= 5 and found == units(Unit(tmp_path, name, split="train"), target=size // 4)
    assert all(unit.split == "train" for unit in found)
    assert units(Unit(tmp_path, name), target=size) == [Unit(tmp_path, name)]


line = st.binary(max_size=12).map(lambda data: data.replace(b"\n", b""))


@settings(max_examples=150, deadline=None)
@given(st.lists(line, max_size=40), st.integers(1, 60), st.booleans())
def test_a_line_belongs_to_the_part_that_it_starts_in(
    tmp_path_factory, found, target: int, closed: bool
) -> None:
    """Whatever the lines and the size of the parts: their records are those of the whole, under the same numbers."""
    path = tmp_path_factory.mktemp("f") / "a.jsonl"
    text = b"\n".join(b'{"a": 1}' if i % 2 else own for i, own in enumerate(found)) + b"\n" * closed
    path.write_bytes(text)
    whole = list(records(Unit(path)))
    cut = units(Unit(path), target=target)
    assert [item for unit in cut for item in records(unit)] == whole
    if len(text) > target:
        ends = [(unit.start, unit.stop) for unit in cut]
        assert ends[0][0] == 0 and ends[-1][1] == len(text)
        assert all(a[1] == b[0] for a, b in itertools.pairwise(ends))
        # Each part is as short as whole lines allow.
        for start, stop in ends[:-1]:
            assert stop is not None and stop - start >= target and text[:stop].endswith(b"\n")
            assert text.rfind(b"\n", start, stop - 1) + 1 - start < target


def test_numbers_are_those_of_the_file_in_every_part(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n' * 10 + b"\n\nbroken\n" + b'{"a": 2}\n' * 10)
    for target in (1, 20, 50, 1000):
        found = [item for unit in units(Unit(path), target=target) for item in records(unit)]
        assert [item.line for item in found if isinstance(item, Refused)] == [13]
        assert [item[0] for item in found if not isinstance(item, Refused)] == [*range(1, 11), *range(14, 24)]


BAD_LINES = {
    "not_json": b'{"a": 1',
    "not_object": b"[1, 2]",
    "not_utf8": b'{"a": "\xff"}',
    "nul": b'{"a": "x\x00y"}',
    "not_unicode": b'{"a": "\\ud83d"}',
    "line_too_long": b'{"a": "' + b"x" * 3_000_000 + b'"}',
}


@pytest.mark.parametrize("code", BAD_LINES)
def test_a_bad_line_is_refused_and_reading_goes_on(tmp_path: Path, code: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"n": 1}\n' + BAD_LINES[code] + b'\n\n{"n": 4}\n')
    first, bad, last = records(Unit(path), max_line=1_000_000)
    assert (first, last) == ((1, {"n": 1}), (4, {"n": 4}))
    assert isinstance(bad, Refused) and (bad.code, bad.line, bad.file) == (code, 2, "a.jsonl") and bad.reason


def test_nan_as_python_writes_it_is_a_number(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"score": NaN, "b": -Infinity}\n')
    (found,) = records(Unit(tmp_path, "a.jsonl"))
    assert not isinstance(found, Refused)
    record = found[1]
    assert record["score"] != record["score"] and record["b"] == -float("inf")


def test_an_element_that_is_no_object_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"a": 1}, 7, {"a": 2}]')
    found = list(records(Unit(tmp_path, "a.json")))
    assert found[0] == (1, {"a": 1}) and found[2] == (3, {"a": 2})
    assert isinstance(found[1], Refused) and (found[1].code, found[1].line) == ("not_object", 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a": 1}, {"a": }]', "not JSON, or cut short"),
        ('[{"a": 1}] {"b": 2}', "goes on after the end"),
        ('{\n"a": 1\n}', "without an array of records"),
        ("7", "neither a JSON array nor an object"),
        ("", "neither a JSON array nor an object"),
        ('{\n"a" [1]}', "':' is missing"),
    ],
)
def test_json_that_is_no_array_of_records(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=f"a.json.*{message}"):
        list(records(Unit(tmp_path, "a.json")))


def test_a_record_longer_than_what_is_read_at_once(tmp_path: Path) -> None:
    """The window of a JSON array grows with the record."""
    found = [{"a": "é" * 1_500_000}, {"a": "x"}, {"a": "y" * 3_000_000}]
    (tmp_path / "a.json").write_text(json.dumps(found, ensure_ascii=False))
    assert [record for _, record in records(Unit(tmp_path, "a.json"))] == found  # type: ignore[misc]


def test_csv_and_tsv(tmp_path: Path) -> None:
    text = b'prompt,chosen\n"a, b","line one\nline ""two"""\nplain,\n\nshort\nx,\xff\nlast,\xc3\xa9\n'
    (tmp_path / "a.csv").write_bytes(text)
    found = list(records(Unit(tmp_path, "a.csv")))
    assert found[:2] == [
        (2, {"prompt": "a, b", "chosen": 'line one\nline "two"'}),
        (4, {"prompt": "plain", "chosen": ""}),
    ]
    assert [(i.code, i.line) for i in found if isinstance(i, Refused)] == [("columns", 6), ("not_utf8", 7)]
    assert found[-1] == (8, {"prompt": "last", "chosen": "é"})
    (tmp_path / "a.tsv.gz").write_bytes(gzip.compress(b"\xef\xbb\xbfa\tb\n1\t2\n"))
    assert list(records(Unit(tmp_path, "a.tsv.gz"))) == [(2, {"a": "1", "b": "2"})]
    for bad, message in (
        ('a,b\n"1,2\n', "line 2.*cut short"),
        ("", "no header"),
        ("a,a\n1,2\n", "the same name"),
    ):
        (tmp_path / "b.csv").write_text(bad)
        with pytest.raises(DataError, match=f"b.csv.*{message}"):
            list(records(Unit(tmp_path, "b.csv")))


CUT = [
    name
    for name in FILES
    if name.endswith((".gz", ".xz", ".bz2", ".zst", ".arrow", ".parquet", ".array_record"))
]


@pytest.mark.parametrize("name", [*CUT, "array.json"])
@pytest.mark.parametrize("how", ["half", "last bytes", "overwritten"])
def test_a_damaged_file_is_one_error_that_names_it(tmp_path: Path, name: str, how: str) -> None:
    path = tmp_path / name
    write(path)
    data = path.read_bytes()
    if how == "overwritten":
        if name.endswith((".arrow", ".array_record", ".json")):
            pytest.skip("this format carries no checksums of what lies in the middle")
        middle = len(data) // 2
        data = data[:middle] + bytes(byte ^ 0xFF for byte in data[middle : middle + 64]) + data[middle + 64 :]
    path.write_bytes(data[: len(data) // 2] if how == "half" else data[:-3] if how == "last bytes" else data)
    with pytest.raises(DataError, match=name):
        list(records(Unit(tmp_path, name)))


def test_files_that_are_not_what_they_seem(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file"):
        list(records(Unit(tmp_path, "a.jsonl")))
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DataError, match=r"a\.txt: the format is told by the name.*\.jsonl"):
        list(records(Unit(tmp_path, "a.txt")))
    (tmp_path / "a.parquet").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    for reading in (
        lambda: list(records(Unit(tmp_path, "a.parquet"))),
        lambda: units(Unit(tmp_path, "a.parquet")),
    ):
        with pytest.raises(DataError, match=r"Git LFS pointer.*git lfs pull"):
            reading()
    with pytest.raises(DataError, match="is a folder and no TFDS one"):
        list(records(Unit(tmp_path)))


def test_a_part_of_a_file_that_has_changed_since(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n' * 100)
    last = units(Unit(path), target=100)[-1]
    path.write_bytes(b'{"a": 12}\n' * 100)
    with pytest.raises(DataError, match="has changed"):
        list(records(last))


def test_row_groups_are_those_that_were_written(tmp_path: Path) -> None:
    columns = {f"c{i}": [str(i)] * 2500 for i in range(40)}  # long lists in the footer
    pl.DataFrame(columns).write_parquet(tmp_path / "a.parquet", row_group_size=1000)
    assert [rows for rows, _ in tables.row_groups(tmp_path / "a.parquet")] == [1000, 1000, 500]
    pl.DataFrame({"a": []}).write_parquet(tmp_path / "b.parquet")
    assert list(records(Unit(tmp_path, "b.parquet"))) == []


def test_an_empty_file_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"")
    assert list(records(Unit(tmp_path, "a.jsonl"))) == []
    assert list(records(units(Unit(tmp_path, "a.jsonl"), target=1)[0])) == []


def test_a_tfds_folder(tmp_path: Path) -> None:
    tfds = pytest.importorskip("tensorflow_datasets")
    import numpy as np

    features = tfds.features.FeaturesDict(
        {
            "prompt": tfds.features.Text(),
            "responses": tfds.features.Sequence(tfds.features.Text()),
            "scores": tfds.features.Sequence(np.float32),
        }
    )
    made = [{"prompt": f"é {i}", "responses": ["a", "ü"], "scores": [1.0, 0.5]} for i in range(20)]
    serializer = tfds.core.example_serializer.ExampleSerializer(features.get_serialized_info())
    for split in ("train", "test"):
        writer = ArrayRecordWriter(
            str(tmp_path / f"mine-{split}.array_record-00000-of-00001"), "group_size:1"
        )
        for record in made:
            writer.write(serializer.serialize_example(features.encode_example(record)))
        writer.close()
    tfds.folder_dataset.write_metadata(
        data_dir=str(tmp_path),
        features=features,
        check_data=False,  # that would need TensorFlow
        split_infos=[
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[20],
                num_bytes=0,
                filename_template=tfds.core.ShardedFileTemplate(
                    data_dir=str(tmp_path), dataset_name="mine", split=split, filetype_suffix="array_record"
                ),
            )
            for split in ("train", "test")
        ],
    )
    assert formats.is_records(tmp_path)
    cut = units(Unit(tmp_path))
    assert [(unit.part, unit.split) for unit in cut] == [("test", "test"), ("train", "train")]
    assert list(records(cut[0])) == list(enumerate(made, 1))
    with pytest.raises(DataError, match="no split 'dev'"):
        list(records(Unit(tmp_path, part="dev")))


def peak(reading: Iterator[Any]) -> int:
    """The most bytes that Python held while `reading` was read to its end."""
    tracemalloc.start()
    for _ in reading:
        pass
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    made = [json.dumps({"prompt": random.Random(i).randbytes(500).hex()}).encode() for i in range(12_000)]
    found = []
    for count in (4_000, 12_000):
        text = b"\n".join(made[:count])
        (tmp_path / "a.jsonl").write_bytes(text)
        (tmp_path / "a.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(text))
        (tmp_path / "a.json").write_bytes(b"[" + text.replace(b"\n", b",") + b"]")
        found.append([peak(records(Unit(tmp_path, name))) for name in ("a.jsonl", "a.jsonl.zst", "a.json")])
    small, large = found
    assert all(b < 1.2 * a + 100_000 for a, b in zip(small, large, strict=True)), found
    assert max(large) < len(b"".join(made)) / 2


def test_a_line_without_end_is_never_held(tmp_path: Path) -> None:
    with (tmp_path / "a.jsonl").open("wb") as file:
        file.write(b'{"n": 1}\n')
        file.seek(200 << 20)  # a hole: reads as NULs
        file.write(b'\n{"n": 3}\n')
    assert peak(records(Unit(tmp_path, "a.jsonl"), max_line=1 << 20)) < 8 << 20
    first, bad, last = records(Unit(tmp_path, "a.jsonl"), max_line=1 << 20)
    assert (first, last) == ((1, {"n": 1}), (3, {"n": 3}))
    assert isinstance(bad, Refused) and (bad.line, bad.code) == (2, "line_too_long")
