"""Running one cell: training, evaluation, and the run record, in a folder named by the run id.

runs/<run id>/config.json data.json versions.json   what the run is
              metrics.jsonl checkpoints/            while it trains
              rewards.parquet result.json           what came out
              benchmark_rewards.parquet benchmarks.json   the same on the benchmarks that the sweep names
              DONE                                  written last: the run is whole
              error.json                            instead, if it failed
On an object store all this is in a folder of the machine that runs it, and goes there as remote/keeper.py says.
trunks/<trunk id>/                                  what runs of a sweep with trunks share (training/trunk.py)
"""

import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import io
import json
import platform
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from rewardscale import atomic
from rewardscale.config import ConvexConfig, ModelConfig, Runtime, to_mapping
from rewardscale.data.subsets import Subset, subset
from rewardscale.data.tokenised import TokenisedView
from rewardscale.evaluation import statistics
from rewardscale.models import convex
from rewardscale.remote import keeper, leases, origin
from rewardscale.sweeps import benchmarks
from rewardscale.sweeps.datasets import VALIDATION, Dataset, Labelled
from rewardscale.sweeps.grid import Cell
from rewardscale.training.trunk import Trunk

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "scipy", "polars")
_MOST_CLUSTERS = 32
OnProgress = Callable[[float], None]
OnMetrics = Callable[[list[dict[str, Any]]], None]
Then = Callable[[benchmarks.ScoreRows], None]


@dataclasses.dataclass(frozen=True)
class Context:
    """What all cells of a sweep share within one process."""

    dataset: Dataset
    view: TokenisedView | None
    runtime: Runtime
    workdir: Path
    wanted: benchmarks.Prepared | None = None


def run_directory(workdir: Path, run_id: str) -> Path:
    """The folder of a run."""
    return Path(workdir) / "runs" / run_id


def is_done(workdir: Path, run_id: str) -> bool:
    """Whether the run is whole: it says so, and its result is what was written."""
    directory = run_directory(workdir, run_id)
    try:
        record = json.loads((directory / "DONE").read_text())
        return record["result"] == atomic.sha256(directory / "result.json")
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return False


def is_sent(cell: Cell, workdir: Path, wanted: benchmarks.Prepared | None) -> bool:
    """Whether a run that is done is in the workdir's store too, if it has one."""
    return origin.is_sent(workdir, f"runs/{cell.run_id}/{_done_name(cell, wanted)}")


def is_scored(cell: Cell, workdir: Path, wanted: benchmarks.Prepared | None) -> bool:
    """Whether a cell's model has scored the sweep's benchmarks; a convex one is not asked to."""
    return cell.run.family == "convex" or benchmarks.is_scored(wanted, workdir, cell.run_id)


def run_cell(
    cell: Cell,
    context: Context,
    *,
    on_progress: OnProgress | None = None,
    on_metrics: OnMetrics | None = None,
    on_compute: Callable[[], None] | None = None,
) -> bool:
    """Runs a cell unless it is done; True if it is done now, False if another process is at it or at its trunk.

    `on_compute` is called before `compute`, which several hosts do together. A cell of an object store that another
    machine has taken over meanwhile is that one's: False.

    Whatever it raises has been written to error.json if that can be, except a stop request.
    """
    directory = run_directory(context.workdir, cell.run_id)
    with atomic.locked(directory / "lock", wait=False) as mine:
        if not mine:
            return False
        seconds = context.runtime.lease_seconds
        with (
            contextlib.suppress(keeper.Lost),
            keeper.keeping(context.workdir, directory, seconds=seconds) as kept,
        ):
            if kept is None:
                return False
            done = _done_name(cell, context.wanted)
            brought = kept.bring(done, "DONE")
            if is_done(context.workdir, cell.run_id) and is_scored(cell, context.workdir, context.wanted):
                if not brought:
                    kept.finish(done, "DONE")
                return True
            if (directory / "DONE").exists() and not is_done(context.workdir, cell.run_id):
                damaged = f"{directory / 'result.json'} is not what DONE says was written"
                print(
                    f"warning: {damaged}; going on from the run's last checkpoint",
                    file=sys.stderr,
                    flush=True,
                )
            trunk = trunk_of(cell, context.workdir, seconds=seconds)
            with trunk.joined() if trunk else contextlib.nullcontext(True) as free:
                if not free:
                    return False
                try:
                    _run(cell, context, directory, trunk, kept.checking(on_progress), on_metrics, on_compute)
                    kept.finish(done, "DONE")
                except keeper.Lost:
                    raise
                except Exception as error:
                    record = {
                        "error": type(error).__name__,
                        "message": str(error),
                        "traceback": traceback.format_exc(),
                    }
                    with contextlib.suppress(OSError):  # a full or lost disk, which what is raised is about
                        atomic.write_json(directory / "error.json", record)
                        kept.fail("error.json")
                    raise
            return True
        return False


