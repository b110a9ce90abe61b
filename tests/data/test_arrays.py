"""Large arrays: done piece by piece is as done at once; folders are whole, or an error says what is not."""

import hashlib
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardscale import atomic
from rewardscale.data import arrays
from rewardscale.data.comparison import DataError

EDGE = arrays.PIECE  # the last entry of a piece is EDGE - 1


@given(st.integers(0, 50), st.integers(1, 20))
def test_pieces_cover_everything_once(count, size):
    found = [i for piece in arrays.pieces(count, size) for i in range(count)[piece]]
    assert found == list(range(count))
    assert all(piece.stop - piece.start <= size for piece in arrays.pieces(count, size))


def test_hashes_are_those_of_the_whole():
    values = np.random.default_rng(0).integers(0, 99, EDGE + 7).astype(np.uint16)
    for dtype in (None, np.int64):
        digest = hashlib.blake2b(digest_size=16)
        arrays.update(digest, values, dtype)
        whole = values if dtype is None else values.astype(dtype)
        assert digest.digest() == hashlib.blake2b(whole.tobytes(), digest_size=16).digest()


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([1, 2, EDGE - 1, EDGE, EDGE + 1, EDGE + 5]), st.sampled_from([0, -1]))
def test_a_place_that_does_not_increase_is_found_wherever_it_is(at, step):
    values = np.arange(EDGE + 9, dtype=np.uint32) + 5
    assert arrays.increasing(values) and arrays.every(values, lambda v: v >= 5)
    values[at] = int(values[at - 1]) + step
    assert not arrays.increasing(values)
    values[at] = 4
    assert not arrays.every(values, lambda v: v >= 5)


def test_few_entries_increase():
    assert all(arrays.increasing(np.array(values, np.uint32)) for values in ([], [3], [3, 4]))
    assert not arrays.increasing(np.array([4, 4], np.uint32))


def test_small_files_are_read_and_large_ones_mapped(tmp_path):
    for name, count in (("small", 10), ("large", arrays.MAPPED_FROM_BYTES // 8 + 1)):
        np.save(tmp_path / f"{name}.npy", np.arange(count))
        values = arrays.load(tmp_path / f"{name}.npy")
        np.testing.assert_array_equal(values, np.arange(count))
        assert type(values) is np.ndarray and values.flags.writeable == (name == "small")


def folder(tmp_path):
    def fill(new):
        made = arrays.create(new / "made.npy", np.uint16, 5)
        made[:] = [1, 2, 3, 4, 5]
        return {"about": "test"}, {
            "made": made,
            "saved": np.array([[1, 2], [3, 4]], np.int8),
            "same": arrays.constant(0.5, 1000, np.float32),
        }

    arrays.write_folder(tmp_path / "f", "f.json", fill)
    return tmp_path / "f"


def test_a_folder_gives_back_what_it_was_filled_with(tmp_path):
    found = arrays.open_folder(folder(tmp_path), "f.json")
    assert found.record["about"] == "test"
    assert {name: (a.dtype, a.tolist()) for name, a in found.arrays.items()} == {
        "made": (np.uint16, [1, 2, 3, 4, 5]),
        "saved": (np.int8, [[1, 2], [3, 4]]),
        "same": (np.float32, [0.5] * 1000),
    }
    assert sorted(path.name for path in (tmp_path / "f").iterdir()) == ["f.json", "made.npy", "saved.npy"]


def test_an_error_while_filling_leaves_nothing(tmp_path):
    def fill(new):
        arrays.create(new / "made.npy", np.uint16, 5)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        arrays.write_folder(tmp_path / "f", "f.json", fill)
    assert not list(tmp_path.iterdir())


def edit(path, change):
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def other_values(f):
    np.save(f / "made.npy", np.array([1, 2, 3, 4, 6], np.uint16))


def cut(f):
    path = f / "made.npy"
    path.write_bytes(path.read_bytes()[:-1])


def other_type(f):
    np.save(f / "made.npy", np.arange(5))
    about = {"bytes": (f / "made.npy").stat().st_size, "sha256": atomic.sha256(f / "made.npy")}
    edit(f / "f.json", lambda r: r["arrays"]["made"].update(about))


DAMAGE = {
    "no record": (lambda f: (f / "f.json").unlink(), r"f\.json is missing"),
    "record cut": (lambda f: (f / "f.json").write_text("{"), r"f\.json cannot be read"),
    "record: a list": (lambda f: (f / "f.json").write_text("[]"), r"f\.json cannot be read"),
    "record: no arrays": (lambda f: edit(f / "f.json", lambda r: r.pop("arrays")), r"f\.json cannot be read"),
    "no file": (lambda f: (f / "made.npy").unlink(), r"made\.npy is missing"),
    "file cut": (cut, r"made\.npy was changed"),
    "file edited": (other_values, r"made\.npy was changed"),
    "another type": (other_type, r"made\.npy does not hold 5"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_one_error_that_names_the_file_and_the_mend(tmp_path, case):
    damage, message = DAMAGE[case]
    damage(folder(tmp_path))
    with pytest.raises(DataError, match=message) as error:
        arrays.open_folder(tmp_path / "f", "f.json")
    assert f"delete {tmp_path / 'f'}" in str(error.value) and "\n" not in str(error.value)


def test_contents_are_checked_when_asked(tmp_path):
    other_values(folder(tmp_path))
    assert arrays.open_folder(tmp_path / "f", "f.json", deep=False).arrays["made"][4] == 6
    with pytest.raises(DataError, match="was changed"):
        arrays.open_folder(tmp_path / "f", "f.json", deep=True)
