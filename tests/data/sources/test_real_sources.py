"""The sets that lie beside the repository, counted as their ORIGIN.md counts them."""

import itertools
import os
from collections import Counter
from pathlib import Path

import pytest

from rewardscale.data.sources import mmlu_pro_responses
from rewardscale.data.sources.adapter import adapter
from rewardscale.data.sources.judged import Judged, Refused
from rewardscale.data.sources.pairing import label, to_pairs
from rewardscale.data.sources.read import locate, read


def real(name: str) -> Path:
    beside = Path(__file__).resolve().parents[3].parent / "shared" / "data"
    for folder in (os.environ.get("REWARDSCALE_DATA"), beside):
        if folder and (Path(folder) / name).is_dir():
            return Path(folder) / name
    pytest.skip(f"set REWARDSCALE_DATA to the folder that holds {name}/")


def items(name: str) -> tuple[list[Judged], list[Refused]]:
    located = locate(adapter(name), real(name))
    found = [item for unit in located.units() for item in read(located.adapter, unit)]
    return [i for i in found if isinstance(i, Judged)], [i for i in found if isinstance(i, Refused)]


def test_hh_rlhf() -> None:
    judged, refused = items("hh-rlhf")
    assert len(judged) + len(refused) == 2_312
    assert Counter(item.code for item in refused) == {"parted_early": 5, "empty_response": 4, "roles": 4}
    assert all(item.judgements[0].scores == (1.0, 0.0) for item in judged)
    assert {item.comparison.split for item in judged} == {"test"}


def test_hhh() -> None:
    judged, refused = items("hhh")
    assert not refused
    counts = Counter(item.comparison.category for item in judged)
    assert counts == {"harmless": 58, "helpful": 59, "honest": 61, "other": 43}


def test_fgrlhf() -> None:
    judged, refused = items("fgrlhf")
    assert len(judged) == 500 and not refused
    # In the source's order of responses: 1v2, 1v3, ...
    votes = [
        next(s for s in j.scores if s == s) - [s for s in j.scores if s == s][1]
        for i in judged
        for j in i.judgements
    ]
    assert Counter(votes) == {1.0: 1_577, -1.0: 1_039, 0.0: 384}
    pairs = list(to_pairs(judged, ties=True))
    left_out = Counter[str]()
    assert len(list(to_pairs(judged, left_out=left_out))) + sum(left_out.values()) == 3_000
    assert len(pairs) + left_out["identical"] == 3_000
    assert sum(label(pair.judgements)[0] != 0 for pair in pairs) == 2_616 - lost(judged)


def lost(judged: list[Judged]) -> int:
    """Decided pairs of two responses that are the same text."""
    count = 0
    for item in judged:
        for a, b in itertools.combinations(range(4), 2):
            same = item.comparison.responses[a] == item.comparison.responses[b]
            count += same and label(item.judgements, a, b)[0] != 0
    return count


def test_gsm8k_solutions() -> None:
    judged, refused = items("gsm8k-solutions")
    assert len(judged) == 1_319 and not refused
    scores = [score for item in judged for score in item.judgements[0].scores]
    assert (len(scores), sum(scores)) == (5_276, 2_001)
    assert sum(1 for _ in to_pairs(judged)) == 2_429


def test_humanevalpack() -> None:
    judged, refused = items("humanevalpack")
    assert len(judged) == 984 and not refused
    assert len(list(to_pairs(judged))) == 984
    assert adapter("humanevalpack").evaluation_only


def test_llmbar() -> None:
    judged, refused = items("llmbar")
    located = locate(adapter("llmbar"), real("llmbar"))
    counts = {unit.name: sum(1 for _ in read(located.adapter, unit)) for unit in located.files}
    names = {"LLMBar__Natural": 100, "LLMBar__Adversarial__Neighbor": 134, "LLMBar__Adversarial__GPTInst": 92}
    names |= {"LLMBar__Adversarial__GPTOut": 47, "LLMBar__Adversarial__Manual": 46, "Processed__FairEval": 66}
    names |= {"Processed__LLMEval^2": 200, "Processed__MT-Bench": 200}
    assert {name: counts[f"{name}__dataset.json.gz"] for name in names} == names
    assert sum(n for name, n in counts.items() if name.startswith("CaseStudy")) == 315
    assert len(judged) + len(refused) == 1_200
    assert Counter(item.code for item in refused) == {"empty_response": 1, "identical_responses": 1}


def test_rm_bench() -> None:
    judged, refused = items("rm-bench")
    assert len(judged) == 798 and not refused
    assert all(item.judgements[0].scores == (1, 1, 1, 0, 0, 0) for item in judged)
    assert sum(1 for _ in to_pairs(judged)) == 798 * 9
    assert adapter("rm-bench").evaluation_only


@pytest.mark.slow  # 100 thousand votes
def test_ukpconvarg1() -> None:
    judged, refused = items("ukpconvarg1")
    assert len(judged) + len(refused) == 16_927 and {item.code for item in refused} == {"identical_responses"}
    # 846 pairs have no label of the source's own; the 15 refused ones are two copies of one text.
    gold = Counter(j.scores for i in judged for j in i.judgements if j.kind == "source")
    expected = {(1.0, 0.0): 6_398, (0.0, 1.0): 6_394, (0.0, 0.0): 3_289}
    assert all(expected[key] - 15 <= gold[key] <= expected[key] for key in expected)
    workers = {j.annotator for i in judged for j in i.judgements if j.kind == "person"}
    assert 3_810 <= len(workers) <= 3_815
    assert len({item.comparison.category for item in judged}) == 32
    assert len({item.comparison.group for item in judged}) == 16


@pytest.mark.slow  # 15 seconds: 347 thousand answers
def test_mmlu_pro_responses() -> None:
    judged, refused = items("mmlu-pro-responses")
    assert len(judged) == 12_032 and Counter(item.code for item in refused) == {"empty_response": 8}
    answers = sum(len(item.comparison.responses) for item in judged)
    assert answers + 8 == 346_992
    right = wrong = pairs = 0
    for item in judged:
        scores = item.judgements[0].scores
        good, bad = scores.count(1.0), scores.count(0.0)
        right, wrong, pairs = right + good, wrong + bad, pairs + good * bad
    assert answers - right - wrong == 32_696 - 8  # without a parsed answer; the empty ones are of these
    assert pairs == 1_325_635
    module = mmlu_pro_responses.prompt("Which?", ["This.", "That."])
    assert module == "Which?\nA. This.\nB. That."
