"""MMLU-Pro answers: pairs of a right and a wrong answer to one question, told apart by the answer key.

Wang et al., "MMLU-Pro: a more robust and challenging multi-task language understanding benchmark", NeurIPS 2024.
12,032 questions of up to ten options in 14 categories; chain-of-thought answers of 29 models, five-shot, each right
or wrong by the letter that it ends on. Folder:

    questions.jsonl.xz   a line a question: question_id, question, options, answer (a letter), category
    responses.jsonl.xz   a line a question: question_id, responses [{model, pred, correct, text}]

From answers to pairs:

1. Answers are cut where a base model goes on with a question of its own. Left out: no parsed letter, too short
   (a letter and no reasoning), too long, not saying "the answer is (X)" with the parsed letter and no other.
2. Questions that share 13 words in a row (text and options) form a group, and groups are dealt to train, validation
   and test by a hash: no test question shares a 13-gram with a training question.
3. Pairs are matched within their question: length within a caliper; then pairs are chosen, in each split, so that
   length, markdown, set phrases and the letter answered are balanced between right and wrong
   (rewardscale/data/matching.py), and on request which model answered. By default no answer is in two pairs; with
   pairs_per_answer=29, pairs_per_question=200 and caliper=2 there are 560,000 pairs, of 200,000 answers.

Not balanced by default: the model. Its name alone would find the right answer of about 70 % of the pairs, and that
much of "who wrote this" as can be read off the words is there to learn, as in any real set. With `match_models` it
is not, and then a model that does not read the question has next to nothing to learn.

Do not evaluate on JudgeBench (255 of its 308 MMLU-Pro questions are here) or on PPE Correctness what was trained
on this set: both are made of MMLU-Pro questions.
"""

import dataclasses
import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from rewardscale.config import ObjectiveConfig
from rewardscale.data.comparison import Comparison, DataError, Message
from rewardscale.data.matching import Candidates, balanced, cue_accuracy
from rewardscale.data.overlap import connected, overlapping
from rewardscale.data.sources.formats import whole_records

SOURCE = "mmlu-pro-responses"
SPLITS = ("train", "validation", "test")
LETTERS = "ABCDEFGHIJ"
ABOUT = {
    "source": SOURCE,
    "repository": "https://github.com/TIGER-AI-Lab/MMLU-Pro",
    "commit": "f418b116db00b065c2aea046518d8fcf74d39872",
    "licence": "Apache-2.0; the models' answers are also under each model provider's terms",
    "contaminates": "JudgeBench, PPE Correctness (made of MMLU-Pro questions)",
}
STYLE = (
    *("characters", "words"),  # logarithms
    # log(1 + count), and whether there is any
    *("lines", "paragraphs", "list items", "numbered items", "headers", "bold", "LaTeX", "code"),
    *("options named", "let's think", "wikipedia", "closing phrase"),
)

_QUESTIONS, _RESPONSES = "questions.jsonl.xz", "responses.jsonl.xz"
_OF_LABELS = ("flip_rate", "judge_accuracy")  # what makes levels of the pairs and no pairs
_COIN, _HERD = 0xC011, 0x4E6D  # streams of one seed
_NEXT_QUESTION = re.compile(r"\n\s*(?:Question|Options|Q):")
_STATED = re.compile(r"answer is:?\s*\**\s*\(?([A-J])\b")
_OPTION = re.compile(r"\b[A-J]\)")
_ITEM, _NUMBERED = re.compile(r"\n *[-*•+] "), re.compile(r"\n *\d+[.)] ")
_CLOSING = ("final answer", "therefore, the answer", "thus, the answer", "so the answer")
Progress = Callable[[str, int, int], None]  # (what, done, total)


@dataclasses.dataclass(frozen=True)
class Objective:
    """Right-wrong pairs, a row a pair, ordered by (question, the right answer's model).

    Attributes:
      comparisons: [rows]; prompt: question and options as one user message; responses: two answers, a coin says
        which comes first; category: the question's; group: "q<lowest question id of its 13-gram group>"; split.
      columns: manifest columns, each a Series [rows]: `right` (int8, +1 if the first answer is right, -1 if the
        second), `question_id`, `model_1`, `model_2`.
      about: ABOUT, counts of what was left out, and what the matching reached a split: `longer_is_right` (ties
        count half), `imbalance` (largest mean difference of a matched feature, in its standard deviations);
        `cues`: accuracy on test pairs of a logistic regression on these features alone, fitted on train.
    """

    comparisons: list[Comparison]
    columns: Mapping[str, Any]
    about: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class _Question:
    text: str
    words: str  # question and options, without the options' letters
    answer: str
    category: str


@dataclasses.dataclass(frozen=True, slots=True)
class _Answer:
    model: str
    right: bool
    letter: str
    text: str


