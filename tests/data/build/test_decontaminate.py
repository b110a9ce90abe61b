"""Decontamination drops what shares 13 words with an evaluation set, and nothing else."""

import json
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardscale.config import ConfigError
from rewardscale.data import shingles
from rewardscale.data.build import decontaminate, ngram_index
from rewardscale.data.build.decontaminate import EvaluationSet, evaluation_set
from rewardscale.data.build.parts import DROP_SCHEMA, Dropped
from rewardscale.data.comparison import Comparison, DataError, Message
from rewardscale.data.overlap import ngrams, word_list
from rewardscale.stages import StageError
from tests.data.build import parts_small
from tests.data.build.parts_small import pair


def sets_of(directory: Path, **texts: list[str]) -> list[EvaluationSet]:
    """Writes a set for each name."""
    made = []
    for name, lines in texts.items():
        path = directory / f"{name}.jsonl"
        path.write_text(
            "".join(json.dumps({"id": f"{name}-{i}", "text": t}) + "\n" for i, t in enumerate(lines))
        )
        made.append(evaluation_set(name, path))
    return made


def drops_of(dropped) -> pl.DataFrame:
    (file,) = dropped.files
    drops = pl.read_parquet(file)
    assert drops.schema == DROP_SCHEMA and drops.equals(drops.sort("part", "item"))
    return drops


def hits_of(dropped) -> list[dict]:
    return pl.read_parquet(dropped.tables["hits"]).to_dicts()


def words(start: int, count: int) -> str:
    return " ".join(f"w{i}" for i in range(start, start + count))


def share(one: str, other: str, shortest: int = decontaminate.SHORTEST) -> bool:
    """The slow, obvious way."""
    if not set(ngrams(one, 13)).isdisjoint(ngrams(other, 13)):
        return True
    return word_list(one) == word_list(other) and shortest <= len(word_list(other)) < 13


def test_planted_runs_are_caught_and_twelve_words_are_not(tmp_path):
    evaluation = sets_of(tmp_path, bench=[words(0, 40), words(100, 13)])
    items = [
        pair(f"Before, {words(5, 13).upper()}! After.", "good", "bad"),
        pair(words(5, 12), "good", "bad"),
        pair("question", f"so {words(100, 13).replace(' ', ', ')} and so on", "bad"),
        pair(words(0, 6), words(6, 7), "bad"),  # a run of 13 only across two texts
        pair(f"{words(0, 12)} other {words(13, 12)}", "good", "bad"),
    ]
    parts = parts_small.write_parts(tmp_path / "normalise", [[items[:2], []], [items[2:]]])
    dropped = decontaminate.run(tmp_path / "work", parts, evaluation)
    assert drops_of(dropped).rows() == [
        (0, 0, "contaminated:bench", None, None),
        (2, 0, "contaminated:bench", None, None),
    ]
    assert hits_of(dropped) == [
        {
            "part": 0,
            "item": 0,
            "set": "bench",
            "text": 0,
            "text_id": "bench-0",
            "runs": 1,
            "words": words(5, 13),
        },
        {
            "part": 2,
            "item": 0,
            "set": "bench",
            "text": 1,
            "text_id": "bench-1",
            "runs": 1,
            "words": words(100, 13),
        },
    ]
    counts = dropped.counts
    assert counts["items"] == 5 and counts["dropped"] == 2 and counts["refuted"] == 0
    assert counts["by_set"] == [
        {
            **{"set": "bench", "set_items": 2, "texts": 2, "too_short": 0, "runs": 29},
            **{"items": 2, "dropped": 2, "texts_found": 2, "set_items_found": 2},
        }
    ]
    json.dumps(counts)


def test_items_of_a_set_are_counted_once_however_many_of_their_texts_are_met(tmp_path):
    lines = [
        {"id": "a", "prompt": words(0, 20), "responses": [words(100, 15), words(200, 15)]},
        {"id": "b", "prompt": words(300, 20), "responses": ["x", words(0, 20)]},
        {"id": "c", "text": words(400, 30)},
    ]
    path = tmp_path / "bench.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    items = [pair(words(0, 20), words(101, 13), "bad"), pair(words(202, 13), "good", "bad")]
    parts = parts_small.write_parts(tmp_path / "normalise", [[items]])
    (counts,) = decontaminate.run(tmp_path / "work", parts, [evaluation_set("bench", path)]).counts["by_set"]
    assert (counts["set_items"], counts["texts"], counts["too_short"]) == (3, 7, 1)
    assert (counts["set_items_found"], counts["texts_found"], counts["items"]) == (2, 4, 2)


