"""Benchmarks as a step of a sweep: each transformer, once trained, scores their texts under the sweep's own tokenizer.

<workdir>/benchmarks/<hash>/corpus     the texts, two responses to one prompt a comparison, and their tokens
<workdir>/runs/<run id>/benchmarks.json  benchmark_rewards.parquet     what a run's model made of them

They enter no run id: a run that is done already is restored from its last checkpoint and scores them then.
"""

import dataclasses
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from rewardscale import atomic
from rewardscale.config import ConfigError, SweepConfig, content_hash
from rewardscale.data import rows as tree_rows
from rewardscale.data import templates
from rewardscale.data.comparison import Comparison, DataError
from rewardscale.data.corpus import open_corpus, write_corpus
from rewardscale.data.tokenised import TokenisedView, build_view
from rewardscale.evaluation import statistics
from rewardscale.evaluation.benchmarks import planted
from rewardscale.evaluation.benchmarks.base import Benchmark
from rewardscale.evaluation.benchmarks.registry import load_all
from rewardscale.evaluation.texts import Group, Texts, union
from rewardscale.models.presets import is_convex
from rewardscale.sweeps.sources.base import Dataset

TOO_LONG = "a response leaves no room for a prompt within recipe.max_length"
ScoreRows = Callable[[TokenisedView, np.ndarray], np.ndarray]  # view, uint32 [n] -> float32 [n, 2]


@dataclasses.dataclass(frozen=True)
class Prepared:
    """The benchmarks' texts, tokenised.

    Attributes:
      benchmarks, texts: as read. view: of the comparisons.
      places: int64 [comparisons, 2], which text each response is.
      refused: why the other texts cannot be scored, by place.
      fingerprint: hash of all that a model's scores on them depend on.
    """

    benchmarks: tuple[Benchmark, ...]
    texts: Texts
    view: TokenisedView
    places: np.ndarray
    refused: Mapping[int, str]
    fingerprint: str


def prepare(config: SweepConfig, dataset: Dataset, workdir: Path, data_dir: Path | None) -> "Prepared | None":
    """Reads and tokenises the benchmarks that a sweep names, or opens them where that is done; None without any.

    Two processes may call it at once. Raises ConfigError where the sweep's models cannot read them, DataError for a
    benchmark that is unknown or not in `data_dir`.
    """
    if not config.benchmarks:
        return None
    own = [name for name in config.benchmarks if name in planted.NAMES]
    others = [name for name in config.benchmarks if name not in own]
    _check(config, dataset, own, others)
    made = [planted.load(name, config.data.planted) for name in own]
    return tokenise([*made, *(load_all(",".join(others), data_dir)[0] if others else ())], dataset, workdir)


def _check(config: SweepConfig, dataset: Dataset, own: Sequence[str], others: Sequence[str]) -> None:
    named = f"benchmarks={','.join(config.benchmarks)}"
    if own and config.data.source != "planted":
        raise ConfigError(f"{named}: {own[0]} is for models of a planted world (data.source=planted)")
    if others and dataset.tokenizer()[1] == "words":
        raise ConfigError(
            f"{named}: the models of this sweep know only the made-up words of its planted world and cannot read a "
            f"text; take {' or '.join(planted.NAMES)}, or real pairs (data.source=votes, objective or curated)"
        )
    if all(is_convex(name) for name in (*config.sweep.models, *config.also.models)):
        raise ConfigError(
            f"{named}: transformers score them, and all models of this sweep are convex; leave benchmarks out, or add "
            "a transformer (sweep.models=w16)"
        )


def tokenise(benchmarks: Sequence[Benchmark], dataset: Dataset, workdir: Path) -> Prepared:
    """The texts of benchmarks under the tokenizer of a sweep's corpus."""
    texts = union(benchmarks)
    tokenizer, template = dataset.tokenizer()
    key = content_hash([list(texts.ids), templates.tokenizer_hash(tokenizer), template], digits=12)
    directory = Path(workdir) / "benchmarks" / key
    comparisons, places, refused = _comparisons(texts, templates.get_template(template))
    with atomic.locked(directory / "lock"):
        if not (directory / "corpus").exists():
            about = {"benchmarks": [one.name for one in benchmarks]}
            write_corpus(directory / "corpus", comparisons, about=about)
        view = build_view(open_corpus(directory / "corpus"), tokenizer, template)
    fingerprint = content_hash([key, {one.name: len(one.items) for one in benchmarks}])
    return Prepared(tuple(benchmarks), texts, view, places, refused, fingerprint)


