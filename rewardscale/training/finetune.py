"""One reward model, from a Hugging Face checkpoint and files of pairs to a Hugging Face checkpoint.

<workdir>/data/corpus refused.jsonl     the pairs, and what could not be used
<workdir>/run/<run id>/...              the training (training/loop.py), as in a sweep
<workdir>/model/                        what came out; there once everything is done
<workdir>/evaluation/                   the model on the benchmarks that the config names (evaluation/benchmark_run.py)

With several hosts all call it with one shared folder: host 0 makes the corpus and writes records, all train and export.
Where the folder is a copy of a URL (remote/origin.py), run/, model/ and evaluation/ go there, and come from there.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl
from jax.sharding import Mesh

from rewardscale import atomic
from rewardscale import mesh as meshes
from rewardscale.config import ConfigError, ModelConfig, RunConfig, Runtime, TrainConfig
from rewardscale.data import pipeline
from rewardscale.data.chat import ChatTokenizer, load_chat_tokenizer
from rewardscale.data.comparison import DataError
from rewardscale.data.corpus import Corpus, open_corpus, write_corpus
from rewardscale.data.levels import Level, read_level, write_level
from rewardscale.data.sources.pairs import located, read_pairs
from rewardscale.data.subsets import subset
from rewardscale.data.tokenised import TokenisedView, build_view
from rewardscale.evaluation import benchmark_run, followers, one_pass, scorer, statistics
from rewardscale.evaluation.benchmarks.base import Benchmark
from rewardscale.evaluation.benchmarks.registry import load_all
from rewardscale.evaluation.one_pass import Settings
from rewardscale.models import hf, hf_config, presets, reward
from rewardscale.remote import keeper, origin
from rewardscale.training import loop

LEVEL = "as_given"
_CONTEXT = 32_768  # of presets without one of their own

Progress = Callable[[str, int, int], None]  # (what, done, total)


@dataclasses.dataclass(frozen=True)
class Start:
    """Where training starts.

    Attributes:
      model: the decoder. params: loads or draws its parameters. fingerprint: hash of them.
      config: config.json of what will be exported. chat: tokenizer and template.
    """

    model: ModelConfig
    params: Callable[[Mesh], reward.Params]
    fingerprint: str
    config: Mapping[str, Any]
    chat: ChatTokenizer


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a training leaves.

    Attributes:
      directory: the exported model. run_id: of the run.
      read, refused: items of the files. record: counts and throughput. validation: scores, if there was any.
      evaluation: what eval.json holds, if benchmarks are named.
    """

    directory: Path
    run_id: str
    read: int
    refused: int
    record: Mapping[str, Any]
    validation: Mapping[str, Any] | None
    evaluation: Mapping[str, Any] | None = None