RUN = st.lists(st.sampled_from(["a", "B", "b", "é", "İ", "Σ", "中文", "x1"]), min_size=0, max_size=16).map(
    " ".join
)
TEXT = (
    RUN
    | st.tuples(RUN, st.sampled_from([" ", ", ", "\n", "😀", " new "]), RUN).map("".join)
    | st.text(max_size=9)
)


@settings(deadline=None, max_examples=80)
@given(st.lists(TEXT, max_size=5), st.lists(TEXT, max_size=4), st.integers(1, 13), st.data())
def test_an_index_finds_the_texts_that_share_words_and_no_other(texts, evaluation, shortest, data):
    for reference in evaluation[:2]:  # plant
        whole = word_list(reference)
        at = data.draw(st.integers(0, max(len(whole) - 13, 0)))
        texts = [*texts, f"x {' '.join(whole[at : at + data.draw(st.integers(11, 14))])}", reference.upper()]
    with tempfile.TemporaryDirectory() as name:
        ids = [str(number) for number in range(len(evaluation))]
        counts = ngram_index.write(Path(name), ids, evaluation, words=13, shortest=shortest)
        index = ngram_index.Index([Path(name)], 13)
        spots, _ = index.spots(texts)
        matches, refuted = index.confirmed(texts, spots)
    found = set(zip(spots["text"][matches["spot"]].tolist(), matches["text"].tolist(), strict=True))
    assert found == {
        (a, b)
        for a, text in enumerate(texts)
        for b, other in enumerate(evaluation)
        if share(text, other, shortest)
    }
    assert not refuted
    assert counts["too_short"] == sum(len(word_list(text)) < shortest for text in evaluation)


@settings(deadline=None, max_examples=8)
@given(
    st.lists(st.tuples(TEXT, TEXT, TEXT), max_size=5),
    st.lists(TEXT, max_size=3),
    st.lists(TEXT, max_size=3),
    st.integers(1, 13),
    st.data(),
)
def test_it_drops_what_the_slow_way_drops(texts, one, other, shortest, data):
    if texts and one:  # plant
        whole = word_list(one[0])
        at = data.draw(st.integers(0, max(len(whole) - 13, 0)))
        planted = " ".join(whole[at : at + data.draw(st.integers(11, 14))])
        texts = [(texts[0][0], f"{texts[0][1]} {planted}", texts[0][2]), *texts[1:], ("?", planted, "!")]
    items = [pair(*item) for item in texts if item[1] != item[2]]
    with tempfile.TemporaryDirectory() as name:
        parts = parts_small.write_parts(Path(name), [[items[:2]], [items[2:]]])
        dropped = decontaminate.run(
            Path(name) / "work", parts, sets_of(Path(name), one=one, other=other), shortest=shortest
        )
        drops = drops_of(dropped)
        hits = hits_of(dropped)
    expected, touched = [], []
    for number, (comparison, _) in enumerate(items):
        found = [
            (set_, text)
            for set_, evaluation in (("one", one), ("other", other))
            for text, reference in enumerate(evaluation)
            if any(
                share(t, reference, shortest) for t in [comparison.prompt[0].content, *comparison.responses]
            )
        ]
        place = (0, number) if number < 2 else (1, number - 2)
        if found:
            expected.append((*place, f"contaminated:{found[0][0]}"))
        touched += [(*place, *at) for at in found]
    assert drops.select("part", "item", "reason").rows() == expected
    assert [(h["part"], h["item"], h["set"], h["text"]) for h in hits] == touched


def test_short_texts_count_as_a_whole(tmp_path):
    evaluation = sets_of(tmp_path, bench=[words(0, 8), words(20, 12), words(40, 7)])
    items = [
        pair("q", words(0, 8).title(), "bad"),
        pair("q", words(0, 9), "bad"),  # more than the text
        pair(words(20, 12), "good", "bad"),
        pair(words(40, 7), "good", "bad"),  # too short to say anything
    ]
    parts = parts_small.write_parts(tmp_path / "normalise", [[items]])
    found = {
        shortest: drops_of(decontaminate.run(tmp_path / "work", parts, evaluation, shortest=shortest))
        for shortest in (7, 8, 12, 13)
    }
    assert {k: v["item"].to_list() for k, v in found.items()} == {7: [0, 2, 3], 8: [0, 2], 12: [2], 13: []}
    counts = decontaminate.run(tmp_path / "work", parts, evaluation).counts["by_set"][0]
    assert (counts["too_short"], counts["runs"], counts["texts_found"]) == (1, 2, 2)


