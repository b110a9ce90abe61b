"""Exact duplicates: what stays, whatever the order of parts, buckets and tasks; contradicting labels; the counts."""

import collections
import json
import tempfile
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardscale.config import ConfigError
from rewardscale.config.build import CONFLICTS
from rewardscale.data.build import exact
from rewardscale.data.build.parts import DROP_SCHEMA, Part, kept, parts_of
from rewardscale.data.comparison import Comparison, DataError, Message
from rewardscale.stages import Done, StageError
from tests.data.build import parts_small
from tests.data.build.parts_small import pair

# A few keys, so that most items are copies; each may come with either label, or none, from either source.
items = st.tuples(st.sampled_from("abcd"), st.sampled_from([1, -1, 0]), st.sampled_from(["x", "y"])).map(
    lambda t: (
        pair(t[0], "yes", "no", tie=t[1] == 0, source=t[2])
        if t[1] >= 0
        else pair(t[0], "no", "yes", source=t[2])
    )
)
corpora = st.lists(st.lists(items, max_size=6), max_size=5)


def drops_of(dropped) -> pl.DataFrame:
    frames = [pl.read_parquet(file) for file in dropped.files]
    assert all(frame.schema == DROP_SCHEMA for frame in frames)
    assert all(frame.equals(frame.sort("part", "item")) for frame in frames)
    return pl.concat(frames).sort("part", "item")


def twin(parts, conflicts) -> list[tuple]:
    """The slow, obvious way: (part, item, reason, of part, of item) of all that is dropped."""
    groups = collections.defaultdict(list)
    for number, part in enumerate(parts):
        for place, (comparison, sign) in enumerate(part):
            groups[comparison.prompt, frozenset(comparison.responses)].append((number, place, sign))
    out = []
    for group in groups.values():
        labels = collections.Counter(sign for _, _, sign in group)
        stays = group[0]
        if labels[1] and labels[-1] and conflicts != "first":
            ahead = labels[1] - labels[-1]
            if conflicts == "drop" or ahead == 0:
                out += [(*at[:2], "conflict", *group[0][:2]) for at in group]
                continue
            stays = next(at for at in group if at[2] == (1 if ahead > 0 else -1))
        for at in group:
            if at != stays:
                reason = "conflict" if at[2] * stays[2] == -1 else "duplicate"
                out.append((*at[:2], reason, *stays[:2]))
    return sorted(out)


@settings(deadline=None, max_examples=12)
@given(corpora, st.sampled_from(CONFLICTS), st.integers(1, 5), st.integers(1, 12))
def test_it_drops_what_the_slow_way_drops(parts, conflicts, buckets, at_once):
    with tempfile.TemporaryDirectory() as name:
        made = parts_small.write_parts(Path(name), [parts[:2], parts[2:]])
        dropped = exact.run(
            Path(name) / "work", made, conflicts=conflicts, buckets=buckets, items_at_once=at_once
        )
        drops = drops_of(dropped)
        assert drops.rows() == twin(parts, conflicts)
        masks = kept(made, dropped.files)
    counts = dropped.counts
    assert counts["items"] == sum(map(len, parts)) == sum(map(len, masks))
    assert sum(mask.sum() for mask in masks) == counts["items"] - len(drops)
    assert counts["duplicates"] + counts["conflicts"] == counts["dropped"] == len(drops)
    assert counts["keys"] == len({c.prompt for part in parts for c, _ in part})
    assert sum(row["items"] for row in counts["by_source"]) == len(drops)
    json.dumps(counts)


@settings(deadline=None, max_examples=5)
@given(corpora, st.randoms(use_true_random=False))
def test_which_keys_stay_does_not_depend_on_the_order(parts, random):
    """Neither of parts nor of items; with the policy "first", a key always stays."""
    shuffled = [random.sample(part, len(part)) for part in random.sample(parts, len(parts))]
    for policy in ("drop", "majority"):
        survivors = []
        for order in (parts, shuffled):
            with tempfile.TemporaryDirectory() as name:
                made = parts_small.write_parts(Path(name), [order])
                masks = kept(made, exact.run(Path(name) / "work", made, conflicts=policy).files)
            stay = [
                c
                for part, mask in zip(order, masks, strict=True)
                for (c, _), k in zip(part, mask, strict=True)
                if k
            ]
            assert len({c.id for c in stay}) == len(stay)
            survivors.append({c.id for c in stay})
        assert survivors[0] == survivors[1]


@pytest.fixture
def made(tmp_path):
    parts = [
        [pair("p", "good", "bad", source="a"), pair("q", "good", "bad", source="a")],
        [],
        [pair("p", "good", "bad", source="b"), pair("q", "bad", "good", source="b"), pair("r", "x", "y")],
    ]
    return parts_small.write_parts(tmp_path / "normalise", [parts[:1], parts[1:]])