def finetune(
    config: TrainConfig, workdir: Path, *, data_dir: Path | None = None, progress: Progress | None = None
) -> Outcome:
    """Trains, exports and evaluates; the same call goes on where an earlier one stopped.

    Args:
      data_dir: folder of the benchmarks that the config names; None: the hub's copies.

    Raises ConfigError or DataError for what cannot be used, and what `loop.train` raises.
    """
    said = progress or (lambda what, done, total: None)
    workdir = Path(workdir)
    start = find_start(config)
    # Read before training: a benchmark that is not there is known now.
    benchmarks = load_all(",".join(config.benchmarks), data_dir)[0] if config.benchmarks else []
    corpus, counts = meshes.once(lambda: _corpus(config, workdir / "data", start.chat))
    view = meshes.once(
        lambda: build_view(corpus, start.chat, progress=lambda done: said("tokenising", done, len(corpus)))
    )
    level = read_level(workdir / "data" / "levels" / LEVEL)
    run = _run_config(config, start, corpus, view, level)
    meshes.check_same(run.run_id, "the run's id")
    final, directory = workdir / "model", workdir / "run" / run.run_id
    done = directory / "result.json"
    with meshes.locked(workdir / "lock") as mine:
        if not mine:
            raise ConfigError(f"another process trains in {workdir}; wait for it, or name another --workdir")
        with keeper.keeping(workdir, directory, seconds=config.runtime.lease_seconds, wait=True) as kept:
            if kept is None:
                raise ConfigError(
                    f"another machine trains in {origin.url(workdir)}; wait for it, or name another --workdir"
                )
            brought = kept.bring(origin.DONE, done.name)
            if brought:
                kept.bring_folder(final)
            trained, exported = meshes.agreed([done.exists(), final.exists()])
            if not (trained and exported):
                if exported:
                    raise ConfigError(
                        f"{final} holds the model of another run; name another --workdir, or remove it"
                    )
                if meshes.host_zero():
                    atomic.write_json(directory / "config.json", dataclasses.asdict(run))
                result = _train(config, run, start, view, level, directory, final, kept.checking(said))
                if meshes.host_zero():
                    atomic.write_json(done, {"run_id": run.run_id, **counts, **result})
                meshes.together()
            if not brought:
                kept.send_folder(final, last=("config.json",))
                kept.finish(origin.DONE, done.name)
            evaluation = _evaluate(config, benchmarks, final, workdir / "evaluation", said)
            kept.send_folder(workdir / "evaluation", last=("eval.json", "eval.html"))
    return _outcome(final, json.loads(done.read_text()), evaluation)


def _evaluate(
    config: TrainConfig, benchmarks: Sequence[Benchmark], final: Path, folder: Path, said: Progress
) -> dict[str, Any] | None:
    """The exported model on the benchmarks: in the training's compute type, in the mesh that trained it."""
    if not benchmarks:
        return None
    settings = Settings(str(final), mesh=config.runtime.mesh, dtype=config.recipe.dtype)
    return followers.led(
        lambda: benchmark_run.evaluate(
            [benchmark_run.Model(config.name, folder, settings)], benchmarks, folder,
            progress=lambda model, done, total, beside: said("benchmarks", done, total),
        ),
        load=lambda: one_pass.load(settings),
    )  # fmt: skip


def find_start(config: TrainConfig) -> Start:
    """The model and tokenizer that a config names. Raises ConfigError or DataError for what cannot be used."""
    if not config.model:
        raise ConfigError("config.model is empty: name a Hugging Face folder, a hub id or a preset ('d6')")
    if not config.data:
        raise ConfigError("config.data is empty: name at least one file of pairs (.jsonl, .parquet, ...)")
    if Path(config.model).is_dir() or "/" in config.model:
        return _from_checkpoint(config)
    if presets.is_convex(config.model):
        raise ConfigError(
            f"config.model={config.model!r} is a convex model, which a sweep fits; name a transformer"
        )
    if not config.tokenizer:
        raise ConfigError(
            f"config.model={config.model!r} is a preset with random weights: name config.tokenizer, a folder"
        )
    chat = _chat(config, Path(config.tokenizer))
    model = presets.get_model(config.model, vocab_size=chat.vocab_size)
    assert isinstance(model, ModelConfig)
    backbone = presets.BACKBONES.get(config.model)
    described = hf_config.write_config(
        model,
        pad_token_id=chat.pad_token_id,
        context=backbone.context if backbone else _CONTEXT,
        dtype=config.export_dtype,
        tied=bool(backbone and backbone.tied),
    )
    return _checked(
        Start(
            model,
            lambda mesh: reward.init(model, (config.seed, 0)),
            f"{config.model}@{config.seed}",
            described,
            chat,
        )
    )


