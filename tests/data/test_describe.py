"""The page of a corpus: every number counted again by hand, every text escaped, the same bytes each time."""

import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardscale.config.build import SplitConfig
from rewardscale.data import describe
from rewardscale.data.build.run import Built
from rewardscale.data.comparison import Comparison, DataError, Message
from rewardscale.data.describe import html, pairs
from rewardscale.data.describe.frames import examples_of_refusals, quantiles, wilson
from rewardscale.data.sources.judged import Judged, Judgement, Refused
from rewardscale.data.templates import word_tokenizer
from rewardscale.data.tokenised import build_view
from tests.data.build import built_small
from tests.data.build.built_small import judged

EVIL = "<script>alert(1)</script> \u202e $x$ & \"'"
ABOUT = {
    "plain": {"title": "Plain pairs", "licence": "CC-BY-4.0", "url": "https://example.org/plain"},
    "evil": {"title": EVIL, "licence": EVIL, "url": "javascript:alert(1)"},
}


def plain(number: int, *, source: str = "plain", longer: bool = True) -> Judged:
    """A pair of which the longer response is chosen, or not."""
    short, long = f"no {number}", f"yes {number} " + "indeed " * (1 + number % 7)
    chosen, rejected = (long, short) if longer else (short, long)
    return judged(f"question {number}", chosen, rejected, source=source, category=f"c{number % 3}")


def sources() -> dict[str, list[Judged | Refused]]:
    evil = [
        judged(EVIL + str(i), EVIL + "one", EVIL + "two", source="evil", category=EVIL, margin=1.5 + i)
        for i in range(5)
    ]
    ties = [judged(f"tie {i}", "this", "that", source="evil", tie=True) for i in range(3)]
    contradicting = judged(
        "question 1", "no 1", "yes 1 indeed indeed ", source="other", kind="llm_judge", cost=0.25
    )
    return {
        "plain": [plain(i, longer=i % 4 > 0) for i in range(40)] + [Refused("p.jsonl", 7, "not_json", EVIL)],
        "evil": [*evil, *ties, *(Refused(EVIL, i, "no_response", "there is none") for i in range(5))],
        "other": [*(plain(i, source="other", longer=i % 4 > 0) for i in range(4, 10)), contradicting],
    }


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    directory = tmp_path_factory.mktemp("corpus") / "built"
    return built_small.build(directory, sources(), about=ABOUT, split=SplitConfig(0.2, 0.1), keep_work=True)


@pytest.fixture(scope="module")
def page(built: Built) -> str:
    return describe.describe(built.directory, sample=12).read_text(encoding="utf-8")


