"""Models on benchmarks, end to end: one pass over all texts a model, then every number from the saved rewards.

<workdir>/rewards.parquet scoring.json     of one model (evaluation/one_pass.py); several have a folder each
<workdir>/eval.json eval.md eval.html      what came out
          figures/                         those of the page, as SVG and PNG
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
from rewardscale.config import ConfigError
from rewardscale.data.chat import load_chat_tokenizer
from rewardscale.evaluation import comparing, eval_tables, one_pass, outcomes
from rewardscale.evaluation.benchmarks.base import Benchmark
from rewardscale.evaluation.benchmarks.registry import seven_average
from rewardscale.evaluation.eval_tables import aligned
from rewardscale.evaluation.identity import model_folder
from rewardscale.evaluation.one_pass import Settings
from rewardscale.evaluation.stored_temperature import StoredTemperature, write_temperature
from rewardscale.evaluation.texts import Group, Texts, union

FORMAT = 1
_SAMPLE = 500  # prompts of which tokens are counted for an estimate
Progress = Callable[[str, int, int, str], None]  # model, characters done, of how many, what to say beside
_nobody: Progress = lambda model, done, total, beside: None  # noqa: E731


@dataclasses.dataclass(frozen=True)
class Model:
    """A model to be evaluated.

    Attributes:
      name: for people, unlike the others'. directory: of its rewards.
      settings: how it scores; None where all its rewards must be there.
    """

    name: str
    directory: Path
    settings: Settings | None


def evaluate(
    models: Sequence[Model],
    benchmarks: Sequence[Benchmark],
    workdir: Path,
    *,
    absent: Mapping[str, str] | None = None,
    corpus: Path | None = None,
    progress: Progress = _nobody,
) -> dict[str, Any]:
    """Scores what is not scored yet and writes eval.json, eval.md and eval.html; returns what eval.json holds.

    Args:
      absent: benchmarks that were asked for and are not there, with how to get them.
      corpus: of training pairs, whose overlap with each benchmark is reported.

    Raises ConfigError or DataError for what cannot be used.
    """
    from rewardscale.evaluation import drawing, eval_figures, eval_page  # matplotlib is slow to import

    against = None if corpus is None else comparing.training_corpus(corpus)
    texts = union(benchmarks)
    tables = {model.name: _rewards(model, texts, progress) for model in models}
    rewards = {name: _matrices(table, texts, benchmarks) for name, table in tables.items()}
    found = {
        name: {
            b.name: outcomes.outcome(b, rewards[name][b.name], outcomes.Rows.of(table, texts.places[b.name]))
            for b in benchmarks
        }
        for name, table in tables.items()
    }
    facts = {b.name: outcomes.facts(b) for b in benchmarks}
    agreement = comparing.agree(benchmarks, rewards) if len(models) > 1 else {}
    record: dict[str, Any] = {
        "format": FORMAT,
        "texts": len(texts.ids),
        "benchmarks": facts,
        "absent": dict(absent or {}),
        "models": [
            _described(model, tables[model.name], benchmarks, rewards[model.name])
            | {"benchmarks": {name: one.record() for name, one in found[model.name].items()}}
            for model in models
        ],
        "comparisons": comparing.compare(benchmarks, rewards),
        "agreement": {name: outcomes.as_json(table.to_dicts()) for name, table in agreement.items()},
        "contamination": [] if against is None else comparing.contaminated(benchmarks, against, rewards),
    }
    control = {
        name: {b: facts[b]["controls"][name] for b in facts if facts[b]["controls"][name] is not None}
        for name in outcomes.CONTROLS
    }
    drawn = list(eval_figures.draw(benchmarks, found, control, agreement))
    workdir = Path(workdir)
    for _, name, _, figure in drawn:
        drawing.save(figure, workdir / "figures", name)
    atomic.write_bytes(workdir / "eval.md", eval_tables.markdown(record).encode())
    atomic.write_bytes(workdir / "eval.html", eval_page.html(record, drawn).encode())
    atomic.write_json(workdir / "eval.json", record)
    return record


def store_temperatures(models: Sequence[Model], record: Mapping[str, Any], name: str) -> list[str]:
    """Keeps the temperature that fits benchmark `name` beside each model's weights; a line a model that says so.

    Raises ConfigError where there is no such benchmark, no folder to keep it in, or no finite temperature fits.
    """
    from rewardscale.models import hf  # brings jax, which numbers from saved rewards do without

    if name not in record["benchmarks"]:
        raise ConfigError(f"calibrate={name!r} is none of the benchmarks: {', '.join(record['benchmarks'])}")
    told = []
    for model, described in zip(models, record["models"], strict=True):
        where = None if model.settings is None else Path(model.settings.model)
        if where is None or not where.is_dir():
            raise ConfigError(
                f"calibrate={name!r}: {model.name} is no folder of a model to keep a temperature in"
            )
        found = described["benchmarks"][name]["calibration"]
        if found is None or found["temperature"] is None or found["scaled"] is None:
            why = "it has no scored pairs" if found is None else found["note"] or "no finite one fits best"
            raise ConfigError(f"calibrate={name!r}: no temperature for {model.name}: {why}")
        stored = StoredTemperature(
            temperature=found["temperature"],
            set=name,
            pairs=found["pairs"],
            clusters=found["clusters"],
            nll_before=found["raw"]["nll"],
            nll_after=found["scaled"]["nll"],
            weights=hf.fingerprint(hf.open_checkpoint(where)),
        )
        path = write_temperature(where, stored)
        told.append(
            f"temperature of {model.name}: {stored.temperature:.4g}, log-loss on {name} {stored.nll_before:.4f} -> "
            f"{stored.nll_after:.4f}, kept in {path}"
        )
    return told


def _rewards(model: Model, texts: Texts, progress: Progress) -> pl.DataFrame:
    """A row a text, in the order of `texts`."""
    if model.settings is None:
        table = one_pass.read_rewards(model.directory, texts)
    else:
        table = one_pass.score_texts(
            texts, model.settings, model.directory,
            progress=lambda done, total, beside: progress(model.name, done, total, beside),
        )  # fmt: skip
    wanted = pl.DataFrame({"text": texts.ids}, schema={"text": pl.String})
    return wanted.join(table, on="text", how="left", maintain_order="left")


def _matrices(table: pl.DataFrame, texts: Texts, benchmarks: Sequence[Benchmark]) -> dict[str, np.ndarray]:
    values = table["reward"].cast(pl.Float64).fill_null(np.nan).to_numpy()
    return {b.name: texts.matrix(b.name, values) for b in benchmarks}


def _described(
    model: Model, table: pl.DataFrame, benchmarks: Sequence[Benchmark], rewards: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """What eval.json says of a model besides its benchmarks."""
    average, why_not = seven_average([(b, rewards[b.name]) for b in benchmarks])
    errors = table.filter(pl.col("error").is_not_null())["error"].value_counts(sort=True)
    return {
        "name": model.name,
        "scoring": json.loads((model.directory / one_pass.IDENTITY).read_text()),
        "counts": {
            "texts": len(table),
            "scored": int(table["reward"].is_not_null().sum()),
            "truncated": int(table["truncated"].sum()),
            "tokens": int(table["tokens"].sum() or 0),
        },
        "errors": dict(errors.iter_rows()),
        "average": average,
        "average_note": why_not,
    }


def place(models: Sequence[Settings], workdir: Path | None, root: Path) -> tuple[list[Model], Path]:
    """Where each model's rewards and the report go.

    One model: all in `workdir` (default: <root>/<its name>). Several: a folder each below `workdir` and the report in
    it; by default rewards stay where an evaluation of that model alone has them.
    """
    names = _names([one.name for one in models])
    if len(models) == 1:
        folder = workdir or root / names[0]
        return [Model(names[0], folder, models[0])], folder
    base = workdir or root
    report = workdir or root / "-and-".join(names)
    return [Model(n, base / n, one) for n, one in zip(names, models, strict=True)], report


def _names(names: Sequence[str]) -> list[str]:
    """Unlike each other: a second one is called name-2."""
    out: list[str] = []
    for name in names:
        tried = (name if k == 1 else f"{name}-{k}" for k in itertools.count(1))
        out.append(next(one for one in tried if one not in out))
    return out


def finished(workdir: Path) -> list[Model]:
    """The model, or models, whose rewards a folder of an earlier evaluation holds. Raises ConfigError where none."""
    for folders in ([workdir], sorted(workdir.glob("*/"))):
        there = [f for f in folders if (f / one_pass.TABLE).exists() and (f / one_pass.IDENTITY).exists()]
        if there:
            named = [json.loads((folder / one_pass.IDENTITY).read_text())["name"] for folder in there]
            return [Model(n, folder, None) for n, folder in zip(_names(named), there, strict=True)]
    raise ConfigError(f"{workdir} holds no {one_pass.TABLE} of an earlier evaluation: name a --model")


def dry_run(models: Sequence[Model], benchmarks: Sequence[Benchmark], absent: Mapping[str, str]) -> str:
    """Items and texts a benchmark, and what each model has still to score, in texts and about how many tokens."""
    texts = union(benchmarks)
    rows = [
        [
            b.shown_name,
            f"{len(b.items):,}",
            f"{int(b.response_counts.sum()):,}",
            f"{sum(b.missing.values()):,}",
        ]
        for b in benchmarks
    ]
    lines = [aligned(("benchmark", "items", "responses", "left out"), rows)]
    lines += [f"not there: {name} ({how})" for name, how in absent.items()]
    lines.append(f"{len(texts.ids):,} different texts to {len(texts.groups):,} prompts")
    for model in models:
        left = one_pass.to_score(texts, model.directory)
        line = f"{model.name}: {sum(len(g.ids) for g in left):,} texts to score"
        if model.settings is not None and left and model.settings.model not in one_pass.CONTROLS:
            line += f", about {_tokens(left, model.settings):,} tokens"
        lines.append(f"{line}, into {model.directory}")
    return "\n".join(lines)


def _tokens(groups: Sequence[Group], settings: Settings) -> int:
    """Estimated from some of the groups, evenly taken: tokens that scoring computes, a prompt once."""
    chat = load_chat_tokenizer(model_folder(settings.model, settings.revision))
    some = groups[:: max(1, len(groups) // _SAMPLE)]
    text = [m.content for g in some for m in g.prompt] + [r for g in some for r in g.responses]
    tokens = sum(len(one.ids) for one in chat.tokenizer.encode_batch_fast(text, add_special_tokens=False))
    return round(tokens / max(1, sum(map(len, text))) * sum(g.characters for g in groups))
