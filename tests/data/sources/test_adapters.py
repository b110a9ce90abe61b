"""Every adapter on a small file in its source's published schema.

The texts of tests/data/fixtures/sources are invented. Each response ends with its quality, so that what the adapter
makes of the labels can be checked without looking at them.
"""

import math
import re
from collections import Counter
from pathlib import Path

import pytest

from rewardscale.config import ConfigError
from rewardscale.data.comparison import DataError
from rewardscale.data.ledger.schema import KINDS
from rewardscale.data.sources.adapter import SPLITS, adapter, registry
from rewardscale.data.sources.judged import Judged, Refused
from rewardscale.data.sources.pairing import label, to_pairs
from rewardscale.data.sources.read import locate, read
from rewardscale.data.sources.shapes import NoPreferences

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "sources"
# adapter: comparisons by split, pairs, ties among them, refused by code
EXPECTED = {
    "arena-100k": ({"train": 4}, 4, 2, {"parted_early": 1}),
    "arena-55k": ({"train": 3}, 3, 1, {"parted_early": 1, "no_response": 1, "not_unicode": 1}),
    "fgrlhf": ({"validation": 1}, 6, 1, {}),
    "gsm8k-solutions": ({"test": 1}, 6, 2, {}),
    "helpsteer2": ({"train": 2, "validation": 1}, 3, 1, {"no_response": 1}),
    "helpsteer2-preference": ({"train": 2, "validation": 1}, 3, 1, {}),
    "helpsteer3": ({"train": 2, "validation": 1}, 3, 1, {}),
    "hh-rlhf": ({"train": 2, "test": 1}, 3, 0, {"parted_early": 1, "empty_response": 1}),
    "hhh": ({"test": 2}, 2, 0, {}),
    "humanevalpack": ({"test": 3}, 3, 0, {}),
    "llmbar": ({"test": 2}, 2, 0, {}),
    "mmlu-pro-responses": ({"": 2}, 2, 1, {"empty_response": 1, "no_match": 1}),
    "nectar": ({"train": 2}, 27, 1, {}),
    "olmo-2-preference-mix": ({"train": 1}, 1, 0, {"empty_response": 1}),
    "pairs": ({"train": 5}, 5, 0, {"no_response": 1}),
    "pku-saferlhf": ({"train": 2, "test": 1}, 3, 0, {}),
    "ppe-gpqa": ({"": 1}, 496, 265, {}),
    "ppe-mmlu-pro": ({"": 1}, 496, 265, {}),
    "preference-700k": ({"train": 2}, 2, 0, {"parted_early": 1}),
    "ranked": ({"": 2}, 4, 1, {}),
    "rated": ({"": 2}, 4, 0, {"no_label": 1}),
    "rm-bench": ({"test": 1}, 15, 6, {}),
    "shp-2": ({"train": 1, "test": 1}, 2, 0, {"empty_response": 1}),
    "skywork-reward-preference-80k": ({"train": 2}, 2, 0, {}),
    "tulu-3-preference-mix": ({"train": 3}, 3, 0, {}),
    "ukpconvarg1": ({"": 3}, 3, 1, {"no_match": 1}),
    "ultrafeedback": ({"train": 2}, 7, 1, {"empty_response": 1}),
    "ultrafeedback-binarized": ({"train": 2, "test": 1}, 3, 1, {"identical_responses": 1}),
    "webgpt-comparisons": ({"train": 3}, 3, 1, {}),
}
ADAPTERS = sorted(registry())
READABLE = [name for name in ADAPTERS if not isinstance(registry()[name].shape, NoPreferences)]


def items(name: str) -> list[Judged | Refused]:
    located = locate(adapter(name), FIXTURES / name)
    return [item for unit in located.units() for item in read(located.adapter, unit)]


def quality(text: str) -> float:
    found = re.search(r"\(quality (-?[\d.]+)\)", text)
    assert found, text
    return float(found[1])


@pytest.mark.parametrize("name", READABLE)
def test_a_file_in_the_published_schema(name: str) -> None:
    found = items(name)
    judged = [item for item in found if isinstance(item, Judged)]
    refused = [item for item in found if isinstance(item, Refused)]
    splits, pairs, ties, codes = EXPECTED[name]
    assert Counter(item.comparison.split for item in judged) == splits
    assert Counter(item.code for item in refused) == codes, refused
    made = list(to_pairs(judged, ties=True))
    signs = [label(pair.judgements)[0] for pair in made]
    assert (len(made), signs.count(0)) == (pairs, ties)
    for pair, sign in zip(made, signs, strict=True):
        first, second = (quality(response) for response in pair.comparison.responses)
        assert sign == (first > second) - (first < second), pair