def test_a_hash_without_the_words_is_refuted(tmp_path, monkeypatch):
    """All hashes cut to two bits, so that every run collides: the words decide."""
    real = shingles._windows
    monkeypatch.setattr(shingles, "_windows", lambda h, n: real(h, n) & np.uint64(3 << 62))
    evaluation = sets_of(tmp_path, bench=[words(0, 13), words(200, 14)])
    items = [pair(words(0, 13), words(30, 40), "bad"), pair(words(100, 60), words(0, 12), words(1, 12))]
    parts = parts_small.write_parts(tmp_path / "normalise", [[items]])
    dropped = decontaminate.run(tmp_path / "work", parts, evaluation)
    assert drops_of(dropped)["item"].to_list() == [0]
    assert dropped.counts["refuted"] > 20
    assert [hit["words"] for hit in hits_of(dropped)] == [words(0, 13)]


def test_an_item_in_two_sets_is_dropped_for_the_first_and_counted_in_both(tmp_path):
    evaluation = sets_of(tmp_path, b=[words(0, 20)], a=[words(5, 20), words(5, 13)])
    parts = parts_small.write_parts(tmp_path / "normalise", [[[pair(words(5, 14), "good", "bad")]]])
    dropped = decontaminate.run(tmp_path / "work", parts, evaluation)
    assert drops_of(dropped)["reason"].to_list() == ["contaminated:b"]
    assert [(s["set"], s["items"], s["dropped"], s["texts_found"]) for s in dropped.counts["by_set"]] == [
        ("b", 1, 1, 1),
        ("a", 1, 0, 2),
    ]
    assert [(h["set"], h["text"], h["runs"]) for h in hits_of(dropped)] == [
        ("b", 0, 2),
        ("a", 0, 2),
        ("a", 1, 1),
    ]


def test_a_phrase_that_many_items_share_may_be_let_pass(tmp_path):
    evaluation = sets_of(tmp_path, bench=[words(0, 13), words(50, 13)])
    items = [pair(f"{i} {words(0, 13)}", "good", "bad") for i in range(4)] + [
        pair(words(50, 13), "good", "bad")
    ]
    parts = parts_small.write_parts(tmp_path / "normalise", [[items]])
    dropped = decontaminate.run(tmp_path / "work", parts, evaluation, common=3)
    assert drops_of(dropped)["item"].to_list() == [4] and dropped.counts["common_runs"] == 1
    assert decontaminate.run(tmp_path / "work", parts, evaluation, common=4).counts["dropped"] == 5


def test_neither_grouping_nor_the_order_of_naming_changes_what_is_written(tmp_path):
    evaluation = sets_of(tmp_path, bench=[words(0, 100)])
    items = [pair(words(3 * i, 20), f"good {i}", "bad") for i in range(40)]
    parts = parts_small.write_parts(tmp_path / "normalise", [[items[:9], items[9:20]], [items[20:]]])
    outputs = []
    for number, (given_parts, at_once) in enumerate([(parts, 1), (parts[::-1], 1000)]):
        made = decontaminate.run(tmp_path / f"work-{number}", given_parts, evaluation, items_at_once=at_once)
        outputs.append((made.files[0].read_bytes(), made.tables["hits"].read_bytes(), made.counts))
    assert outputs[0] == outputs[1] and outputs[0][2]["dropped"] == 30


def test_what_is_gone_is_not_looked_at(tmp_path):
    evaluation = sets_of(tmp_path, bench=[words(0, 13)])
    parts = parts_small.write_parts(
        tmp_path / "normalise", [[[pair(words(0, 13), str(i), "x") for i in range(3)]]]
    )
    gone = pl.DataFrame([(0, 1, "duplicate", 0, 0)], schema=DROP_SCHEMA, orient="row")
    gone.write_parquet(tmp_path / "drop.parquet")
    before = Dropped((tmp_path / "drop.parquet",), ("hash",), {})
    dropped = decontaminate.run(tmp_path / "work", parts, evaluation, dropped=[before])
    assert drops_of(dropped)["item"].to_list() == [0, 2] and dropped.counts["items"] == 2


