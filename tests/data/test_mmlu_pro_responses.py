"""MMLU-Pro answers: what becomes a pair, matching, splits, damage named; the real set's counts."""

import dataclasses
import json
import lzma
import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from rewardscale.config import ConfigError, DataConfig, ObjectiveConfig
from rewardscale.data.comparison import DataError
from rewardscale.data.overlap import ngrams
from rewardscale.data.sources import mmlu_pro_responses as mmlu
from rewardscale.sweeps import configfile, datasets

MODELS = [f"model-{i}" for i in range(8)]
CONFIG = ObjectiveConfig(max_pairs=300, validation=0.25, test=0.25)


def question(identity: int, random: np.random.Generator) -> dict:
    stem = " ".join(f"q{identity}w{i}" for i in range(int(random.integers(6, 20))))
    options = [f"option {identity} {letter}" for letter in "ABCD"]
    record = {"question_id": identity, "question": stem, "options": options, "answer": "ABCD"[identity % 4]}
    return record | {"category": ("math", "law")[identity % 2], "src": "made"}


def response(key: str, model: str, random: np.random.Generator) -> dict:
    """An answer whose right version tends to be longer, bolder and by a later model."""
    strength = MODELS.index(model) / len(MODELS)
    right = bool(random.random() < 0.2 + 0.6 * strength)
    letter = key if right else str(random.choice([x for x in "ABCD" if x != key]))
    length = int(random.integers(18, 40) + 6 * right)
    words = [f"t{random.integers(500)}" for _ in range(length)]
    if random.random() < 0.3 + 0.3 * right:
        words[3] = f"**{words[3]}**"
    text = f" {' '.join(words)}. The answer is ({letter}).\n\n"
    return {"model": model, "pred": letter, "correct": right, "text": text}


def made(questions: int = 120, seed: int = 0) -> tuple[list[dict], list[dict]]:
    random = np.random.default_rng(seed)
    asked = [question(identity, random) for identity in range(100, 100 + questions)]
    answered = [
        {
            "question_id": q["question_id"],
            "responses": [response(q["answer"], model, random) for model in MODELS],
        }
        for q in asked
    ]
    return asked, answered


