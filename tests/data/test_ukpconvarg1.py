"""UKPConvArg1: both layouts give the same votes, damage is named, the real set has its known counts."""

import gzip
import json
import os
from pathlib import Path
from xml.sax.saxutils import escape

import polars as pl
import pytest

from rewardscale.data.comparison import DataError
from rewardscale.data.corpus import write_corpus
from rewardscale.data.ledger.ledger import Ledger
from rewardscale.data.ledger.schema import VERDICT_COLUMNS
from rewardscale.data.sources import ukpconvarg1

TEXTS = {
    "tea-or-coffee_tea": {
        "arg1": "Tea warms & calms.",
        "arg2": "It is <cheap>.\nVery cheap.",
        "arg10": "Tëa!",
    },
    "dogs-or-cats_dogs": {"7": "Dogs fetch.", "8": "They guard the house, don't they?"},
}
DEBATES = {"tea-or-coffee_tea": ("Tea or coffee?", "Tea"), "dogs-or-cats_dogs": ("Dogs or cats", "Dogs!")}
# topic, first, second, gold, strict, votes (worker, value, competence)
PAIRS = [
    (
        "tea-or-coffee_tea",
        "arg2",
        "arg1",
        "a1",
        True,
        [("W3", "a1", 0.91234567), ("W1", "equal", 6.730658e-4)],
    ),
    ("tea-or-coffee_tea", "arg1", "arg10", "equal", False, [("W1", "equal", 6.730658e-4), ("W2", "a2", 1.0)]),
    ("tea-or-coffee_tea", "arg10", "arg2", None, False, [("W2", "a2", 1.0), ("W3", "a1", 0.91234567)]),
    (
        "dogs-or-cats_dogs",
        "8",
        "7",
        "a2",
        True,
        [("W2", "a2", 1.0), ("W4", "a2", 0.25), ("W1", "a1", 6.730658e-4)],
    ),
]


