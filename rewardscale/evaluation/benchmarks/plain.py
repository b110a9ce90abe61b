"""Plain sets: pairs and lists of labelled responses, read as a build reads them (data/sources).

Sets that have an adapter (LLMBar, HHH, hh-rlhf, HumanEvalPack, GSM8K solutions, MMLU-Pro answers), and any file of
comparisons in the forms of data/records.py:

    {"prompt": ..., "chosen": ..., "rejected": ...}                    a pair, the chosen response first
    {"prompt": ..., "responses": [...], "scores": [...]}               or "correct", "quality": larger is better
"""

import functools
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rewardscale.data.comparison import DataError
from rewardscale.data.records import ItemError
from rewardscale.data.sources import formats
from rewardscale.data.sources.adapter import adapter
from rewardscale.data.sources.formats import Unit
from rewardscale.data.sources.judged import Judged, Refused
from rewardscale.data.sources.read import numbered
from rewardscale.data.sources.shapes import About, shaped
from rewardscale.evaluation.benchmarks.base import Benchmark, BenchmarkItem, padded
from rewardscale.evaluation.benchmarks.formulas import Lists, PairAccuracy, powers_of_two
from rewardscale.evaluation.benchmarks.reading import TWICE, Collected, Found, Part, Spec

_SCORES = ("scores", "correct", "quality")
Line = tuple[str, Path, int, Judged | Refused]  # part, file, line, what it holds


def is_file_of_comparisons(name: str) -> bool:
    """Whether a benchmark's name is the path of a file of records."""
    return formats.is_records(Path(name)) and Path(name).is_file()


def from_file(path: Path) -> Benchmark:
    """A benchmark of any file of comparisons. Raises DataError where none of them can be used."""
    spec = Spec(path.name, path.name, {"": Part((path.name,))}, _own)
    return _own(Found(spec, path.parent, (("", path),)))


# --- reading -----------------------------------------------------------------------------------------


def _own(found: Found) -> Benchmark:
    return _benchmark(found, _own_lines(found), by="category", lists=None)


def _own_lines(found: Found) -> Iterator[Line]:
    """Pairs, or rated responses, as each record is."""
    pairs, rated = adapter("pairs"), adapter("rated")
    for part, path in found.files:
        about = About(found.spec.name, category="category")
        for item in formats.records(Unit(path)):
            if isinstance(item, Refused):
                yield part, path, item.line, item
                continue
            line, record = item
            own = pairs
            if "responses" in record:
                own = rated
                key = next((key for key in _SCORES if record.get(key) is not None), "scores")
                record = {**record, "scores": record.get(key)}
            record = {**record, "category": record.get("subset", record.get("category"))}
            try:
                made = shaped(own.shape, own.labels, record, about)
            except ItemError as error:
                made = [error]
            for one in made:
                held = one if isinstance(one, Judged) else Refused(path.name, line, one.code, str(one))
                yield part, path, line, held


def _adapted(found: Found, *, name: str, by: str, lists: bool) -> Benchmark:
    """A set with an adapter. by: whether subsets are its "part"s or its "category"s."""
    own = adapter(name)
    lines = (
        (part, path, line, item)
        for part, path in found.files
        for line, item in numbered(own, Unit(found.root, str(path.relative_to(found.root))))
    )
    return _benchmark(found, lines, by=by, lists=lists)


def _benchmark(found: Found, lines: Iterator[Line], *, by: str, lists: bool | None) -> Benchmark:
    """The benchmark; `lists`: whether it is one of right and wrong responses, None: if some item has more than two."""
    out = Collected([], [], Counter())
    seen: set[tuple[Any, ...]] = set()
    first = ""
    for part, path, line, item in lines:
        if isinstance(item, Refused):
            out.missing[item.code] += 1
            first = first or f"; the first, line {item.line} of {item.file}: {item.reason}"
            continue
        comparison, scores = item.comparison, np.array(item.judgements[0].scores)
        judged = np.flatnonzero(np.isfinite(scores))
        if unjudged := len(scores) - len(judged):
            out.missing["answer: without a label"] += unjudged
        if len(judged) < 2 or (len(scores) == 2 and scores[0] == scores[1]):
            out.missing["tie" if len(judged) == 2 else "no_label"] += 1
            continue
        responses = tuple(comparison.responses[at] for at in judged)
        key = (comparison.prompt, responses, tuple(scores[judged]))
        if key in seen:
            out.missing[TWICE] += 1
            continue
        seen.add(key)
        subset = part if by == "part" else comparison.category
        id = f"{part or path.name}/{line}"
        out.items.append(
            BenchmarkItem(id, comparison.prompt, responses, subset, _cluster(found.spec, part, line))
        )
        out.facts.append(scores[judged])
    if not out.items:
        names = ", ".join(str(path) for _, path in found.files)
        raise DataError(f"{names}: none of its {out.missing.total():,} records can be used{first}")
    return _scored(found, out, lists)


def _cluster(spec: Spec, part: str, line: int) -> str:
    """HumanEvalPack has each problem in six languages, in the same order: they are drawn together."""
    return f"problem {line}" if spec.name == "humanevalpack" and part else ""