class Reader(HTMLParser):
    """Tags with their attributes, and what is text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "use", "path"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)


def test_texts_of_the_corpus_stay_texts(page: str) -> None:
    reader = Reader(page)
    assert reader.open == []  # every tag is closed in its place
    tags = {tag for tag, _ in reader.tags}
    assert not tags & {"script", "img", "iframe", "object", "embed", "link", "base", "form"}
    assert not any(name.startswith("on") for _, attrs in reader.tags for name in attrs)
    assert [attrs["href"] for tag, attrs in reader.tags if tag == "a"] == ["https://example.org/plain"]
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u0000-\u0008]", page)
    assert "<script>alert(1)</script>" in "".join(reader.words)
    assert "U+202E" in page


def test_the_page_loads_nothing(page: str) -> None:
    assert all(address.startswith("#") for address in re.findall(r"(?:src|xlink:href)=[\"']([^\"']*)", page))
    assert set(re.findall(r"url\((.)", page)) <= {"#"}
    assert "@import" not in page and "default-src 'none'" in page


def test_the_same_bytes(page: str, tmp_path: Path) -> None:
    again = built_small.build(
        tmp_path / "built", sources(), about=ABOUT, split=SplitConfig(0.2, 0.1), keep_work=True
    )
    assert describe.describe(again.directory, sample=12).read_text(encoding="utf-8") == page


def test_every_count_of_the_sources_adds_up(built: Built) -> None:
    frame = describe.frame_sources(built)
    by_name = {row["name"]: row for row in frame.iter_rows(named=True)}
    assert by_name["plain"]["comparisons"] == 40 and by_name["plain"]["refused"] == 1
    assert by_name["plain"]["conflict"] == 1 and by_name["plain"]["kept"] == 39
    assert (
        by_name["other"]["duplicate"] == 6
        and by_name["other"]["conflict"] == 1
        and by_name["other"]["kept"] == 0
    )
    assert frame["kept"].sum() == len(built.corpus) == describe.frame_splits(built)["pairs"].sum()
    refusals = describe.frame_refusals(built).rows()
    assert refusals == [("evil", "no_response", 5), ("plain", "not_json", 1)]
    assert [r["code"] for r in examples_of_refusals(built, 2)] == ["no_response", "no_response", "not_json"]


def test_tables_agree_with_the_comparisons(built: Built) -> None:
    manifest = built.corpus.manifest()
    kept = list(built.corpus)
    longer, pairs_, by_part = 0, 0, {"prompt": [], "chosen": [], "rejected": []}
    for comparison, sign in zip(kept, manifest["preferred"], strict=True):
        by_part["prompt"].append(len(comparison.prompt[0].content))
        if sign:
            chosen, rejected = comparison.responses[:: 1 if sign > 0 else -1]
            by_part["chosen"].append(len(chosen))
            by_part["rejected"].append(len(rejected))
            pairs_ += len(chosen) != len(rejected)
            longer += len(chosen) > len(rejected)
    bias = describe.frame_length_bias(built)
    assert bias.row(0)[:3] == (None, pairs_, longer)
    assert bias["pairs"].to_list()[0] == sum(bias["pairs"].to_list()[1:])
    assert describe.frame_length_curve(built)["pairs"].sum() == pairs_
    lengths = describe.frame_lengths(built)
    for part, values in by_part.items():
        own = lengths.filter(pl.col("part") == part)
        assert np.repeat(own["length"], own["pairs"]).tolist() == sorted(values)
        assert quantiles(lengths, part, (1.0,)) == [max(values)]
    categories = dict(describe.frame_categories(built).select("category", "pairs").iter_rows())
    assert categories == dict(manifest["category"].value_counts().iter_rows())
    assert describe.distinct_prompts(built) == (manifest["prompt_hash"].n_unique(), True)
    margins = describe.frame_margins(built)
    assert dict(margins.filter(pl.col("source") == "evil").select("margin", "pairs").iter_rows()) == {
        0.0: 3, 1.5: 1, 2.5: 1, 3.5: 1, 4.5: 1, 5.5: 1,
    }  # fmt: skip
    verdicts = describe.frame_verdicts(built)
    assert dict(verdicts.select("annotator", "ties").iter_rows()) == {"plain people": 0, "evil people": 3}


def test_prompts_of_a_large_corpus_are_estimated(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rewardscale.data.describe.frames.EXACT_PROMPTS", 4)
    count, exact = describe.distinct_prompts(built)
    zeros = (
        built.corpus.manifest().filter(pl.col("prompt_hash").str.starts_with("0"))["prompt_hash"].n_unique()
    )
    assert not exact and count == 16 * zeros


def test_copies_and_clusters(built: Built, page: str) -> None:
    copies = describe.frame_copies(built).select("reason", "source", "of", "pairs").rows()
    assert ("duplicate", "other", "plain", 6) in copies
    assert ("conflict", "other", "plain", 1) in copies
    clusters = describe.frame_clusters(built)
    assert clusters is not None and clusters.rows() == [("exact", 2, 7)]
    assert "contradicting labels: first response 1, second 1, neither 0" in page


def test_near_duplicates_and_contamination(tmp_path: Path) -> None:
    words = [f"word{i}" for i in range(40)]
    test = " ".join(words[10:30])
    (tmp_path / "bench.jsonl").write_text(json.dumps({"id": "b-7", "text": test}) + "\n")
    near = " ".join(f"other{i}" for i in range(60))
    found = {
        "one": [judged("near", near + " yes", near + " no", source="one"), plain(1, source="one")],
        "two": [
            judged("near", near + " yes", near + " not", source="two"),
            judged("taken", " ".join(words), "no", source="two"),
        ],
    }
    sets = {"bench": tmp_path / "bench.jsonl", "clean": tmp_path / "clean.jsonl"}
    sets["clean"].write_text(json.dumps({"id": 1, "text": " ".join(f"unseen{i}" for i in range(20))}) + "\n")
    built = built_small.build(
        tmp_path / "built", found, near_threshold=0.7, evaluation_sets=sets, keep_work=True
    )
    assert len(built.corpus) == 2
    assert describe.frame_contamination(built).rows() == [("bench", "two", 1)]
    clusters = describe.frame_clusters(built)
    assert clusters is not None and clusters.rows() == [("near", 2, 1)]
    text = describe.describe(built.directory).read_text(encoding="utf-8")
    assert "b-7" in text and "word10 word11 word12" in text
    assert "near-duplicate: one 1 ×, two 1 ×" in text
    assert "<td>bench</td>" + "".join(f"<td class=n>{c}</td>" for c in (1, 1, 1, "100.0 %")) in text
    assert "<td>clean</td>" + "".join(f"<td class=n>{c}</td>" for c in (0, 0, 1, "0.0 %")) in text
    assert "1 more was nearly the same" in text


def test_a_build_without_its_work_says_so(tmp_path: Path) -> None:
    found = {
        "one": [judged("p", "same length", "also length", source="one"), plain(1, source="one", longer=True)]
    }
    built = built_small.build(tmp_path / "built", found)
    assert describe.frame_clusters(built) is None
    text = describe.describe(built.directory).read_text(encoding="utf-8")
    assert "did not keep" in text and "Every record could be used." in text


def test_a_corpus_of_ties_and_of_many_responses(tmp_path: Path) -> None:
    many = Comparison((Message("user", "rank these"),), ("a", "b", "c"), source="ranks", split="")
    found = {
        "ties": [judged("p", "left", "right", source="ties", tie=True)],
        "ranks": [Judged(many, (Judgement("people", "person", (2.0, 1.0, 0.0)),))],
    }
    built = built_small.build(tmp_path / "built", found)
    text = describe.describe(built.directory).read_text(encoding="utf-8")
    assert "response 3" in text and "no label" in text
    assert describe.frame_length_bias(built).is_empty()
    assert set(describe.figures(built)) == {"flow", "lengths"}


def test_token_lengths_of_a_view(built: Built) -> None:
    words = {
        w
        for c in built.corpus
        for m in (*c.prompt, *(Message("", r) for r in c.responses))
        for w in m.content.split()
    }
    view = build_view(built.corpus, word_tokenizer(sorted(words)), "words")
    frame = describe.frame_token_lengths(built, view)
    sign = built.corpus.manifest()["preferred"].to_numpy()
    chosen = np.where(sign > 0, view.lengths[:, 1], view.lengths[:, 2])[sign != 0]
    own = frame.filter(pl.col("part") == "chosen")
    assert np.repeat(own["length"], own["pairs"]).tolist() == sorted(chosen.tolist())
    assert frame.filter(pl.col("part") == "prompt")["pairs"].sum() == len(built.corpus)
    assert "token_lengths" in describe.figures(built)  # the view under the corpus is found
    with pytest.raises(DataError, match="another corpus's"):
        describe.frame_token_lengths(built, dataclasses.replace(view, lengths=view.lengths[1:]))


def test_what_is_no_build_is_refused(built: Built, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"not a finished build: build\.json is missing"):
        describe.describe(tmp_path)
    with pytest.raises(DataError, match="not a finished build"):
        describe.describe(built.directory / "corpus")


@given(st.integers(1, 60), st.integers(0, 3))
@settings(max_examples=15, deadline=None)
def test_samples_are_spread_over_sources(built: Built, most: int, seed: int) -> None:
    rows = pairs.sample_rows(built.corpus, most, seed=seed)
    assert len(set(rows)) == len(rows) == min(most, len(built.corpus))
    manifest = built.corpus.manifest()
    counts = manifest[rows]["source"].value_counts()["count"]
    sizes = manifest["source"].value_counts()["count"]
    if len(counts) == len(sizes) and most <= 2 * sizes.min():  # pyright: ignore[reportOperatorIssue]
        assert counts.max() - counts.min() <= 1  # pyright: ignore[reportOperatorIssue]
    found = pairs.read_rows(built.corpus, rows)
    assert [c.id for c in found] == manifest[rows]["id"].to_list()
    assert rows == pairs.sample_rows(built.corpus, most, seed=seed)


def test_another_seed_draws_another_sample(built: Built) -> None:
    assert pairs.sample_rows(built.corpus, 12, seed=0) != pairs.sample_rows(built.corpus, 12, seed=1)


TEXT = st.text(st.sampled_from("ab c\n é\u202e<&"), max_size=40) | st.text(max_size=40)


@given(TEXT, TEXT)
@settings(max_examples=40, deadline=None)
def test_differences_put_together_are_the_texts(one: str, other: str) -> None:
    for pieces, text in zip(pairs.difference(one, other), (one, other), strict=True):
        assert "".join(piece for piece, _ in pieces) == text
        for size in (0, 3, 100):
            head, rest = pairs.cut(pieces, size)
            assert "".join(p for p, _ in head + rest) == text and sum(len(p) for p, _ in head) == min(
                size, len(text)
            )
    assert not any(marked for piece in pairs.difference(one, one) for _, marked in piece)


def test_the_difference_is_marked_word_by_word() -> None:
    one, other = pairs.difference("the cat sat on the mat", "the dog sat on the mat today")
    assert [piece for piece, marked in one if marked] == ["cat"]
    assert [piece for piece, marked in other if marked] == ["dog", "today"]
    apart = pairs.difference("alpha beta gamma delta", "one two three four five")
    assert not any(marked for pieces in apart for _, marked in pieces)
    long = "same " * 3000
    assert pairs.difference(long + "x", long + "y")[0][-1][1] is False  # too far on to be compared


@given(TEXT)
def test_html_shows_every_character_and_no_markup(text: str) -> None:
    reader = Reader(html.text(text))
    assert {tag for tag, _ in reader.tags} <= {"span"}
    shown = re.sub(r"<span class=code>U\+([0-9A-F]+)</span>", lambda m: chr(int(m[1], 16)), html.text(text))
    shown = shown.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"').replace("&#x27;", "'")
    assert shown.replace("&amp;", "&") == text


def test_wilson_interval() -> None:
    """Newcombe (1998), table I: 81 of 263 and 15 of 148."""
    low, high = wilson(np.array([81.0, 15.0, 0.0]), np.array([263.0, 148.0, 20.0]))
    assert low.round(4).tolist() == [0.2553, 0.0624, 0.0]
    assert high.round(4).tolist() == [0.3662, 0.1605, 0.1611]