@dataclasses.dataclass(frozen=True)
class _Offer:
    """A question's answers and the pairs they allow; differences not yet standardised."""

    question: int
    answers: list[_Answer]
    candidates: Candidates


@dataclasses.dataclass(frozen=True)
class _Features:
    """Where each cue lies among the features of an answer."""

    models: tuple[str, ...]

    @property
    def slices(self) -> dict[str, slice]:
        style = 2 * len(STYLE) - 1  # two logarithms, counts and presences, the sign of the length
        return {
            "style": slice(0, style),
            "letters": slice(style, style + len(LETTERS)),
            "models": slice(style + len(LETTERS), style + len(LETTERS) + len(self.models)),
        }


def read(data_dir: Path, config: ObjectiveConfig, *, progress: Progress | None = None) -> Objective:
    """Reads the set from `data_dir` (its folder or that folder's parent) and makes pairs; the same for a seed.

    Raises:
      DataError: the files are not there, damaged (it names file and line), or give no pairs for some split.
    """
    folder = _find(Path(data_dir))
    tell = progress or (lambda what, done, total: None)
    questions = _questions(folder)
    counts: Counter[str] = Counter(questions=len(questions))
    answers = _answers(folder, questions, config, counts, tell)
    group = _groups(questions)
    counts["questions in 13-gram groups"] = sum(n for n in Counter(group.values()).values() if n > 1)
    features = _Features(tuple(sorted({a.model for own in answers.values() for a in own})))
    offers = _offers(answers, features, config, tell)
    counts["questions with pairs"] = len(offers)
    counts["pairs within the caliper"] = sum(len(o.candidates.right) for o in offers)
    chosen, reached = _choose(offers, group, features, config, tell)
    made_by = {k: v for k, v in dataclasses.asdict(config).items() if k not in _OF_LABELS}
    about = ABOUT | {"counts": dict(counts), "matching": reached, "config": made_by}
    about["contamination"] = _contamination(chosen, questions)
    return _assemble(chosen, questions, group, config, about)


def prompt(question: str, options: Sequence[str]) -> str:
    """The user message that is answered."""
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]
    return "\n".join([question, *lines])


def style(text: str) -> list[float]:
    """The features that are matched: float [2 * len(STYLE) - 2], in the order of STYLE, presences last."""
    body, lower = "\n" + text, text.lower()
    lines = text.count("\n")
    counts = (
        lines,
        text.count("\n\n"),
        len(_ITEM.findall(body)) if "\n" in text or text[:1] in "-*•+" else 0,
        len(_NUMBERED.findall(body)) if "\n" in text or text[:1].isdigit() else 0,
        body.count("\n#"),
        text.count("**"),
        text.count("\\") + text.count("$"),
        text.count("`"),
        len(_OPTION.findall(text)),
        lower.count("let's think"),
        lower.count("refer to wikipedia"),
        sum(lower.count(phrase) for phrase in _CLOSING),
    )
    sizes = (math.log(max(1, len(text))), math.log(max(1, len(text.split()))))
    return [*sizes, *map(math.log1p, counts), *(float(count > 0) for count in counts)]


# --- files -------------------------------------------------------------------------------------------


def _find(data_dir: Path) -> Path:
    for folder in (data_dir, data_dir / SOURCE):
        if (folder / _QUESTIONS).is_file() or (folder / _RESPONSES).is_file():
            for name in (_QUESTIONS, _RESPONSES):
                if not (folder / name).is_file():
                    raise DataError(f"{folder / name} is missing beside its other half; fetch the set again")
            return folder
    absent = "" if data_dir.is_dir() else " (there is no such directory)"
    raise DataError(
        f"The MMLU-Pro answers are not in {data_dir}{absent}: looked for {_QUESTIONS} and {_RESPONSES} there and in "
        f"its folder {SOURCE}/; point --data_dir=DIR or the environment variable REWARDSCALE_DATA at the folder "
        f"that holds them"
    )


def _questions(folder: Path) -> dict[int, _Question]:
    questions: dict[int, _Question] = {}
    for where, record in whole_records(folder / _QUESTIONS):
        identity, options = record.get("question_id"), record.get("options")
        if type(identity) is not int or identity in questions:
            raise DataError(f"{where}: `question_id` must be an integer not seen before, found {identity!r}")
        if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
            raise DataError(f"{where}: `options` must be a list of texts")
        answer = record.get("answer")
        if answer not in tuple(LETTERS[: len(options)]):
            raise DataError(f"{where}: `answer` must be the letter of an option, found {answer!r}")
        asked = _text(record, "question", where)
        words, category = " ".join([asked, *options]), _text(record, "category", where)
        questions[identity] = _Question(prompt(asked, options), words, str(answer), category)
    return questions