def _scored(found: Found, collected: Collected, lists: bool | None) -> Benchmark:
    pairs = np.concatenate([_pairs(number, scores) for number, scores in enumerate(collected.facts)])
    subsets = tuple(item.subset for item in collected.items)
    if lists is None:
        lists = any(len(item.responses) > 2 for item in collected.items)
    if not lists:
        return found.benchmark(collected, PairAccuracy(pairs, subsets), headline="accuracy", pairs=pairs)
    counts = np.array([len(item.responses) for item in collected.items])
    quality = padded(collected.facts)
    return found.benchmark(
        collected,
        Lists(quality, pairs, subsets, powers_of_two(counts)),
        headline="accuracy",
        pairs=pairs,
        quality=quality,
    )


def _pairs(number: int, scores: np.ndarray) -> np.ndarray:
    """int64 [pairs, 3]: all pairs of responses of which the first scores more."""
    better, worse = np.nonzero(scores[:, None] > scores[None, :])
    return np.stack([np.full(len(better), number), better, worse], axis=1).astype(np.int64)


# --- the sets ----------------------------------------------------------------------------------------


def _spec(
    name: str,
    title: str,
    parts: Mapping[str, Part],
    *,
    of: str = "",
    by: str = "part",
    lists: bool = False,
    folders: tuple[str, ...] = (),
    notes: str = "",
) -> Spec:
    """A set by its adapter, of the name `of` or `name`."""
    own = adapter(of or name)
    return Spec(
        name=name,
        title=title,
        parts=parts,
        read=functools.partial(_adapted, name=own.name, by=by, lists=lists),
        folders=folders,
        hub=own.hub,
        revision=own.revision,
        licence=own.licence,
        url=own.url,
        notes=notes or own.notes,
    )


def _llmbar(folder: str, expected: int) -> Part:
    return Part(
        (
            f"Dataset/{folder}/dataset.json*",
            f"{folder}/dataset.json*",
            f"{folder.replace('/', '__')}__dataset.json*",
        ),
        expected,
    )


def _hh(folder: str, expected: int) -> Part:
    return Part((f"{folder}/test.jsonl*", f"{folder}_test.jsonl*"), expected)


def _language(name: str) -> Part:
    return Part((f"**/data/{name}/data/humanevalpack.jsonl*", f"{name}.jsonl*"), 164)


SPECS = (
    _spec(
        "llmbar",
        "LLMBar",
        {
            "natural": _llmbar("LLMBar/Natural", 100),
            "neighbor": _llmbar("LLMBar/Adversarial/Neighbor", 134),
            "GPTInst": _llmbar("LLMBar/Adversarial/GPTInst", 92),
            "GPTOut": _llmbar("LLMBar/Adversarial/GPTOut", 47),
            "manual": _llmbar("LLMBar/Adversarial/Manual", 46),
        },
        folders=("LLMBar",),
        notes="419 of the 456 pairs of RewardBench's Chat Hard, and not RewardBench: texts may be formatted otherwise.",
    ),
    _spec(
        "llmbar-processed",
        "FairEval, LLMEval^2, MT-Bench (LLMBar)",
        {
            "FairEval": _llmbar("Processed/FairEval", 66),
            "LLMEval^2": _llmbar("Processed/LLMEval^2", 200),
            "MT-Bench": _llmbar("Processed/MT-Bench", 200),
        },
        of="llmbar",
        folders=("llmbar", "LLMBar"),
        notes="Majority votes of people, without ties; under their own sources' terms.",
    ),
    _spec("hhh", "HHH alignment", {"": Part(("*hhh_alignment*.jsonl*",), 221)}, by="category"),
    _spec(
        "hh-rlhf",
        "hh-rlhf test",
        {
            "harmless-base": _hh("harmless-base", 2_312),
            "helpful-base": _hh("helpful-base", 2_354),
            "helpful-online": _hh("helpful-online", 1_137),
            "helpful-rejection-sampled": _hh("helpful-rejection-sampled", 2_749),
        },
    ),
    _spec(
        "humanevalpack",
        "HumanEvalPack pairs",
        {name: _language(name) for name in ("cpp", "go", "java", "js", "python", "rust")},
        notes="Canonical against buggy solutions. RewardBench's hep-* subsets pair the same solutions, formatted in a "
        "way that could not be compared: this is not RewardBench.",
    ),
    _spec(
        "gsm8k-solutions",
        "GSM8K solutions",
        {"": Part(("*example_model_solutions.jsonl*",), 1_319)},
        by="category",
        lists=True,
    ),
    _spec(
        "mmlu-pro",
        "MMLU-Pro best-of-N",
        {"": Part(("responses.jsonl.xz",), 12_032)},
        of="mmlu-pro-responses",
        by="category",
        lists=True,
        folders=("mmlu-pro-responses",),
        notes="Answers of up to 29 models, those without a parsed letter left out. A model trained on part of this set "
        "is to be tested on the rest alone.",
    ),
)