def _comparisons(
    texts: Texts, template: templates.Template
) -> tuple[list[Comparison], np.ndarray, dict[int, str]]:
    """Two responses a comparison (the last one with itself where their number is odd), and what none can hold."""
    comparisons: list[Comparison] = []
    places: list[tuple[int, int]] = []
    refused: dict[int, str] = {}
    first = 0
    for group in texts.groups:
        usable = []
        for k, response in enumerate(group.responses):
            if why := _unusable(group, response, template):
                refused[first + k] = why
            else:
                usable.append(k)
        for pair in itertools.batched(usable, 2):
            a, b = pair[0], pair[-1]
            two = (group.responses[a], group.responses[b])
            comparisons.append(Comparison(group.prompt, two, source="benchmark", split="test"))
            places.append((first + a, first + b))
        first += len(group.ids)
    return comparisons, np.array(places, np.int64).reshape(-1, 2), refused


def _unusable(group: Group, response: str, template: templates.Template) -> str:
    if not response.strip():
        return "the response is empty"
    try:
        one = Comparison(group.prompt, (response, response), source="benchmark")
        one.hashes()
        template.prompt(one)
        template.responses(one)
    except DataError as error:
        return str(error).encode(errors="backslashreplace").decode()
    return ""


def score(prepared: Prepared, run: ScoreRows, max_length: int) -> pl.DataFrame:
    """A model's rewards: text, reward, error; a pair that is too long loses the oldest part of its prompt."""
    rows = np.arange(len(prepared.view), dtype=np.uint32)
    fits, _ = tree_rows.fit_to(
        prepared.view.lengths, rows, max_length=max_length, too_long="truncate_left_of_prompt"
    )
    reward = np.full(len(prepared.texts.ids), np.nan, np.float32)
    if fits.any():
        reward[prepared.places[fits]] = run(prepared.view, rows[fits])
    error: list[str | None] = [None] * len(reward)
    for place in prepared.places[~fits].ravel().tolist():
        error[place] = TOO_LONG
    for place, why in prepared.refused.items():
        error[place] = why
    table = pl.DataFrame({"text": prepared.texts.ids, "reward": reward, "error": error})
    return table.with_columns(pl.col("reward").fill_nan(None), pl.col("error").cast(pl.String))


def record(prepared: Prepared, directory: Path, table: pl.DataFrame, temperature: float) -> None:
    """Writes what a run's model made of the benchmarks into its folder."""
    atomic.write_parquet(directory / "benchmark_rewards.parquet", table)
    values = table["reward"].to_numpy().astype(np.float64)
    scores = {
        b.name: scores_of(b, prepared.texts.matrix(b.name, values), temperature) for b in prepared.benchmarks
    }
    atomic.write_json(directory / "benchmarks.json", {"fingerprint": prepared.fingerprint, "scores": scores})


def scores_of(benchmark: Benchmark, rewards: np.ndarray, temperature: float) -> dict[str, Any]:
    """As a row of the results table: its headline is the accuracy; the rest is of all that it says of two responses.

    Args:
      rewards: float64 [items, most responses]. temperature: fitted on the run's own validation pairs.
    """
    headline = float(benchmark.scores(rewards)[benchmark.headline][0])
    item, better, worse = benchmark.pairs.T
    margin = rewards[item, better] - rewards[item, worse]
    margin = margin[np.isfinite(margin)]
    out: dict[str, Any] = {
        "pairs": int(benchmark.scored(rewards).sum()),
        "accuracy": headline if np.isfinite(headline) else None,
    }
    if len(margin):
        score = dataclasses.asdict(statistics.pair_scores(margin, temperature))
        out |= {name: score[name] for name in ("ties", "loss", "loss_recalibrated", "margin_mean")}
    return out | {"temperature": temperature}


def read(workdir: Path, run_id: str) -> dict[str, Any]:
    """A run's scores by benchmark; none where it has scored none."""
    path = Path(workdir) / "runs" / run_id / "benchmarks.json"
    return json.loads(path.read_text())["scores"] if path.exists() else {}


def is_scored(prepared: Prepared | None, workdir: Path, run_id: str) -> bool:
    """Whether a run has scored these benchmarks, or there are none to score."""
    if prepared is None:
        return True
    path = Path(workdir) / "runs" / run_id / "benchmarks.json"
    return path.exists() and json.loads(path.read_text())["fingerprint"] == prepared.fingerprint