def _answers(
    folder: Path,
    questions: Mapping[int, _Question],
    config: ObjectiveConfig,
    counts: Counter[str],
    tell: Progress,
) -> dict[int, list[_Answer]]:
    """Usable answers a question, each text once; what is left out is counted."""
    out: dict[int, list[_Answer]] = {}
    for number, (where, record) in enumerate(whole_records(folder / _RESPONSES), start=1):
        identity, responses = record.get("question_id"), record.get("responses")
        if type(identity) is not int or identity not in questions or identity in out:
            raise DataError(f"{where}: `question_id` {identity!r} is not in {_QUESTIONS}, or is there twice")
        if not isinstance(responses, list) or not all(isinstance(r, dict) for r in responses):
            raise DataError(f"{where}: `responses` must be a list of objects")
        kept: dict[str, _Answer] = {}
        for response in responses:
            answer, why = _usable(response, questions[identity].answer, config, where)
            if answer is not None and answer.text in kept:
                why = "answers left out: the same words as another"
            elif answer is not None:
                kept[answer.text] = answer
            counts.update(["answers", why])
        out[identity] = list(kept.values())
        if not number % 500 or number == len(questions):
            tell("answers", number, len(questions))
    return out


def _usable(
    response: Mapping[str, Any], key: str, config: ObjectiveConfig, where: str
) -> tuple[_Answer | None, str]:
    """The answer, cut, or None, and what to count it as."""
    letter, right, text = response.get("pred"), response.get("correct"), response.get("text")
    if not isinstance(right, bool) or not isinstance(text, str) or (letter == key) is not right:
        raise DataError(
            f"{where}: a response needs a `text` and a `correct` that says whether `pred` {letter!r} is "
            f"the key's {key!r}"
        )
    if letter is None:
        return None, "answers left out: no parsed letter"
    text = _NEXT_QUESTION.split(text, maxsplit=1)[0].strip()
    if len(text) < config.shortest:
        return None, "answers left out: too short"
    if len(text.split()) > config.longest:
        return None, "answers left out: too long"
    if set(_STATED.findall(text)) != {letter}:
        return None, "answers left out: no letter stated, or several"
    return _Answer(_text(response, "model", where), right, letter, text), "answers kept"


def _text(record: Mapping[str, Any], key: str, where: str) -> str:
    value = record.get(key)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: `{key}` must be a text that is not empty, found {value!r}")
    return value.strip()


# --- splits ------------------------------------------------------------------------------------------


def _groups(questions: Mapping[int, _Question]) -> dict[int, int]:
    """The lowest question id among those linked to each question by shared 13-grams."""
    order = sorted(questions)
    lowest = connected([questions[identity].words for identity in order])
    return {identity: order[low] for identity, low in zip(order, lowest, strict=True)}


def _split(group: int, config: ObjectiveConfig) -> str:
    digest = hashlib.blake2b(f"{config.seed}:{group}".encode(), digest_size=8).digest()
    share = int.from_bytes(digest, "little") / 2**64
    if share < config.test:
        return "test"
    return "validation" if share < config.test + config.validation else "train"


def _contamination(
    chosen: Sequence[tuple[_Offer, int, str]], questions: Mapping[int, _Question]
) -> dict[str, int]:
    """How many questions the chosen pairs have, and how many share a 13-gram with another split's: looked for anew."""
    by_split = {name: sorted({o.question for o, _, split in chosen if split == name}) for name in SPLITS}
    words = {name: [questions[identity].words for identity in own] for name, own in by_split.items()}
    train, validation, test = (words[name] for name in SPLITS)
    shared = overlapping(validation, train).sum() + overlapping(test, train + validation).sum()
    counts = {f"{name} questions": len(own) for name, own in by_split.items()}
    return counts | {"held-out questions that share a 13-gram with another split": int(shared)}


# --- matching ----------------------------------------------------------------------------------------


def _offers(
    answers: Mapping[int, list[_Answer]], features: _Features, config: ObjectiveConfig, tell: Progress
) -> list[_Offer]:
    offers = []
    for number, identity in enumerate(sorted(answers), start=1):
        own = answers[identity]
        candidates = _candidates(own, features, config) if len({a.right for a in own}) == 2 else None
        if candidates is not None and len(candidates.right):
            offers.append(_Offer(identity, own, candidates))
        if not number % 500 or number == len(answers):
            tell("features", number, len(answers))
    return offers