def _done_name(cell: Cell, wanted: benchmarks.Prepared | None) -> str:
    """What a run is committed as on an object store: with other benchmarks there is more of it."""
    scored = wanted is not None and isinstance(cell.run.model, ModelConfig)
    return f"{origin.DONE}-{wanted.fingerprint}" if scored and wanted else origin.DONE


def bring_done(workdir: Path, cells: Sequence[Cell]) -> None:
    """Brings from the workdir's store, if it has one, the cells that are done, and why others failed."""
    origin.bring_done(workdir, [run_directory(workdir, c.run_id) for c in cells])


def _run(
    cell: Cell,
    context: Context,
    directory: Path,
    trunk: Trunk | None,
    on_progress: OnProgress | None,
    on_metrics: OnMetrics | None,
    on_compute: Callable[[], None] | None,
) -> None:
    run = cell.run
    for name, record in (("config", to_mapping(run)), ("data", dict(run.data)), ("versions", versions())):
        atomic.write_json(directory / f"{name}.json", record)
    started = time.perf_counter()
    if on_compute is not None:
        on_compute()
    rows, rewards, record, table_of_benchmarks = compute(
        cell, context, directory, trunk, on_progress=on_progress, on_metrics=on_metrics
    )
    result = read_result(
        context.workdir, cell.run_id
    )  # where it was trained before and is restored for benchmarks
    if result is None:
        record["seconds"] = time.perf_counter() - started
        table = pl.DataFrame({"row": rows, "first": rewards[:, 0], "second": rewards[:, 1]})
        atomic.write_bytes(directory / "rewards.parquet", _parquet(table))
        found = scores(context.dataset, run.fold, rows, rewards)
        result = {"run_id": run.run_id, "record": record, "scores": found}
        atomic.write_json(directory / "result.json", result)
    if context.wanted is not None and table_of_benchmarks is not None:
        temperature = float(result["scores"][context.dataset.headline]["temperature"])
        benchmarks.record(context.wanted, directory, table_of_benchmarks, temperature)
    atomic.write_json(
        directory / "DONE", {"run_id": run.run_id, "result": atomic.sha256(directory / "result.json")}
    )
    (directory / "error.json").unlink(missing_ok=True)


def compute(
    cell: Cell,
    context: Context,
    directory: Path,
    trunk: Trunk | None,
    *,
    on_progress: OnProgress | None = None,
    on_metrics: OnMetrics | None = None,
) -> tuple[np.ndarray, np.ndarray, dict[str, Any], pl.DataFrame | None]:
    """Trains and scores a cell: corpus rows [n], rewards [n, 2] of them, the run's record, rewards on benchmarks."""
    run = cell.run
    level = context.dataset.level(run.level, run.draw)
    chosen = subset(level, run.pairs, pool=context.dataset.pool(run.fold), seed=run.seed, draw=run.draw)
    wanted = None if isinstance(run.model, ConvexConfig) else context.wanted
    tables: list[pl.DataFrame] = []

    def then(score: benchmarks.ScoreRows) -> None:
        if wanted is not None and run.recipe is not None:
            tables.append(benchmarks.score(wanted, score, run.recipe.max_length))

    family = _transformer if isinstance(run.model, ModelConfig) else _convex
    rows = evaluation_rows(context.dataset, run.fold)
    told = on_progress or (lambda share: None)
    rewards, record = family(cell, chosen, rows, context, directory, trunk, told, on_metrics, then)
    return rows, rewards, record, tables[0] if tables else None


