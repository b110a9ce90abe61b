"""Levels say what is wrong with them, and never change on disk."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardscale.data.comparison import DataError
from rewardscale.data.levels import Level, level_names, read_level, write_level


def level(**changes) -> Level:
    values = {
        "name": "raw",
        "rows": np.array([1, 4, 6], np.uint32),
        "orientation": np.array([1, -1, 1], np.int8),
        "weight": np.array([1, 0.5, 2], np.float32),
        "target": np.array([1, 0.5, 0.75], np.float32),
        "cost": np.arange(8, dtype=np.float32),
        "about": {"rule": "test"},
    } | changes
    return Level(**values)


WRONG = {
    "rows int64": ({"rows": np.array([1, 4, 6])}, "uint32"),
    "orientation int64": ({"orientation": np.array([1, -1, 1])}, "int8"),
    "orientation 0": ({"orientation": np.array([1, 0, 1], np.int8)}, r"\+1 or -1"),
    "orientation short": ({"orientation": np.array([1, -1], np.int8)}, "3 values"),
    "rows twice": ({"rows": np.array([1, 4, 4], np.uint32)}, "strictly increasing"),
    "rows unsorted": ({"rows": np.array([4, 1, 6], np.uint32)}, "strictly increasing"),
    "weight short": ({"weight": np.ones(2, np.float32)}, "weight must hold 3"),
    "weight NaN": ({"weight": np.array([1, np.nan, 1], np.float32)}, "weight must hold 3 finite"),
    "weight negative": ({"weight": np.array([1, -1, 1], np.float32)}, "weight must not be negative"),
    "target 2": ({"target": np.array([1, 2, 1], np.float32)}, "target must hold probabilities"),
    "cost short": ({"cost": np.ones(6, np.float32)}, "row 6 has none"),
    "cost infinite": ({"cost": np.full(8, np.inf, np.float32)}, "cost must be finite"),
    "no name": ({"name": ""}, "folder's name"),
    "a path": ({"name": "../raw"}, "folder's name"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_level_says_what_is_wrong_with_it(case):
    changes, message = WRONG[case]
    with pytest.raises(DataError, match=message) as error:
        level(**changes)
    assert repr(changes.get("name", "raw")) in str(error.value)


def test_a_level_is_read_as_it_was_written(tmp_path):
    for made in (level(), level(name="bare", weight=None, target=None, cost=None, about={})):
        path = write_level(tmp_path / "levels", made)
        again = read_level(path)
        assert again.fingerprint == made.fingerprint
        for field in dataclasses.fields(Level):
            np.testing.assert_array_equal(getattr(again, field.name), getattr(made, field.name))
    assert level_names(tmp_path / "levels") == ["bare", "raw"]


def test_a_written_level_is_immutable(tmp_path):
    path = write_level(tmp_path, level())
    files = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in path.iterdir()}
    assert write_level(tmp_path, level()) == path
    with pytest.raises(DataError, match="raw holds another level"):
        write_level(tmp_path, level(orientation=np.array([1, 1, 1], np.int8)))
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in path.iterdir()} == files
    assert [p.name for p in tmp_path.iterdir()] == ["raw"]


def test_what_a_killed_writer_left_is_no_level(tmp_path):
    write_level(tmp_path, level()).rename(tmp_path / ".raw.abc.tmp")
    write_level(tmp_path, level(name="gold"))
    assert level_names(tmp_path) == ["gold"]


def test_damaged_level_folders_are_named(tmp_path):
    with pytest.raises(DataError, match=r"missing.*level\.json"):
        read_level(tmp_path / "nowhere")
    path = write_level(tmp_path, level())
    rows = (path / "rows.npy").read_bytes()
    for damage in (rows[:-4], rows[:20], b"", b"junk" + rows):
        (path / "rows.npy").write_bytes(damage)
        with pytest.raises(DataError, match=r"raw cannot be read.*build it again"):
            read_level(path)
    (path / "rows.npy").write_bytes(rows)
    np.save(path / "orientation.npy", np.array([1, 1, 1], np.int8))
    with pytest.raises(DataError, match="raw does not match its fingerprint"):
        read_level(path)
    (path / "orientation.npy").unlink()
    with pytest.raises(DataError, match=r"missing.*orientation\.npy"):
        read_level(path)
    record = json.loads((path / "level.json").read_text())
    for text in ("{", "[]", json.dumps({k: v for k, v in record.items() if k != "arrays"})):
        (path / "level.json").write_text(text)
        with pytest.raises(DataError, match="raw cannot be read"):
            read_level(path)


@st.composite
def levels(draw) -> Level:
    rows = sorted(draw(st.sets(st.integers(0, 40), min_size=1, max_size=8)))
    n = len(rows)
    share = st.floats(0, 1, width=32)
    optional = st.none() | st.lists(share, min_size=n, max_size=n).map(lambda x: np.array(x, np.float32))
    return Level(
        name=draw(st.sampled_from(["raw", "gold"])),
        rows=np.array(rows, np.uint32),
        orientation=np.array(draw(st.lists(st.sampled_from([-1, 1]), min_size=n, max_size=n)), np.int8),
        weight=draw(optional),
        target=draw(optional),
        cost=draw(
            st.none() | st.lists(share, min_size=41, max_size=41).map(lambda x: np.array(x, np.float32))
        ),
        cost_unit=draw(st.sampled_from(["raw pairs", "votes"])),
        about=draw(st.dictionaries(st.sampled_from("ab"), st.integers(0, 1))),
    )


def same(one: Level, two: Level) -> bool:
    def value(level: Level, name: str):
        got = getattr(level, name)
        return (got.dtype.str, got.tobytes()) if isinstance(got, np.ndarray) else got

    return all(value(one, f.name) == value(two, f.name) for f in dataclasses.fields(Level))


@settings(max_examples=60, deadline=None)
@given(levels(), levels(), st.data())
def test_the_fingerprint_follows_every_array_and_nothing_else(one, other, data):
    assert (one.fingerprint == other.fingerprint) == same(one, other)
    assert one.fingerprint == dataclasses.replace(one).fingerprint
    # One element of one array, or one field, is enough.
    name = data.draw(
        st.sampled_from(["rows", "orientation", "weight", "target", "cost", "name", "cost_unit", "about"])
    )
    value = getattr(one, name)
    if isinstance(value, np.ndarray):
        value = value.copy()
        at = len(value) - 1 if name == "rows" else data.draw(st.integers(0, len(value) - 1))
        if name == "rows":
            value[at] += 1
        elif name == "orientation":
            value[at] *= -1
        else:
            value[at] = 1 - value[at] / 2
        if name == "rows" and one.cost is not None and value[at] >= len(one.cost):
            return
    else:
        value = {"about": {"c": 2}, "name": "other", "cost_unit": "USD"}.get(name)
        if value is None:
            value = np.zeros(41 if name == "cost" else len(one.rows), np.float32)
    changed = dataclasses.replace(one, **{name: value})
    assert same(changed, one) == (changed.fingerprint == one.fingerprint)
    assert same(changed, one) == (
        name in ("weight", "target", "cost") and np.array_equal(value, getattr(one, name))
    )