def write(folder: Path, asked: list[dict], answered: list[dict]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, records in (("questions", asked), ("responses", answered)):
        with lzma.open(folder / f"{name}.jsonl.xz", "wt", encoding="utf-8", preset=0) as file:
            file.writelines(json.dumps(record) + "\n" for record in records)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data") / "mmlu-pro-responses", *made())


@pytest.fixture(scope="module")
def pairs(folder: Path) -> mmlu.Objective:
    return mmlu.read(folder, CONFIG)


def sides(pairs: mmlu.Objective) -> list[tuple[str, str]]:
    """(right, wrong) texts."""
    ordered = zip(pairs.comparisons, pairs.columns["right"], strict=True)
    return [c.responses if right > 0 else c.responses[::-1] for c, right in ordered]  # type: ignore[misc]


def test_the_key_says_which_answer_is_right(pairs: mmlu.Objective):
    keys = {q["question_id"]: q["answer"] for q in made()[0]}
    assert len(pairs.comparisons) > 100
    for (right, wrong), identity in zip(sides(pairs), pairs.columns["question_id"], strict=True):
        assert right.endswith(f"The answer is ({keys[identity]}).")
        assert not wrong.endswith(f"The answer is ({keys[identity]}).")
    assert 0.3 < (pairs.columns["right"] > 0).mean() < 0.7


def test_a_comparison_in_full(pairs: mmlu.Objective):
    first, asked = pairs.comparisons[0], {q["question_id"]: q for q in made()[0]}
    own = asked[pairs.columns["question_id"][0]]
    options = "".join(f"\n{letter}. {option}" for letter, option in zip("ABCD", own["options"], strict=True))
    assert [(m.role, m.content) for m in first.prompt] == [("user", own["question"] + options)]
    assert (first.source, first.category) == ("mmlu-pro-responses", own["category"])
    assert first.group == f"q{own['question_id']}" and first.split in mmlu.SPLITS


def test_lengths_lie_within_the_caliper_and_no_answer_is_in_two_pairs(pairs: mmlu.Objective):
    for right, wrong in sides(pairs):
        assert max(len(right), len(wrong)) <= CONFIG.caliper * min(len(right), len(wrong)) + 1e-9
    models = [pairs.columns[name].to_list() for name in ("model_1", "model_2")]
    identities = pairs.columns["question_id"].to_list()
    used = [*zip(identities, models[0], strict=True), *zip(identities, models[1], strict=True)]
    assert len(set(used)) == len(used)
    assert max(np.unique(identities, return_counts=True)[1]) <= CONFIG.pairs_per_question


def test_cues_are_balanced_where_they_were_not(pairs: mmlu.Objective):
    everything = [
        (len(a["text"]), len(b["text"]))
        for q in made()[1]
        for a in q["responses"]
        for b in q["responses"]
        if a["correct"] and not b["correct"]
    ]
    assert np.mean([right > wrong for right, wrong in everything]) > 0.6  # the cue was there
    lengths = np.array([[len(right), len(wrong)] for right, wrong in sides(pairs)])
    difference = np.sign(lengths[:, 0] - lengths[:, 1])
    assert abs(difference.mean()) < 0.12
    assert lengths[:, 0].mean() == pytest.approx(lengths[:, 1].mean(), rel=0.02)
    reached = [pairs.about["matching"][split] for split in mmlu.SPLITS]
    longer = sum(r["longer_is_right"] * r["pairs"] for r in reached) / sum(r["pairs"] for r in reached)
    assert longer == pytest.approx((1 + difference.mean()) / 2)  # what is reported is what was made


def test_models_are_balanced_on_request_only(folder: Path, pairs: mmlu.Objective):
    def strength(of: mmlu.Objective) -> float:
        numbers = [[MODELS.index(m) for m in of.columns[f"model_{i}"]] for i in (1, 2)]
        return float(np.mean((np.array(numbers[0]) - numbers[1]) * of.columns["right"].to_numpy()))

    matched = mmlu.read(folder, dataclasses.replace(CONFIG, match_models=True))
    assert strength(pairs) > 1 and abs(strength(matched)) < strength(pairs) / 2


def test_splits_share_no_question_and_all_are_there(pairs: mmlu.Objective):
    by_split = {split: {c.group for c in pairs.comparisons if c.split == split} for split in mmlu.SPLITS}
    assert all(by_split.values())
    assert sum(map(len, by_split.values())) == len(set.union(*by_split.values()))


def test_questions_that_share_thirteen_words_stay_together(tmp_path: Path):
    asked, answered = made(60)
    common = " ".join(f"shared{i}" for i in range(13))
    for q in asked[10:30]:
        q["question"] = f"{q['question']} {common}"
    linked = {q["question_id"] for q in asked[10:30]}
    pairs = mmlu.read(write(tmp_path, asked, answered), ObjectiveConfig(test=0.3, validation=0.3, seed=3))
    own = [
        c
        for c, identity in zip(pairs.comparisons, pairs.columns["question_id"], strict=True)
        if identity in linked
    ]
    assert len(own) > 10 and {c.group for c in own} == {"q110"} and len({c.split for c in own}) == 1
    assert pairs.about["counts"]["questions in 13-gram groups"] == 20


def test_the_same_seed_gives_the_same_pairs(folder: Path, pairs: mmlu.Objective):
    again = mmlu.read(folder.parent, CONFIG)  # the parent folder will do
    assert again.comparisons == pairs.comparisons and again.about == pairs.about
    assert pl.DataFrame(again.columns).equals(pl.DataFrame(pairs.columns))
    other = mmlu.read(folder, dataclasses.replace(CONFIG, seed=1))
    assert other.comparisons != pairs.comparisons


LONG = "so much to say about this and that and then some more again to fill the line."


@pytest.mark.parametrize(
    ("text", "letter", "kept"),
    [
        (f"{LONG} The answer is (B).\n\nQuestion: what next? The answer is (A).", "B", True),
        (f"{LONG} The answer is B.", "B", True),
        ("The answer is (B).", "B", False),  # no reasoning
        (f"{LONG} The answer is (A). No, the answer is (B).", "B", False),
        (f"{LONG} I do not know.", "B", False),
        (f"{LONG} The answer is (B).", None, False),
        (f"{LONG * 20} The answer is (B).", "B", False),  # too long
    ],
)
def test_which_answers_are_used(tmp_path: Path, text: str, letter: str | None, kept: bool):
    asked, answered = made(60)
    odd = {"model": "odd", "pred": letter, "correct": letter == asked[0]["answer"], "text": text}
    before = mmlu.read(write(tmp_path / "a", asked, answered), CONFIG).about["counts"]
    answered[0]["responses"].append(odd)
    after = mmlu.read(write(tmp_path / "b", asked, answered), CONFIG).about["counts"]
    assert after["answers"] == before["answers"] + 1
    assert after["answers kept"] == before["answers kept"] + kept


def test_more_pairs_where_an_answer_may_be_in_several(folder: Path, pairs: mmlu.Objective):
    config = dataclasses.replace(CONFIG, max_pairs=10_000, pairs_per_question=20, pairs_per_answer=3)
    more = mmlu.read(folder, config)
    assert len(more.comparisons) > 1.5 * len(pairs.comparisons)
    used = Counter(
        (identity, model)
        for name in ("model_1", "model_2")
        for identity, model in zip(more.columns["question_id"], more.columns[name], strict=True)
    )
    assert 2 <= max(used.values()) <= 3
    matching = more.about["matching"]["train"]
    # sixty questions of a cue that finds the right answer of more than 0.6 of all pairs
    assert matching["longer_is_right"] == pytest.approx(0.5, abs=0.05) and matching["imbalance"] < 0.1


def test_contamination_is_looked_for_and_not_assumed(
    folder: Path, tmp_path: Path, pairs: mmlu.Objective, monkeypatch: pytest.MonkeyPatch
):
    count = "held-out questions that share a 13-gram with another split"
    found = pairs.about["contamination"]
    assert found[count] == 0
    assert found["train questions"] == len({c.group for c in pairs.comparisons if c.split == "train"})
    asked, answered = made(60)
    for q in asked[10:30]:
        q["question"] = " ".join(f"shared{i}" for i in range(13))
    monkeypatch.setattr(mmlu, "_groups", lambda questions: {identity: identity for identity in questions})
    leaking = mmlu.read(write(tmp_path, asked, answered), ObjectiveConfig(test=0.3, validation=0.3, seed=3))
    assert leaking.about["contamination"][count] > 5


@pytest.mark.parametrize("exists", [True, False])
def test_missing_data_says_what_was_looked_for(tmp_path: Path, exists: bool):
    where = tmp_path if exists else tmp_path / "absent"
    with pytest.raises(DataError) as error:
        mmlu.read(where, CONFIG)
    for expected in (
        str(where),
        "questions.jsonl.xz",
        "responses.jsonl.xz",
        "--data_dir=",
        "REWARDSCALE_DATA",
    ):
        assert expected in str(error.value)
    assert ("no such directory" in str(error.value)) != exists


@pytest.mark.parametrize("half", ["questions.jsonl.xz", "responses.jsonl.xz"])
def test_other_half_missing(tmp_path: Path, half: str):
    write(tmp_path, *made(5))
    (tmp_path / half).unlink()
    with pytest.raises(DataError, match=f"{re.escape(half)} is missing"):
        mmlu.read(tmp_path, CONFIG)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("questions", '"question_id": 102', '"question_id": 101', "question_id.*101"),
        ("questions", '"answer": "C"', '"answer": "E"', "`answer`.*'E'"),
        ("questions", '"options": [', '"options": [1, ', "options"),
        ("questions", '"category": "math"', '"category": ""', "category"),
        ("questions", '{"question_id"', '{question_id"', "not JSON"),
        ("responses", '"question_id": 102', '"question_id": 999', "999"),
        ("responses", '"responses": [', '"responses": [3, ', "responses"),
        ("responses", '"correct": ', '"correct": 1, "was": ', "correct"),
        ("responses", '"pred": "', '"pred": "Z', "'Z"),
        ("responses", '"model": "model-0"', '"model": 7', "model"),
    ],
)
def test_malformed_line_is_named(tmp_path: Path, name: str, old: str, new: str, message: str):
    path = write(tmp_path, *made(5)) / f"{name}.jsonl.xz"
    lines = lzma.decompress(path.read_bytes()).decode().splitlines()
    assert old in lines[2]
    lines[2] = lines[2].replace(old, new)
    path.write_bytes(lzma.compress("\n".join(lines).encode()))
    with pytest.raises(DataError, match=rf"{name}\.jsonl\.xz, line 3.*{message}"):
        mmlu.read(tmp_path, CONFIG)


