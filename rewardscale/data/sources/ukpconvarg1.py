"""UKPConvArg1: pairs of arguments for one side of a debate, each judged by about five people.

Habernal and Gurevych, "Which argument is more convincing?", ACL 2016. 16,927 pairs of 1,052 arguments
on 32 topics (a debate and a side of it) in 16 debates; a vote says which argument is the more
convincing, or that they are equally so. Data CC BY 4.0.

Two layouts give the same `Votes`:

    pairs.jsonl.gz, arguments.jsonl.gz             a line a pair, a line an argument
    UKPConvArg1-full-XML/<topic>.xml,              the authors' repository (its folder `data`): all pairs,
    UKPConvArg1Strict-XML/<topic>.xml              and the pairs that passed their cleaning

The gold labels and the competence of a worker (MACE: the estimated probability that a worker does
not answer at random) are the authors', and were estimated from all votes of the set at once: neither
knows of a split by debate.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

import polars as pl

from rewardscale.data.comparison import Comparison, DataError, Message
from rewardscale.data.ledger.checks import complete
from rewardscale.data.ledger.schema import CORE_COLUMNS
from rewardscale.data.sources.formats import whole_records

SOURCE = "ukpconvarg1"
ABOUT = {
    "source": SOURCE,
    "repository": "https://github.com/UKPLab/acl2016-convincing-arguments",
    "commit": "ca9d24e41b8805ff2e1d3585d552b49bb64a65f7",
    "licence": "CC BY 4.0",
}

_PAIRS, _ARGUMENTS = "pairs.jsonl.gz", "arguments.jsonl.gz"
_FULL, _STRICT = "UKPConvArg1-full-XML", "UKPConvArg1Strict-XML"
_VOTE_TAGS = ("turkID", "value", "turkCompetence")
_SIGN = {"a1": 1, "a2": -1, "equal": 0}
_COMPETENCE_DIGITS = 4  # the jsonl keeps four; the XML is rounded alike


@dataclasses.dataclass(frozen=True)
class Votes:
    """What the set holds, a row a pair, in the order of (topic, pair id).

    Attributes:
      comparisons: [rows]; prompt: debate and side as one user message; responses: the two arguments;
        category: the topic; group: the debate's title; split "": a sweep splits by group.
      columns: manifest columns, each a Series [rows]: `title`, `topic`, `arg1`, `arg2` (argument ids),
        `gold` (int8: +1 first, -1 second, 0 equally convincing, null none), `in_strict` (bool).
      verdicts: VERDICT_COLUMNS, ordered by row and round. `round` is the position of the vote in its pair
        (the order in time), `confidence` the worker's competence, cost 1 vote. Workers are numbered
        in the order in which they first appear here.
    """

    comparisons: list[Comparison]
    columns: Mapping[str, Any]
    verdicts: pl.DataFrame


@dataclasses.dataclass(frozen=True, slots=True)
class _Pair:
    topic: str
    title: str
    stance: str
    ids: tuple[str, str]
    texts: tuple[str, str]
    gold: int | None
    in_strict: bool
    votes: tuple[tuple[str, int, float], ...]  # worker, sign, competence

    @property
    def key(self) -> tuple[str, str]:
        return self.topic, "_".join(self.ids)


def read(data_dir: Path) -> Votes:
    """Reads the set from `data_dir`: its folder (either layout), a checkout, or the parent of such a folder.

    Raises:
      DataError: nothing there looks like the set (the message says what was looked for), or a file
        is damaged (it names the file, and the line or the pair).
    """
    folder, reader = _find(Path(data_dir))
    pairs = sorted(reader(folder), key=lambda pair: pair.key)
    if not pairs:
        raise DataError(f"{folder} holds no pairs; fetch the set again")
    for one, next_one in itertools.pairwise(pairs):
        if one.key == next_one.key:
            raise DataError(f"{folder}: pair {one.key[1]} of {one.topic!r} is there twice; fetch it again")
    return _assemble(pairs)


def prompt(title: str, stance: str) -> str:
    """The user message that the two arguments answer."""
    return f"Debate: {title}\nSide: {stance}\nGive a convincing argument for this side."


def _assemble(pairs: list[_Pair]) -> Votes:
    comparisons = [
        Comparison(
            prompt=(Message("user", prompt(pair.title, pair.stance)),),
            responses=pair.texts,
            source=SOURCE,
            split="",
            category=pair.topic,
            group=pair.title,
        )
        for pair in pairs
    ]
    columns = {
        "title": pl.Series([pair.title for pair in pairs], dtype=pl.String),
        "topic": pl.Series([pair.topic for pair in pairs], dtype=pl.String),
        "gold": pl.Series([pair.gold for pair in pairs], dtype=pl.Int8),
        "in_strict": pl.Series([pair.in_strict for pair in pairs], dtype=pl.Boolean),
        "arg1": pl.Series([pair.ids[0] for pair in pairs], dtype=pl.String),
        "arg2": pl.Series([pair.ids[1] for pair in pairs], dtype=pl.String),
    }
    return Votes(comparisons=comparisons, columns=columns, verdicts=_verdicts(pairs, comparisons))


def _verdicts(pairs: list[_Pair], comparisons: list[Comparison]) -> pl.DataFrame:
    numbers: dict[str, int] = {}
    records = []
    for row, (pair, comparison) in enumerate(zip(pairs, comparisons, strict=True)):
        identity = comparison.id
        for position, (worker, sign, competence) in enumerate(pair.votes):
            number = numbers.setdefault(worker, len(numbers))
            records.append((row, identity, f"worker-{number}", "person", position, sign, competence, 1.0))
    return complete(pl.DataFrame(records, schema=CORE_COLUMNS, orient="row"))


# --- where it lies -----------------------------------------------------------------------------------


def _find(data_dir: Path):
    for folder in (data_dir, data_dir / SOURCE):
        if (folder / _PAIRS).is_file():
            _require(folder / _ARGUMENTS)
            return folder, _read_jsonl
    xml_folders = (
        *((data_dir.parent,) if data_dir.name in (_FULL, _STRICT) else ()),
        *(base / sub for base in (data_dir, data_dir / SOURCE) for sub in ("", "data")),
        data_dir / "acl2016-convincing-arguments" / "data",
    )
    for folder in xml_folders:
        if (folder / _FULL).is_dir():
            _require(folder / _STRICT)
            return folder, _read_xml
    absent = "" if data_dir.is_dir() else " (there is no such directory)"
    raise DataError(
        f"UKPConvArg1 is not in {data_dir}{absent}: looked for {_PAIRS} and {_ARGUMENTS}, or {_FULL}/ and "
        f"{_STRICT}/, there and in its folders {SOURCE}/ and data/; point --data_dir=DIR or the environment "
        f"variable REWARDSCALE_DATA at the folder that holds them"
    )


def _require(path: Path) -> None:
    if not path.exists():
        raise DataError(f"{path} is missing beside the other half of UKPConvArg1; fetch the set again")


# --- jsonl -------------------------------------------------------------------------------------------


def _read_jsonl(folder: Path) -> Iterator[_Pair]:
    texts = {}
    for where, record in whole_records(folder / _ARGUMENTS):
        texts[_text(record, "topic", where), _text(record, "id", where)] = _text(record, "text", where)
    for where, record in whole_records(folder / _PAIRS):
        topic = _text(record, "topic", where)
        ids = (_text(record, "a1", where), _text(record, "a2", where))
        for argument in ids:
            if (topic, argument) not in texts:
                raise DataError(f"{where}: argument {argument!r} of topic {topic!r} is not in {_ARGUMENTS}")
        in_strict, votes = record.get("in_strict"), record.get("votes")
        if not isinstance(in_strict, bool) or not isinstance(votes, list):
            raise DataError(f"{where}: `in_strict` must be true or false and `votes` a list")
        if not all(isinstance(vote, dict) for vote in votes):
            raise DataError(f"{where}: each of `votes` must be an object with `w`, `v` and `c`")
        yield _Pair(
            topic=topic,
            title=_text(record, "title", where),
            stance=_text(record, "stance", where),
            ids=ids,
            texts=(texts[topic, ids[0]], texts[topic, ids[1]]),
            gold=_gold(record.get("gold"), where),
            in_strict=in_strict,
            votes=_votes(((vote.get("w"), vote.get("v"), vote.get("c")) for vote in votes), where),
        )


# --- XML ---------------------------------------------------------------------------------------------


def _read_xml(folder: Path) -> Iterator[_Pair]:
    # The two folders name one topic differently, so pairs are matched by id, which is unique in the set.
    strict = {
        _child(pair, "id", where) for path in _xml_files(folder / _STRICT) for where, pair in _xml_pairs(path)
    }
    for path in _xml_files(folder / _FULL):
        for where, pair in _xml_pairs(path):
            yield _pair_from_xml(path.stem, pair, strict, where)


def _pair_from_xml(topic: str, pair: ElementTree.Element, strict: set[str], where: str) -> _Pair:
    assignments = pair.findall("mTurkAssignments/mTurkAssignment")
    return _Pair(
        topic=topic,
        title=_child(pair, "debateMetaData/title", where),
        stance=_child(pair, "arg1/stance", where),
        ids=(_child(pair, "arg1/id", where), _child(pair, "arg2/id", where)),
        texts=(_child(pair, "arg1/text", where), _child(pair, "arg2/text", where)),
        gold=_gold(pair.findtext("goldLabel"), where),
        in_strict=_child(pair, "id", where) in strict,
        votes=_votes((tuple(map(a.findtext, _VOTE_TAGS)) for a in assignments), where),
    )


def _xml_files(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.xml"))
    if not files:
        raise DataError(f"{folder} holds no *.xml; fetch the set again")
    return files


def _xml_pairs(path: Path) -> Iterator[tuple[str, ElementTree.Element]]:
    """(file and pair for messages, element) of each pair of a file, one in memory at a time."""
    try:
        _refuse_doctype(path)
        events = ElementTree.iterparse(path, events=("start", "end"))
        _, root = next(events)
        for event, element in events:
            if event == "end" and element.tag == "annotatedArgumentPair":
                yield f"{path}, pair {element.findtext('id')!r}", element
                root.clear()
    except (ElementTree.ParseError, expat.ExpatError) as error:
        raise DataError(f"{path} is not well-formed XML ({error}); fetch the file again") from error


def _refuse_doctype(path: Path) -> None:
    """Raises DataError if the file declares a document type: the set has none, and entities come with it."""
    parser = expat.ParserCreate()
    started = []

    def refuse(*_: object) -> None:
        raise DataError(f"{path} declares a document type, which UKPConvArg1 does not; fetch the file again")

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = lambda *_: started.append(True)
    with path.open("rb") as file:
        while not started and (chunk := file.read(4096)):
            parser.Parse(chunk, False)


def _child(element: ElementTree.Element, path: str, where: str) -> str:
    value = (element.findtext(path) or "").strip()
    if not value:
        raise DataError(f"{where}: <{path}> is missing or empty")
    return value


# --- values ------------------------------------------------------------------------------------------


def _text(record: Mapping[str, Any], key: str, where: str) -> str:
    value = record.get(key)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: `{key}` must be a text that is not empty, found {value!r}")
    return value.strip()


def _gold(label: str | None, where: str) -> int | None:
    if label is None:
        return None
    if label not in _SIGN:
        raise DataError(f"{where}: the gold label must be one of {sorted(_SIGN)} or absent, found {label!r}")
    return _SIGN[label]


def _votes(votes: Iterable[tuple[Any, Any, Any]], where: str) -> tuple[tuple[str, int, float], ...]:
    checked = []
    for worker, value, competence in votes:
        if worker is None or worker == "":
            raise DataError(f"{where}: a vote names no worker")
        if not isinstance(value, str) or value not in _SIGN:
            raise DataError(f"{where}: a vote must be one of {sorted(_SIGN)}, found {value!r}")
        try:
            number = float(competence)
        except (TypeError, ValueError):
            number = math.nan
        if not 0 <= number <= 1:
            raise DataError(f"{where}: a worker's competence must lie in [0, 1], found {competence!r}")
        checked.append((str(worker), _SIGN[value], round(number, _COMPETENCE_DIGITS)))
    if not checked:
        raise DataError(f"{where} has no votes")
    return tuple(checked)