def test_a_set_from_comparisons_catches_each_of_their_texts(tmp_path):
    prompt = (
        Message("user", words(0, 13)),
        Message("assistant", words(20, 13)),
        Message("user", words(40, 13)),
    )
    comparison = Comparison(prompt, (words(60, 13), words(80, 13), words(100, 13)), source="bench")
    folder = tmp_path / "bench"
    assert decontaminate.write_texts(folder / "a.jsonl", [comparison]) == 1
    items = [pair(words(20 * i, 13), "good", "bad") for i in range(6)]
    parts = parts_small.write_parts(tmp_path / "normalise", [[items]])
    dropped = decontaminate.run(tmp_path / "work", parts, [evaluation_set("bench", folder)])
    assert drops_of(dropped)["item"].to_list() == list(range(6))
    assert hits_of(dropped)[3]["text_id"] == f"{comparison.id}/3"


def test_comparisons_in_the_usual_forms_are_evaluation_texts(tmp_path):
    path = tmp_path / "bench.jsonl"
    records = [
        {"id": 7, "prompt": words(0, 13), "chosen": words(20, 13), "rejected": words(40, 13)},
        {"prompt": [{"role": "user", "content": words(60, 13)}], "responses": [words(80, 13)]},
        {"text": words(100, 13), "prompt": "not looked at"},
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    items = [pair(words(20 * i, 13), "good", "bad") for i in range(6)]
    parts = parts_small.write_parts(tmp_path / "normalise", [[items]])
    dropped = decontaminate.run(tmp_path / "work", parts, [evaluation_set("bench", path)])
    ids = [hit["text_id"] for hit in hits_of(dropped)]
    assert ids == ["7/0", "7/1", "7/2", "bench.jsonl:2/0", "bench.jsonl:2/1", "bench.jsonl:3"]


def test_runs_of_another_length(tmp_path):
    evaluation = sets_of(tmp_path, bench=[words(0, 20), words(50, 4)])
    items = [pair(words(i, k), "good", "bad") for i, k in ((3, 5), (3, 4), (50, 4), (0, 0))]
    parts = parts_small.write_parts(tmp_path / "normalise", [[items]])
    found = decontaminate.run(tmp_path / "work", parts, evaluation, words=5, shortest=4)
    assert drops_of(found)["item"].to_list() == [0, 2]
    assert (
        decontaminate.run(tmp_path / "work", parts, evaluation, words=5).counts["by_set"][0]["too_short"] == 1
    )


def test_nothing_at_all(tmp_path):
    (empty,) = sets_of(tmp_path, empty=["", "?"])
    parts = parts_small.write_parts(tmp_path / "normalise", [[[]]])
    for number, (given_parts, sets) in enumerate([([], []), (parts, []), (parts, [empty]), ([], [empty])]):
        dropped = decontaminate.run(tmp_path / f"{number}", given_parts, sets)
        assert drops_of(dropped).is_empty() and hits_of(dropped) == [] and dropped.counts["dropped"] == 0


def test_bad_input_is_one_clear_error(tmp_path):
    (good,) = sets_of(tmp_path, good=["text"])
    with pytest.raises(ConfigError, match="each needs a name of its own"):
        decontaminate.run(tmp_path / "a", [], [good, good])
    with pytest.raises(ConfigError, match="each needs a name"):
        decontaminate.run(tmp_path / "b", [], [EvaluationSet("../x", good.files)])
    with pytest.raises(DataError, match=r"'bad': .*no \.jsonl file and no folder"):
        evaluation_set("bad", tmp_path / "absent")
    for number, line in enumerate(['{"id": 1', '{"id": 1}', '{"text": 3}', "[]"]):
        path = tmp_path / f"bad-{number}.jsonl"
        path.write_text('{"text": "fine"}\n\n' + line + "\n")
        with pytest.raises(StageError, match=rf"bad-{number}\.jsonl, line 3: neither"):
            decontaminate.run(tmp_path / f"c{number}", [], [evaluation_set("bad", path)])


def test_the_filter_passes_all_that_is_there_and_lookups_are_exact():
    random = np.random.default_rng(0)
    hashes = random.integers(0, 2**64, 50_000, dtype=np.uint64)
    with tempfile.TemporaryDirectory() as name:
        np.save(Path(name) / "hashes.npy", np.sort(hashes[:20_000]))
        np.save(Path(name) / "places.npy", np.zeros(20_000, ngram_index._PLACE))
        found = ngram_index.Index([Path(name)], 13).holds(hashes)
    assert found[:20_000].all() and not found[20_000:].any()