def write_jsonl(folder: Path, pairs=PAIRS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    workers = {"W1": 0, "W2": 1, "W3": 2, "W4": 3}
    with gzip.open(folder / "arguments.jsonl.gz", "wt", encoding="utf-8") as file:
        for topic, texts in TEXTS.items():
            for name, text in texts.items():
                stance = DEBATES[topic][1]
                record = {"topic": topic, "id": name, "stance": stance, "text": text, "up": "1", "down": "0"}
                file.write(json.dumps(record) + "\n")
    with gzip.open(folder / "pairs.jsonl.gz", "wt", encoding="utf-8") as file:
        for topic, first, second, gold, strict, votes in pairs:
            title, stance = DEBATES[topic]
            record = {
                "topic": topic,
                "title": title,
                "stance": stance,
                "id": f"{first}_{second}",
                "a1": first,
            }
            record |= {"a2": second, "gold": gold, "in_strict": strict}
            record["votes"] = [{"w": workers[w], "v": v, "c": round(c, 4)} for w, v, c in votes]
            file.write(json.dumps(record) + "\n")
    return folder


def argument_xml(tag: str, topic: str, name: str) -> str:
    return (
        f"<{tag}><author>someone</author><voteUpCount>1</voteUpCount><voteDownCount>0</voteDownCount>"
        f"<stance>{DEBATES[topic][1]}</stance><text>{escape(TEXTS[topic][name])}</text><id>{name}</id>"
        f"<originalHTML>&lt;p&gt;{escape(TEXTS[topic][name])}&lt;/p&gt;</originalHTML></{tag}>"
    )


def pair_xml(topic: str, first: str, second: str, gold: str | None, votes) -> str:
    """In the authors' schema: an XStream list of annotatedArgumentPair; absent fields are left out."""
    assignments = "".join(
        f"<mTurkAssignment><turkID>{worker}</turkID><hitID>H{first}</hitID>"
        f"<assignmentAcceptTime>2016-02-22 21:40:51.0 UTC</assignmentAcceptTime>"
        f"<assignmentSubmitTime>2016-02-22 21:46:33.0 UTC</assignmentSubmitTime>"
        f"<value>{value}</value><reason>More &amp; better.</reason><assignmentId>S{number}</assignmentId>"
        f"<turkRank>{number}</turkRank><turkCompetence>{competence!r}</turkCompetence></mTurkAssignment>\n"
        for number, (worker, value, competence) in enumerate(votes)
    )
    label = "" if gold is None else f"<goldLabel>{gold}</goldLabel>"
    return (
        f"<annotatedArgumentPair>\n<id>{first}_{second}</id>\n{argument_xml('arg1', topic, first)}\n"
        f"{argument_xml('arg2', topic, second)}\n<debateMetaData>"
        f"<title>{DEBATES[topic][0]}</title><description/>"
        f"<url>http://example.org/debate</url></debateMetaData>\n"
        f"<mTurkAssignments>\n{assignments}</mTurkAssignments>\n{label}\n</annotatedArgumentPair>\n"
    )


def write_xml(folder: Path, pairs=PAIRS) -> Path:
    for name, strict_only in (("UKPConvArg1-full-XML", False), ("UKPConvArg1Strict-XML", True)):
        (folder / name).mkdir(parents=True)
        for topic in DEBATES:
            body = "".join(
                pair_xml(p[0], p[1], p[2], p[3], p[5])
                for p in pairs
                if p[0] == topic and (p[4] or not strict_only)
            )
            # one topic goes by another name in the strict folder, as in the authors' repository
            stem = topic.replace("dogs-or", "dogs-and") if strict_only else topic
            (folder / name / f"{stem}.xml").write_text(
                f'<?xml version="1.0"?>\n<list>\n{body}</list>\n', encoding="utf-8"
            )
    return folder


def assert_same(a: ukpconvarg1.Votes, b: ukpconvarg1.Votes) -> None:
    assert a.comparisons == b.comparisons
    assert pl.DataFrame(a.columns).equals(pl.DataFrame(b.columns))
    assert a.verdicts.equals(b.verdicts)


@pytest.fixture
def jsonl(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "data" / "ukpconvarg1")


def test_content(jsonl: Path) -> None:
    votes = ukpconvarg1.read(jsonl)
    dogs, *tea = votes.comparisons
    assert dogs.responses == (TEXTS["dogs-or-cats_dogs"]["8"], TEXTS["dogs-or-cats_dogs"]["7"])
    assert (dogs.source, dogs.split, dogs.category, dogs.group) == (
        "ukpconvarg1",
        "",
        "dogs-or-cats_dogs",
        "Dogs or cats",
    )
    assert [m.role for m in dogs.prompt] == ["user"]
    assert "Dogs or cats" in dogs.prompt[0].content and "Dogs!" in dogs.prompt[0].content
    assert len({c.prompt_hash for c in tea}) == 1
    columns = pl.DataFrame(votes.columns)
    assert columns["arg1"].to_list() == ["8", "arg10", "arg1", "arg2"]  # ordered by (topic, pair id)
    assert columns["gold"].to_list() == [-1, None, 0, 1] and columns["gold"].dtype == pl.Int8
    assert columns["in_strict"].to_list() == [True, False, False, True]
    assert columns["title"].to_list() == ["Dogs or cats"] + 3 * ["Tea or coffee?"]


def test_verdicts(jsonl: Path) -> None:
    votes = ukpconvarg1.read(jsonl)
    verdicts = votes.verdicts
    assert dict(verdicts.schema) == dict(VERDICT_COLUMNS)
    assert verdicts["row"].to_list() == [0, 0, 0, 1, 1, 2, 2, 3, 3]
    assert verdicts["round"].to_list() == [0, 1, 2, 0, 1, 0, 1, 0, 1]
    assert verdicts["preferred"].to_list() == [-1, -1, 1, -1, 1, 0, -1, 1, 0]
    assert verdicts["comparison"].to_list() == [votes.comparisons[row].id for row in verdicts["row"]]
    # numbered as they appear: W2 W4 W1 | W2 W3 | W1 W2 | W3 W1
    assert verdicts["annotator"].to_list() == [f"worker-{n}" for n in (0, 1, 2, 0, 3, 2, 0, 3, 2)]
    assert verdicts["confidence"].to_list() == pytest.approx(
        [1, 0.25, 0.0007, 1, 0.9123, 0.0007, 1, 0.9123, 0.0007]
    )
    assert set(verdicts["kind"]) == {"person"} and set(verdicts["cost"]) == {1.0}


def test_goes_into_corpus_and_ledger(jsonl: Path, tmp_path: Path) -> None:
    votes = ukpconvarg1.read(jsonl)
    corpus = write_corpus(
        tmp_path / "corpus", votes.comparisons, about=ukpconvarg1.ABOUT, columns=votes.columns
    )
    assert corpus.manifest()["gold"].to_list() == [-1, None, 0, 1]
    assert corpus.manifest()["group"].to_list() == corpus.manifest()["title"].to_list()
    ledger = Ledger(tmp_path / "ledger")
    ledger.append(votes.verdicts)
    assert ledger.read().equals(votes.verdicts)


def test_xml_equals_jsonl(jsonl: Path, tmp_path: Path) -> None:
    folder = write_xml(tmp_path / "checkout" / "data")
    expected = ukpconvarg1.read(jsonl)
    for data_dir in (
        tmp_path / "checkout",
        folder,
        folder / "UKPConvArg1-full-XML",
        folder / "UKPConvArg1Strict-XML",
    ):
        assert_same(ukpconvarg1.read(data_dir), expected)


def test_order_in_files_does_not_matter(jsonl: Path, tmp_path: Path) -> None:
    assert_same(ukpconvarg1.read(write_jsonl(tmp_path / "other", PAIRS[::-1])), ukpconvarg1.read(jsonl))


def test_parent_folder_is_accepted(jsonl: Path) -> None:
    assert_same(ukpconvarg1.read(jsonl.parent), ukpconvarg1.read(jsonl))


@pytest.mark.parametrize("exists", [True, False])
def test_missing_data_says_what_was_looked_for(tmp_path: Path, exists: bool) -> None:
    folder = tmp_path if exists else tmp_path / "absent"
    with pytest.raises(DataError) as error:
        ukpconvarg1.read(folder)
    for expected in (
        str(folder),
        "pairs.jsonl.gz",
        "UKPConvArg1-full-XML",
        "--data_dir=",
        "REWARDSCALE_DATA",
    ):
        assert expected in str(error.value)
    assert ("no such directory" in str(error.value)) != exists


@pytest.mark.parametrize("half", ["arguments.jsonl.gz", "UKPConvArg1Strict-XML"])
def test_other_half_missing(jsonl: Path, tmp_path: Path, half: str) -> None:
    folder = jsonl if half.endswith("gz") else write_xml(tmp_path / "xml")
    (folder / half).rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=half):
        ukpconvarg1.read(folder)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"v": "a1"', '"v": "a3"', "'a3'"),
        ('"c": 0.25', '"c": 1.25', "competence"),
        ('"c": 0.25', '"c": null', "competence"),
        ('"gold": "a2"', '"gold": "both"', "'both'"),
        ('"in_strict": true', '"in_strict": 1', "in_strict"),
        ('"a2": "7"', '"a2": "9"', "'9'"),
        ('"title": "Dogs or cats"', '"title": ""', "title"),
        ('"votes": [', '"votes": [3, ', "votes"),
        ('"topic": "dogs', '"topic: "dogs', "not JSON"),
    ],
)
def test_malformed_line_is_named(jsonl: Path, old: str, new: str, message: str) -> None:
    path = jsonl / "pairs.jsonl.gz"
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    assert old in lines[3]
    lines[3] = lines[3].replace(old, new)
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    with pytest.raises(DataError, match=r"pairs\.jsonl\.gz, line 4.*" + message):
        ukpconvarg1.read(jsonl)