def trunk_of(cell: Cell, workdir: Path, *, seconds: float = leases.SECONDS) -> Trunk | None:
    """The trunk that a cell is a branch of, with the newest state that the workdir's store, if it has one, holds.

    `seconds`: after which others take over a trunk that stands still.
    """
    if cell.branch is None:
        return None
    directory = Path(workdir) / "trunks" / cell.branch.trunk
    keeper.bring_state(workdir, directory, most=cell.branch.steps[-1])
    extending = functools.partial(keeper.extending, Path(workdir), directory, seconds=seconds)
    return Trunk(directory, cell.branch.steps, extending=extending)


@functools.lru_cache(maxsize=16)
def evaluation_rows(dataset: Dataset, fold: int) -> np.ndarray:
    """All corpus rows that some evaluation set needs, each once, in order. uint32 [n]."""
    sets = dataset.evaluations(fold).values()
    return np.unique(np.concatenate([part.rows for e in sets for part in (e.pairs, e.calibration)]))


def scores(dataset: Dataset, fold: int, rows: np.ndarray, rewards: np.ndarray) -> dict[str, Any]:
    """Scores on every evaluation set, each with a temperature fitted on validation pairs labelled in its way.

    Args:
      rows: uint32 [n], sorted. rewards: [n, 2] of the first and second response.
    """

    def margins(part: Labelled) -> np.ndarray:
        return statistics.margins(rewards[np.searchsorted(rows, part.rows)], part.orientation)

    out = {}
    for name, e in dataset.evaluations(fold).items():
        temperature = statistics.fit_temperature(margins(e.calibration), e.calibration.target)
        m = margins(e.pairs)
        score = dataclasses.asdict(statistics.pair_scores(m, temperature, e.pairs.target))
        out[name] = score | {"temperature": temperature, "bayes_loss": e.bayes_loss}
        if name != VALIDATION:
            out[name]["clusters"] = _by_cluster(
                _clusters(dataset, fold, name), m, temperature, e.pairs.target
            )
    return out


@functools.lru_cache(maxsize=64)  # the same for all cells
def _clusters(dataset: Dataset, fold: int, name: str) -> dict[str, np.ndarray]:
    """Which pairs of an evaluation set each cluster has, by the cluster's name."""
    clusters = evaluation_clusters(dataset.groups()[dataset.evaluations(fold)[name].pairs.rows])
    return {str(cluster): np.flatnonzero(clusters == cluster) for cluster in np.unique(clusters)}


def evaluation_clusters(groups: np.ndarray) -> np.ndarray:
    """The cluster [n] of each evaluation pair: its group, or one of 32 buckets of groups where there are more.

    Pairs of one group (prompt, debate) are not independent; intervals over clusters allow for that.
    """
    if len(np.unique(groups)) <= _MOST_CLUSTERS:
        return groups.astype(str)
    names, inverse = np.unique(groups.astype(str), return_inverse=True)
    buckets = [hashlib.blake2b(name.encode(), digest_size=8).digest()[0] % _MOST_CLUSTERS for name in names]
    return np.array([f"bucket {b:02d}" for b in buckets])[inverse]


def _by_cluster(
    clusters: Mapping[str, np.ndarray], margin: np.ndarray, temperature: float, target: np.ndarray | None
) -> dict[str, dict[str, float]]:
    out = {}
    for name, own in clusters.items():
        score = statistics.pair_scores(margin[own], temperature, None if target is None else target[own])
        out[name] = {key: getattr(score, key) for key in ("pairs", "accuracy", "loss", "loss_recalibrated")}
    return out