def _from_checkpoint(config: TrainConfig) -> Start:
    checkpoint = hf.open_checkpoint(config.model, revision=config.revision or None)
    chat = _chat(config, Path(config.tokenizer) if config.tokenizer else checkpoint.directory)
    if checkpoint.has_head and checkpoint.pad_token_id not in (None, chat.pad_token_id):
        raise ConfigError(
            f"{config.model} pads with token {checkpoint.pad_token_id} and its tokenizer with {chat.pad_token_id}: "
            "another pad token can move the rewarded token; name the same one with config.pad_token"
        )
    if config.fresh_head and checkpoint.has_head:
        checkpoint = dataclasses.replace(
            checkpoint, architecture=checkpoint.architecture.replace(hf_config.CLASSIFIER, hf_config.CAUSAL)
        )
    head = "" if checkpoint.has_head else f"+head{config.seed}"
    described = hf_config.as_classifier(
        {"model_type": checkpoint.family, **checkpoint.config},
        pad_token_id=chat.pad_token_id,
        dtype=config.export_dtype,
    )
    return _checked(
        Start(
            checkpoint.model,
            functools.partial(hf.load, checkpoint, dtype=config.recipe.parameters, head_seed=config.seed)
            if config.recipe.lora_rank
            else functools.partial(hf.load, checkpoint, head_seed=config.seed),
            hf.fingerprint(checkpoint) + head,
            described,
            chat,
        )
    )


def _chat(config: TrainConfig, directory: Path) -> ChatTokenizer:
    return load_chat_tokenizer(directory, pad_token=config.pad_token or None)


def _checked(start: Start) -> Start:
    if start.chat.vocab_size > start.model.vocab_size:
        raise ConfigError(
            f"the tokenizer has ids up to {start.chat.vocab_size - 1} and the model an embedding of "
            f"{start.model.vocab_size} rows: they do not belong together"
        )
    return start


def _corpus(config: TrainConfig, folder: Path, chat: ChatTokenizer) -> tuple[Corpus, dict[str, int]]:
    """The corpus and its level, made of the config's files unless it is there, and how many items were read."""
    files = {"train": list(config.data), "validation": list(config.validation)}
    about = {
        "files": {split: [[name, *_hashes(name)] for name in names] for split, names in files.items()},
        "chat": chat.key,  # decides which items can be used
    }
    counts = folder / "counts.json"
    if counts.exists():
        corpus = open_corpus(folder / "corpus")
        if corpus.about != about:
            raise ConfigError(
                f"{folder} was made of other files, or for another tokenizer or template: name another --workdir"
            )
        return corpus, json.loads(counts.read_text())
    made = {split: read_pairs(names, chat, split=split) for split, names in files.items() if names}
    comparisons = [c for pairs in made.values() for c in pairs.comparisons]
    orientation = np.concatenate([pairs.orientation for pairs in made.values()])
    corpus = (
        open_corpus(folder / "corpus")
        if (folder / "corpus").exists()
        else write_corpus(folder / "corpus", comparisons, about=about)
    )
    write_level(folder / "levels", Level(LEVEL, np.arange(len(comparisons), dtype=np.uint32), orientation))
    refused = [item.record() for pairs in made.values() for item in pairs.refused]
    atomic.write_bytes(folder / "refused.jsonl", b"".join(orjson.dumps(item) + b"\n" for item in refused))
    record = {"read": len(comparisons) + len(refused), "refused": len(refused)}
    atomic.write_json(counts, record)
    return corpus, record


def _run_config(
    config: TrainConfig, start: Start, corpus: Corpus, view: TokenisedView, level: Level
) -> RunConfig:
    rows = _rows(corpus, "train")
    fingerprints = {
        "corpus": corpus.fingerprint,
        "view": view.key,
        "level": level.fingerprint,
        "initial": start.fingerprint,
    }
    return RunConfig(
        model_name=config.model if not Path(config.model).is_dir() else Path(config.model).resolve().name,
        model=start.model,
        recipe=config.recipe,
        level=LEVEL,
        pairs=len(rows),
        draw=0,
        fold=-1,
        seed=config.seed,
        learning_rate_scale=1.0,
        data=fingerprints,
        evaluations={},
    )