def _candidates(answers: list[_Answer], features: _Features, config: ObjectiveConfig) -> Candidates:
    """All right-wrong pairs whose lengths are within the caliper."""
    is_right = np.array([a.right for a in answers])
    right, wrong = (
        side.ravel()
        for side in np.meshgrid(np.flatnonzero(is_right), np.flatnonzero(~is_right), indexing="ij")
    )
    styles = np.array([style(a.text) for a in answers])
    near = np.abs(styles[right, 0] - styles[wrong, 0]) <= math.log(config.caliper)
    right, wrong = right[near], wrong[near]
    letters = np.array([[float(a.letter == letter) for letter in LETTERS] for a in answers])
    models = np.array([[float(a.model == model) for model in features.models] for a in answers])
    values = np.concatenate([styles, letters, models], axis=1)
    difference = values[right] - values[wrong]
    longer = np.sign(difference[:, :1])
    at = styles.shape[1]
    return Candidates(right, wrong, np.concatenate([difference[:, :at], longer, difference[:, at:]], axis=1))


def _choose(
    offers: list[_Offer],
    group: Mapping[int, int],
    features: _Features,
    config: ObjectiveConfig,
    tell: Progress,
) -> tuple[list[tuple[_Offer, int, str]], dict[str, Any]]:
    """(offer, its candidate, split) of each pair chosen, and what the matching reached."""
    if not offers:
        raise DataError(
            "no question has a right and a wrong answer of like length; raise data.objective.caliper"
        )
    scale = _scale(offers)
    cues = features.slices
    matched = slice(0, cues["models" if config.match_models else "letters"].stop)
    shares = dict(
        zip(SPLITS, (1 - config.validation - config.test, config.validation, config.test), strict=True)
    )
    chosen, differences, reached = [], {}, {}
    for number, (name, share) in enumerate(shares.items()):
        own = [o for o in offers if _split(group[o.question], config) == name]
        standard = [_matchable(o.candidates, matched, scale) for o in own]
        wanted = round(share * config.max_pairs)
        pairs = balanced(
            standard,
            wanted=wanted,
            rounds=config.pairs_per_question,
            seed=(_HERD, config.seed, number),
            uses=config.pairs_per_answer,
            progress=lambda done, name=name, wanted=wanted: tell(f"matching {name}", done, wanted),
        )
        if not pairs:
            raise DataError(
                f"no pair is left for the split {name!r}; raise its share or data.objective.max_pairs"
            )
        chosen += [(own[index], candidate, name) for index, candidate in pairs]
        differences[name] = np.array([own[index].candidates.difference[c] for index, c in pairs]) / scale
        reached[name] = _reached(differences[name], matched, cues)
    reached["cues"] = {
        name: cue_accuracy(differences["train"][:, columns], differences["test"][:, columns])
        for name, columns in cues.items()
    }
    return chosen, reached


def _scale(offers: list[_Offer]) -> np.ndarray:
    """Root mean square of each feature's difference over all candidates; 1 where it never differs."""
    squares = sum((o.candidates.difference**2).sum(0) for o in offers)
    rms = np.sqrt(squares / sum(len(o.candidates.right) for o in offers))
    return np.where(rms > 0, rms, 1.0)


def _matchable(candidates: Candidates, matched: slice, scale: np.ndarray) -> Candidates:
    return dataclasses.replace(candidates, difference=(candidates.difference / scale)[:, matched])


def _reached(difference: np.ndarray, matched: slice, cues: Mapping[str, slice]) -> dict[str, float]:
    longer = difference[:, cues["style"].stop - 1]
    return {
        "pairs": len(difference),
        "longer_is_right": float(((longer > 0) + 0.5 * (longer == 0)).mean()),
        "imbalance": float(np.abs(difference[:, matched].mean(0)).max()),
    }


def _assemble(
    chosen: list[tuple[_Offer, int, str]],
    questions: Mapping[int, _Question],
    group: Mapping[int, int],
    config: ObjectiveConfig,
    about: Mapping[str, Any],
) -> Objective:
    chosen = sorted(chosen, key=lambda pair: (pair[0].question, pair[0].candidates.right[pair[1]]))
    coins = np.random.default_rng([_COIN, config.seed]).choice([1, -1], len(chosen))
    comparisons, models = [], []
    for (offer, index, split), coin in zip(chosen, coins, strict=True):
        right = offer.answers[offer.candidates.right[index]]
        wrong = offer.answers[offer.candidates.wrong[index]]
        first, second = (right, wrong) if coin > 0 else (wrong, right)
        question = questions[offer.question]
        comparisons.append(
            Comparison(
                prompt=(Message("user", question.text),),
                responses=(first.text, second.text),
                source=SOURCE,
                split=split,
                category=question.category,
                group=f"q{group[offer.question]}",
            )
        )
        models.append((first.model, second.model))
    columns = {
        "right": pl.Series(coins, dtype=pl.Int8),
        "question_id": pl.Series([offer.question for offer, _, _ in chosen], dtype=pl.Int64),
        "model_1": pl.Series([first for first, _ in models], dtype=pl.String),
        "model_2": pl.Series([second for _, second in models], dtype=pl.String),
    }
    return Objective(comparisons, columns, about)