def _transformer(
    cell: Cell,
    chosen: Subset,
    rows: np.ndarray,
    context: Context,
    directory: Path,
    trunk: Trunk | None,
    on_progress: OnProgress,
    on_metrics: OnMetrics | None,
    then: Then,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Trains and scores a transformer: rewards [rows, 2] and its record."""
    from rewardscale.training.subset_run import train_and_score  # jax is imported only where it computes

    assert context.view is not None
    return train_and_score(
        cell.run,
        chosen,
        rows,
        context.view,
        context.runtime,
        directory,
        trunk=trunk,
        on_progress=on_progress,
        on_metrics=on_metrics,
        then=then,
    )


def _convex(
    cell: Cell,
    chosen: Subset,
    rows: np.ndarray,
    context: Context,
    directory: Path,
    trunk: Trunk | None,
    on_progress: OnProgress,
    on_metrics: OnMetrics | None,
    then: Then,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Fits and scores a convex model: rewards [rows, 2] and its record."""
    del directory, trunk, on_metrics, then
    run = cell.run
    assert not isinstance(run.model, ModelConfig)
    features, text = _features(context.dataset, run.model)
    started = time.perf_counter()
    first, second = text[chosen.rows, 0], text[chosen.rows, 1]
    target = np.where(chosen.orientation > 0, chosen.target, 1 - chosen.target).astype(np.float64)
    weight = chosen.weight.astype(np.float64)
    groups = context.dataset.groups()[chosen.rows]
    l2, edge = run.model.l2_grid[0], ""
    if len(run.model.l2_grid) > 1:
        search = convex.cross_validate(
            features, first, second, groups, run.model, target=target, weight=weight
        )
        l2, edge = search.l2, search.edge
    on_progress(0.9)
    fit = convex.fit(features, first, second, l2=l2, target=target, weight=weight)
    seconds = time.perf_counter() - started
    rewards = convex.rewards(features, fit)[text[rows]]
    record = {
        "l2": l2,
        "l2_edge": edge,
        "train_loss": fit.loss,
        "gap": fit.gap,
        "train_seconds": seconds,
        "eval_seconds": 0.0,
        "pairs_per_second": len(chosen) / seconds,
    }
    on_progress(1.0)
    return rewards, record


_FEATURES: dict[tuple[str, Any], Any] = {}


def _features(dataset: Dataset, config: Any) -> tuple[np.ndarray, np.ndarray]:
    """Features of the corpus's distinct responses, and which of them each comparison's responses are [rows, 2]."""
    key = (dataset.corpus.fingerprint, config)
    if key not in _FEATURES:
        features = convex.fitting_features(_responses(dataset), config)
        _FEATURES[key] = (features, dataset.texts().astype(np.int64))
    return _FEATURES[key]


@functools.lru_cache(maxsize=1)  # models of all widths read the same texts
def _responses(dataset: Dataset) -> list[str]:
    """The corpus's distinct responses, in the order that texts() numbers."""
    return list({response: None for c in dataset.corpus for response in c.responses[:2]})


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python, of this package and of what computes."""
    import rewardscale

    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), "rewardscale": rewardscale.__version__} | found


def read_result(workdir: Path, run_id: str) -> dict[str, Any] | None:
    """The result of a run, or None if it is not done."""
    if not is_done(workdir, run_id):
        return None
    return json.loads((run_directory(workdir, run_id) / "result.json").read_text())


def read_error(workdir: Path, run_id: str) -> str | None:
    """Why a run failed, in a line, or None."""
    path = run_directory(workdir, run_id) / "error.json"
    if not path.exists():
        return None
    record = json.loads(path.read_text())
    return f"{record['error']}: {record['message']}"


def _parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()