def test_the_table_says_which_source_repeats_which(made, tmp_path):
    counts = exact.run(tmp_path / "work", made).counts
    assert counts == {
        "items": 5,
        "keys": 3,
        "duplicates": 1,
        "conflicts": 2,
        "conflict_groups": 1,
        "dropped": 3,
        "by_source": [
            {"source": "a", "of": "a", "reason": "conflict", "items": 1},
            {"source": "b", "of": "a", "reason": "conflict", "items": 1},
            {"source": "b", "of": "a", "reason": "duplicate", "items": 1},
        ],
    }


def test_same_bytes_whatever_the_grouping_of_tasks_and_the_order_in_which_parts_are_named(made, tmp_path):
    runs = [
        exact.run(tmp_path / "one", made, buckets=3),
        exact.run(tmp_path / "two", made[::-1], buckets=3, items_at_once=1),
    ]
    one, two = ([file.read_bytes() for file in dropped.files] for dropped in runs)
    assert one == two and len(one) == 3


def test_another_policy_scatters_nothing_again(made, tmp_path):
    done = []
    exact.run(tmp_path, made, buckets=2, progress=done.append)
    assert done == sorted(done) and done[-1] == len(list(tmp_path.glob("exact*/*/task.json"))) == 3
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("exact-scatter/*/task.json")}
    other = exact.run(tmp_path, made, buckets=2, conflicts="first")
    assert other.counts["dropped"] == 2 and other.counts["conflicts"] == 1
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.glob("exact-scatter/*/task.json")}


def test_more_than_two_responses_in_any_order_are_one_key(tmp_path):
    prompt = (Message("user", "p"),)
    one, other = (
        (Comparison(prompt, responses, source="s"), 0) for responses in (("a", "b", "c"), ("c", "a", "b"))
    )
    made = parts_small.write_parts(tmp_path, [[[one, other]]])
    assert drops_of(exact.run(tmp_path / "work", made)).rows() == [(0, 1, "duplicate", 0, 0)]


def test_labels_of_pairs_in_two_orders_are_an_error(tmp_path):
    comparison, sign = pair("p", "good", "bad")
    turned = Comparison(comparison.prompt, comparison.responses[::-1], source="s"), -sign
    made = parts_small.write_parts(tmp_path, [[[(comparison, sign), turned]]])
    with pytest.raises(StageError, match=r"part 0, item 0.*part 0, item 1.*in one order"):
        exact.run(tmp_path / "work", made)


def test_nothing_at_all(tmp_path):
    for parts in ([], parts_small.write_parts(tmp_path, [[[]], []])):
        dropped = exact.run(tmp_path / f"work-{len(parts)}", parts)
        assert dropped.counts["items"] == 0 and drops_of(dropped).is_empty()


def test_bad_input_is_one_clear_error(made, tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'majority'"):
        exact.run(tmp_path / "a", made, conflicts="majorty")
    with pytest.raises(DataError, match="two parts have the number 0"):
        exact.run(tmp_path / "b", [made[0], made[0]])
    path = made[0].folder / "index-00000.parquet"
    whole = path.read_bytes()
    pl.read_parquet(path).head(1).write_parquet(path)
    with pytest.raises(StageError, match=r"index-00000\.parquet has 1 rows where 2 were written; remove"):
        exact.run(tmp_path / "c", made)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StageError, match=r"index-00000\.parquet cannot be read"):
        exact.run(tmp_path / "d", made)
    pl.read_parquet(whole).with_columns(key=pl.lit(b"short")).write_parquet(path)
    with pytest.raises(StageError, match=r"part 0 .*keys of 16 bytes"):
        exact.run(tmp_path / "e", made)
    path.unlink()
    with pytest.raises(StageError, match=r"index-00000\.parquet cannot be read"):
        exact.run(tmp_path / "f", made)


def test_parts_are_numbered_over_all_tasks(tmp_path):
    done = [Done("a", tmp_path / "a", {"parts": [3, 2]}, "h"), Done("b", tmp_path / "b", {"parts": [1]}, "i")]
    assert parts_of(done) == [
        Part(0, tmp_path / "a", 0, 3, "h"),
        Part(1, tmp_path / "a", 1, 2, "h"),
        Part(2, tmp_path / "b", 0, 1, "i"),
    ]


def test_keys_that_begin_alike_are_two(tmp_path):
    made = parts_small.write_parts(
        tmp_path, [[[pair("p", "a", "b"), pair("q", "a", "b"), pair("r", "a", "b")]]]
    )
    path = made[0].folder / "index-00000.parquet"
    keys = pl.Series("key", [bytes(16), bytes(15) + b"1", bytes(16)])
    pl.read_parquet(path).with_columns(keys, id=pl.lit("0" * 32)).write_parquet(path)
    assert drops_of(exact.run(tmp_path / "work", made))["item"].to_list() in ([2], [0, 2])