def test_truncated_file_is_named(tmp_path: Path):
    path = write(tmp_path, *made(5)) / "responses.jsonl.xz"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"responses\.jsonl\.xz is damaged after line"):
        mmlu.read(tmp_path, CONFIG)


def test_a_set_too_small_for_its_splits_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="split"):
        mmlu.read(write(tmp_path, *made(2)), CONFIG)


@pytest.mark.parametrize(
    "values",
    [
        {"caliper": 1.0},
        {"validation": 0.5, "test": 0.5},
        {"max_pairs": 0},
        {"pairs_per_answer": 0},
        {"flip_rate": 0.5},
        {"judge_accuracy": 1.1},
    ],
)
def test_impossible_config_is_refused(values):
    with pytest.raises(ConfigError, match=next(iter(values))):
        ObjectiveConfig(**values)


def test_as_a_source_of_sweeps(folder: Path, pairs: mmlu.Objective, tmp_path: Path):
    config = DataConfig(source="objective", objective=CONFIG)
    with pytest.raises(DataError, match="--data_dir"):
        datasets.prepare(config, tmp_path, None)
    dataset = datasets.prepare(config, tmp_path, folder)
    assert list(dataset.corpus) == pairs.comparisons
    key, flipped = dataset.level("key", 0), dataset.level("key+flip0.2", 0)
    assert key.orientation.tolist() == pairs.columns["right"].to_list()
    assert 0 < (key.orientation != flipped.orientation).mean() < 0.4
    splits = np.array([c.split for c in pairs.comparisons])
    sets = dataset.evaluations(-1)
    assert set(splits[dataset.pool(-1)]) == {"train"}
    assert set(splits[sets["key"].pairs.rows]) == {"test"}
    assert all(set(splits[e.calibration.rows]) == {"validation"} for e in sets.values())
    with pytest.raises(ConfigError, match="'key'"):
        dataset.level("keys", 0)