def test_truncated_file_is_named(jsonl: Path) -> None:
    path = jsonl / "pairs.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"pairs\.jsonl\.gz is damaged after line"):
        ukpconvarg1.read(jsonl)


def test_duplicate_pair_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"arg2_arg1.*twice"):
        ukpconvarg1.read(write_jsonl(tmp_path, [*PAIRS, PAIRS[0]]))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<value>a2</value>", "<value>2</value>", "pair '8_7'.*'2'"),
        ("<turkCompetence>0.25</turkCompetence>", "", "pair '8_7'.*competence"),
        ("<text>Dogs fetch.</text>", "", "pair '8_7'.*arg2/text"),
        ("</list>", "", "not well-formed"),
        ("<list>", '<!DOCTYPE list [<!ENTITY e SYSTEM "file:///etc/hostname">]><list>', "document type"),
    ],
)
def test_malformed_xml_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = write_xml(tmp_path) / "UKPConvArg1-full-XML" / "dogs-or-cats_dogs.xml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(DataError, match=rf"(?s)dogs-or-cats_dogs\.xml.*{message}"):
        ukpconvarg1.read(tmp_path)


def real_data() -> Path | None:
    beside = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    for folder in (os.environ.get("REWARDSCALE_DATA"), beside):
        if folder and (Path(folder) / "ukpconvarg1" / "pairs.jsonl.gz").is_file():
            return Path(folder)
    return None


@pytest.mark.skipif(real_data() is None, reason="set REWARDSCALE_DATA to the folder that holds ukpconvarg1/")
def test_counts_of_the_real_set() -> None:
    folder = real_data()
    assert folder is not None
    votes = ukpconvarg1.read(folder)
    columns = pl.DataFrame(votes.columns)
    gold = columns["gold"]
    assert len(votes.comparisons) == len(columns) == 16_927
    assert [(gold == sign).sum() for sign in (1, -1, 0)] == [6_398, 6_394, 3_289]
    assert gold.count() == 16_081 and gold.null_count() == 846
    assert columns["in_strict"].sum() == 11_642
    assert columns.filter("in_strict")["gold"].is_in([-1, 1]).all()
    arguments = pl.concat([columns.select("topic", arg=name) for name in ("arg1", "arg2")])
    assert arguments.n_unique() == 1_052
    assert columns["topic"].n_unique() == 32 and columns["title"].n_unique() == 16
    per_row = votes.verdicts.group_by("row").len()["len"].value_counts().sort("len")
    assert per_row.rows() == [(4, 190), (5, 16_737)]
    assert votes.verdicts["annotator"].n_unique() == 3_815
    # the order is given by (topic, pair id), so rows mean the same wherever the set is read
    keys = [
        (c.category, f"{a}_{b}")
        for c, a, b in zip(votes.comparisons, columns["arg1"], columns["arg2"], strict=True)
    ]
    assert keys == sorted(keys)