@pytest.mark.parametrize("name", READABLE)
def test_what_every_comparison_holds(name: str) -> None:
    for item in items(name):
        if isinstance(item, Refused):
            assert item.line >= 1 and item.reason and not Path(item.file).is_absolute()
            continue
        prompt = item.comparison.prompt
        assert item.comparison.source == name and item.comparison.split in SPLITS
        assert prompt[-1].role == "user" and "uestion" in prompt[-1].content
        assert "Human" not in prompt[-1].content and "extra_id" not in prompt[-1].content
        assert item.judgements
        for judgement in item.judgements:
            assert len(judgement.scores) == len(item.comparison.responses)
            assert judgement.kind in KINDS and judgement.annotator and judgement.cost >= 0
            assert judgement.confidence is None or 0 <= judgement.confidence <= 1


@pytest.mark.parametrize("name", ADAPTERS)
def test_what_every_adapter_says(name: str) -> None:
    own = registry()[name]
    assert own.title and own.licence and own.files and set(own.files) <= set(SPLITS)
    assert own.revision is None or re.fullmatch("[0-9a-f]{40}", own.revision)
    assert not own.hub or own.revision or "not pinned" in own.notes, "say that the commit is not known"
    assert own.url.startswith("https://") or name in ("pairs", "rated", "ranked")
    assert all(who.kind in KINDS for _, who in own.labels)
    assert (FIXTURES / name).is_dir(), "write a fixture in the published schema"


@pytest.mark.parametrize("name", ["prm800k", "math-shepherd"])
def test_labels_of_steps_are_no_preferences(name: str) -> None:
    with pytest.raises(DataError, match=f"{name}: labels of single steps .* no preferences"):
        locate(adapter(name), FIXTURES / name)
    # As files of one's own they are refused line by line.
    found = [i for u in locate(adapter("pairs"), FIXTURES / name).units() for i in read(adapter("pairs"), u)]
    assert (
        [item.code for item in found if isinstance(item, Refused)]
        == ["step_labels"]
        == ["step_labels"] * len(found)
    )


def test_an_unknown_name_is_told_the_nearest() -> None:
    with pytest.raises(ConfigError, match="'helpstear3'; did you mean 'helpsteer3'"):
        adapter("helpstear3")


def test_votes_follow_the_source_s_own_label() -> None:
    one = next(item for item in items("helpsteer2-preference") if isinstance(item, Judged))
    assert [(j.annotator, j.kind, j.scores) for j in one.judgements] == [
        ("HelpSteer2 annotators, overall", "source", (2.0, 0.0)),
        ("HelpSteer2 annotator-1", "person", (2.0, 0.0)),
        ("HelpSteer2 annotator-2", "person", (3.0, 0.0)),
        ("HelpSteer2 annotator-3", "person", (1.0, 0.0)),
        ("HelpSteer2 annotator-4", "person", (0.0, 2.0)),
    ]
    neither = [item for item in items("helpsteer2-preference") if isinstance(item, Judged)][2]
    assert len(neither.judgements) == 4  # one label, four votes, of which one says that neither is any good
    ukp = [item for item in items("ukpconvarg1") if isinstance(item, Judged)]
    assert [j.annotator for j in ukp[0].judgements] == ["MACE", "worker-0", "worker-1", "worker-2"]
    assert [j.annotator for j in ukp[2].judgements] == ["worker-3", "worker-4"]
    assert ukp[0].judgements[1].confidence == 0.9 and ukp[0].comparison.group == "Question: dogs or cats?"


def test_prompts_of_several_turns_and_of_parts() -> None:
    prompts = {name: [i.comparison for i in items(name) if isinstance(i, Judged)] for name in READABLE}
    roles = [message.role for message in prompts["helpsteer2"][1].prompt]
    assert roles == ["user", "assistant", "user"]
    assert [m.content for m in prompts["nectar"][1].prompt] == [
        "A question?",
        "An answer.",
        "More questions?",
    ]
    assert (
        prompts["mmlu-pro-responses"][1].prompt[0].content
        == "A question on cells?\nA. One.\nB. Two.\nC. Three."
    )
    assert prompts["fgrlhf"][0].prompt[0].content == (
        "A question on bloom?\n\n[1] Bloom\nBloom is an album. It came out.\n\n[2] Garden"
    )
    assert prompts["humanevalpack"][0].responses[0] == "def f():\n    return 0  # (quality 2)\n"
    assert prompts["tulu-3-preference-mix"][2].prompt[0].role == "user"  # an empty system message is none
    assert prompts["nectar"][0].category == "lmsys-chat-1m"


def test_answers_that_were_not_judged() -> None:
    mmlu = next(item for item in items("mmlu-pro-responses") if isinstance(item, Judged))
    assert len(mmlu.comparison.responses) == 3 and math.isnan(mmlu.judgements[0].scores[2])