def _train(
    config: TrainConfig,
    run: RunConfig,
    start: Start,
    view: TokenisedView,
    level: Level,
    directory: Path,
    final: Path,
    said: Progress,
) -> dict[str, Any]:
    recipe, corpus = config.recipe, open_corpus(final.parent / "data" / "corpus")
    devices = meshes.make_mesh(config.runtime.mesh)
    runtime = _whole_rows(config.runtime, devices)
    data = pipeline.prepare(
        view,
        subset(level, run.pairs, pool=_rows(corpus, "train"), seed=run.seed, draw=0),
        positions=recipe.positions(run.pairs),
        batch=recipe.batch_size(run.pairs),
        seed=run.seed,
        draw=0,
        max_length=recipe.max_length,
        too_long=recipe.too_long,
        row_length=runtime.row_length,
        rows_per_microbatch=runtime.rows_per_microbatch,
        shared=runtime.share_prompts,
    )
    trained = loop.train(
        run, data, runtime, devices, directory,
        initial=lambda: start.params(devices),
        on_progress=lambda done, steps: said("training", done, steps),
    )  # fmt: skip
    validation = _validate(
        config, start, view, level, trained.params, runtime, devices, _rows(corpus, "validation")
    )
    described = {**start.config, "rewardscale": _provenance(config, run, start)}
    with meshes.new_directory(final) as folder:
        hf.export(
            folder, trained.params, start.model, described, dtype=config.export_dtype, files=start.chat.files
        )
    return {"record": trained.record, "validation": validation}


def _validate(
    config: TrainConfig,
    start: Start,
    view: TokenisedView,
    level: Level,
    params: reward.Params,
    runtime: Runtime,
    devices: Mesh,
    rows: np.ndarray,
) -> dict[str, Any] | None:
    """Accuracy and loss on the validation pairs; the temperature is fitted on them themselves."""
    if not len(rows):
        return None
    batches = scorer.prepare(
        view, rows, max_length=config.recipe.max_length, rows_per_microbatch=runtime.rows_per_microbatch,
        row_length=runtime.row_length,
    )  # fmt: skip
    options = loop.forward_options(config.recipe.dtype, runtime)
    rewards = scorer.score(start.model, params, batches, options, devices)
    margins = statistics.margins(rewards, level.orientation[np.searchsorted(level.rows, rows)])
    return dataclasses.asdict(
        statistics.pair_scores(margins, statistics.fit_temperature(margins, None), None)
    )


def _provenance(config: TrainConfig, run: RunConfig, start: Start) -> dict[str, Any]:
    """What config.json says of where a reward comes from."""
    token = start.chat.reward_token
    return {
        "run_id": run.run_id,
        "science_version": run.science_version,
        "start": config.model if "/" not in config.model or config.revision else run.model_name,
        "revision": config.revision,
        "initial": start.fingerprint,
        "template_hash": start.chat.template_hash,
        "tokenizer_hash": start.chat.tokenizer_hash,
        "date": start.chat.date,
        "reward_token": {"id": token.id, "text": token.text},
    }


def _whole_rows(runtime: Runtime, devices: Mesh) -> Runtime:
    """With as many rows a microbatch as are dealt evenly over the mesh, at least as many as asked for."""
    parts = int(np.prod([devices.shape[axis] for axis in meshes.BATCH_AXES]))
    return dataclasses.replace(runtime, rows_per_microbatch=-(-runtime.rows_per_microbatch // parts) * parts)


def _rows(corpus: Corpus, split: str) -> np.ndarray:
    return corpus.manifest().filter(pl.col("split") == split)["row"].to_numpy().astype(np.uint32)


def _hashes(entry: str) -> list[str]:
    """Of each file of one entry of the config's."""
    try:
        return [atomic.sha256(unit.path) for unit in located(entry).files]
    except OSError as error:
        raise DataError(f"{entry} cannot be read ({error.strerror})") from error


def _outcome(final: Path, result: Mapping[str, Any], evaluation: Mapping[str, Any] | None = None) -> Outcome:
    return Outcome(
        final,
        result["run_id"],
        result["read"],
        result["refused"],
        result["record"],
        result["validation"],
        evaluation,
    )