def test_a_judge_of_another_accuracy_judges_the_same_pairs(folder: Path, tmp_path: Path):
    made_by = [
        datasets.prepare(DataConfig(source="objective", objective=objective), tmp_path, folder)
        for objective in (CONFIG, dataclasses.replace(CONFIG, flip_rate=0.1, judge_accuracy=1.0))
    ]
    assert made_by[0].corpus.fingerprint == made_by[1].corpus.fingerprint
    assert made_by[0].levels() == ["key", "raw", "filtered", "corrected", "gold", "random_matched"]
    first, perfect = ({name: of.level(name, 0) for name in of.levels()} for of in made_by)
    assert (perfect["corrected"].orientation == perfect["key"].orientation).all()
    assert (first["gold"].orientation == first["key"].orientation).all()
    wrong = [(level["raw"].orientation != level["key"].orientation).mean() for level in (first, perfect)]
    assert 0.2 < wrong[0] < 0.4 and 0.03 < wrong[1] < 0.2
    assert first["raw"].about["judge"] == "simulated-independent-judge"


# --- the real set ------------------------------------------------------------------------------------


def real_data() -> Path | None:
    beside = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    for folder in (os.environ.get("REWARDSCALE_DATA"), beside):
        if folder and (Path(folder) / "mmlu-pro-responses" / "responses.jsonl.xz").is_file():
            return Path(folder)
    return None


@pytest.mark.slow
@pytest.mark.skipif(
    real_data() is None, reason="set REWARDSCALE_DATA to the folder that holds mmlu-pro-responses/"
)
def test_the_real_set():
    folder = real_data()
    assert folder is not None
    pairs = mmlu.read(folder, ObjectiveConfig())
    counts, matching = pairs.about["counts"], pairs.about["matching"]
    assert counts["questions"] == 12_032 and counts["answers"] == 346_992
    assert counts["answers left out: no parsed letter"] == 32_696
    assert counts["answers kept"] + sum(n for k, n in counts.items() if "left out" in k) == 346_992
    assert counts["questions in 13-gram groups"] == 1_521
    size = {split: matching[split]["pairs"] for split in mmlu.SPLITS}
    assert size["train"] > 20_000 and size["validation"] > 3_000 and size["test"] > 5_000
    for split in mmlu.SPLITS:
        assert abs(matching[split]["longer_is_right"] - 0.5) < 0.01 and matching[split]["imbalance"] < 0.01
    assert all(abs(matching["cues"][cue] - 0.5) < 0.02 for cue in ("style", "letters"))
    assert 0.6 < matching["cues"]["models"] < 0.8  # not matched by default, and a cue
    grams: dict[str, set] = {split: set() for split in mmlu.SPLITS}
    for split, text in {(c.split, c.prompt[0].content) for c in pairs.comparisons}:
        grams[split] |= {hash(gram) for gram in ngrams(re.sub(r"\n[A-J]\. ", "\n", text))}
    assert not grams["train"] & (grams["test"] | grams["validation"])
    assert not grams["validation"] & grams["test"]


@pytest.mark.slow
@pytest.mark.skipif(
    real_data() is None, reason="set REWARDSCALE_DATA to the folder that holds mmlu-pro-responses/"
)
def test_the_real_set_at_scale():
    folder = real_data()
    assert folder is not None
    config = configfile.load("sweep.py:objective", {})[0].data.objective
    about = mmlu.read(folder, config).about
    matching = about["matching"]
    assert matching["train"]["pairs"] == 472_465 and matching["test"]["pairs"] == 62_867
    for split in mmlu.SPLITS:
        assert abs(matching[split]["longer_is_right"] - 0.5) < 0.001 and matching[split]["imbalance"] < 0.002
    assert all(abs(matching["cues"][cue] - 0.5) < 0.01 for cue in ("style", "letters"))
    assert about["contamination"]["held-out questions that share a 13-gram with another split"] == 0
