"""Training one transformer reward model, from its data to its final parameters.

Resume rules, in order:
  1. A newest whole checkpoint in the run's folder: its parameters, moments and step are taken.
     One that is damaged is set aside, which stderr and the record tell, and the one before it is taken.
  2. If there is a trunk (training/trunk.py) and it has gone further than that: its state, on the way to this run's.
  3. Otherwise: the parameters that the caller gives (a pretrained tree).
  4. Otherwise: fresh parameters from the run's seed.
  5. Any way batches follow from the step number alone, and metrics from that step on are rewritten.

With several hosts (rewardscale/mesh/) all of them run this loop: each reads its share of every microbatch's rows, host
0 writes the metrics, and all save and stop at the same steps. A run may go on with another number of hosts.
"""

import contextlib
import dataclasses
import hashlib
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
from jax.sharding import Mesh

from rewardscale import atomic, flops, mesh
from rewardscale.config import ConfigError, ModelConfig, RunConfig, Runtime
from rewardscale.data import arrays, pipeline
from rewardscale.models import lora, products, reward
from rewardscale.models.attention import path
from rewardscale.training import compilation
from rewardscale.training.checkpoint import Checkpoints, Damaged, Interrupted, passed_over, stop_requests
from rewardscale.training.clock import Clock
from rewardscale.training.finite import Finite, skipped_steps, without_nonfinite
from rewardscale.training.optimizer import hyperparameters, learning_rates
from rewardscale.training.profile import Profile
from rewardscale.training.step import Step, block_shardings, make_step
from rewardscale.training.tracker import MetricsFile
from rewardscale.training.trunk import Trunk
from rewardscale.training.watchdog import Watchdog


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a finished training leaves.

    Attributes:
      params: final parameters of the run's model, on the mesh, in their stored type; adapters are merged.
      record: counts and throughput for the run record.
    """

    params: reward.Params
    record: dict[str, Any]


def train(
    run: RunConfig,
    data: pipeline.TrainingData,
    runtime: Runtime,
    device_mesh: Mesh,
    directory: Path,
    *,
    initial: reward.Params | Callable[[], reward.Params] | None = None,
    trunk: Trunk | None = None,
    on_metrics: Callable[[list[dict[str, Any]]], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    closing: contextlib.ExitStack | None = None,
) -> Trained:
    """Trains `run` in `directory`, continuing from its newest checkpoint.

    `initial` are the parameters to start from, shaped like `reward.abstract(run.model)`, or a function that loads
    them, called only if there is no checkpoint. `trunk` is what the run shares with longer and shorter ones: it
    begins with what is there and leaves what they want. `on_metrics` receives batches of
    metric records, `on_progress` (steps done, steps). What `closing` closes is the last checkpoint, which is then still
    being written when this returns; without it, or with several hosts, it is whole.

    Raises:
      NonFiniteLoss: with the step; the last good checkpoint stays.
      Interrupted: after SIGTERM or SIGINT, once the state is saved.
      ConfigError: if the mesh cannot hold the microbatches, or `initial` is of another model.
      DataError: if the trunk was trained on other pairs.
    """
    assert isinstance(run.model, ModelConfig) and run.recipe is not None

    # Shapes and functions.
    plan, block_steps = data.plan, runtime.steps_per_dispatch
    mesh.check_rows(device_mesh, plan.rows_per_microbatch)
    options = forward_options(run.recipe.dtype, runtime)
    model = run.recipe.adapt(run.model)
    shape = (plan.rows_per_microbatch, plan.row_length)
    attention = path(options.attention, model, options.dtype, shape, device_mesh)
    skip = run.recipe.nonfinite == "skip"
    step = make_step(model, options, device_mesh, run.recipe.storage, skip=skip)
    sizes = pipeline.capacity(
        data.lengths,
        pairs_per_step=run.recipe.pairs_per_step,
        row_length=plan.row_length,
        rows_per_microbatch=plan.rows_per_microbatch,
        shared=data.shared,
    )
    host, shares = mesh.share(device_mesh, plan.rows_per_microbatch)
    source = pipeline.StepSource(data, sizes, host=host, hosts=shares)
    hyper = hyperparameters(run.recipe)
    rates = learning_rates(run.recipe, steps=plan.steps, batch=int(plan.starts[1]))

    watchdog = Watchdog(directory, runtime.watchdog_seconds, leave=runtime.watchdog_exit)
    with contextlib.ExitStack() as resources:
        resources.callback(watchdog.close)
        # Restore or initialise.
        watchdog.beat("looking for a checkpoint")
        checkpoints = Checkpoints(
            directory / "checkpoints", kept=runtime.checkpoints_kept, seconds=runtime.checkpoint_seconds
        )
        clock = Clock()
        later = closing if closing is not None and mesh.hosts() == 1 else resources
        later.callback(clock.timed("checkpoint", checkpoints.close))
        if trunk is not None:
            trunk.check(run.recipe, data)
        while trunk is not None and mesh.agreed(trunk.newest() > max(0, checkpoints.latest)):
            try:
                state, records = trunk.take(data, step.abstract, directory)
            except Damaged as damage:
                trunk.set_aside(damage)
                continue
            if on_metrics:
                on_metrics(records)
            restored_from = f"{trunk.directory.name}/{int(state['step'])}"
            break
        else:
            state = restore_or_init(run, step, checkpoints, initial)
            restored_from = f"checkpoints/{checkpoints.latest}" if checkpoints.latest >= 0 else ""
        start = int(state["step"])
        metrics_path, metrics_file = directory / "metrics.jsonl", None
        if mesh.host_zero():
            metrics_file = MetricsFile(metrics_path, resume_at=start)
            resources.callback(metrics_file.close)
            write_model_info(directory / "model-info.txt", state["params"])

        # The loop: metrics are read one block late, so the device never waits for the host.
        clock.begin()
        compiled_before = compilation.seconds()
        watchdog.beat(f"at the first block, from step {start} of {plan.steps}")
        profile = Profile(directory, runtime.profile_steps)
        resources.callback(profile.close)
        meter = _Meter(model, data, run.recipe.dtype, device_mesh.size, pruned=options.prune)
        finite = Finite(runtime.most_skipped)
        pending: tuple[int, int, Any] | None = None

        def flush() -> None:
            if pending is not None:
                with clock("device"):
                    values = jax.device_get(pending[2])
                records = without_nonfinite(meter.records(*pending[:2], values, clock.share(pending[1])))
                if metrics_file is not None:
                    metrics_file.write(records)
                if on_metrics:
                    on_metrics(records)
                finite.check(records)

        stop, ballot = resources.enter_context(stop_requests()), mesh.Ballot()
        if trunk is not None and start >= trunk.step:
            trunk.leave()
        breaks = (*(trunk.steps if trunk else ()), *profile.breaks)
        batches = _blocks(source, start, breaks, runtime)
        resources.callback(cast(Generator, batches).close)  # ends the pipeline's workers, whatever happens
        for first, count, block in clock.each("data", batches):
            if profile.turns(first):
                flush()
                pending = None
                profile.turn()
            with clock("device"), profile.step(first):
                placed = mesh.place_shares(
                    block, block_shardings(device_mesh, block), axis=2, rows=plan.rows_per_microbatch
                )
                padded = np.zeros(block_steps, np.float32)
                padded[:count] = rates[first : first + count]
                state, metrics = step.train(state, placed, np.int32(count), padded, hyper)
            flush()
            pending, done = (first, count, metrics), first + count
            watchdog.beat(f"after step {done} of {plan.steps} was begun")
            if on_progress:
                on_progress(done, plan.steps)
            if trunk is not None and done in trunk.steps:
                flush()  # a loss that is not finite is found before its state is shared
                pending = None
                with clock("checkpoint"):
                    trunk.store(data, done, state, metrics_path)
                if done == trunk.step:
                    trunk.leave()
            # Read once: a request between save and raise would go without its save. Host 0's clock is all hosts'.
            stopping, due = ballot(stop(), mesh.host_zero() and checkpoints.due())
            if done < plan.steps and (stopping or due):
                flush()
                pending = None
                with clock("checkpoint"):
                    if metrics_file is not None:
                        metrics_file.sync()
                    checkpoints.save(done, state)
                ballot = mesh.Ballot()  # a round that asked for this save has had its answer
                if stopping:
                    raise Interrupted(f"stopped at step {done} of {plan.steps}, state saved")
        flush()
        with clock("checkpoint"):
            if metrics_file is not None:
                metrics_file.sync()
            checkpoints.save(plan.steps, state)
        if mesh.hosts() > 1 and mesh.vote(stop())()[0]:  # too late for a round: one host leaves, so all do
            raise Interrupted(f"stopped at step {plan.steps} of {plan.steps}, state saved")
    record = meter.summary(start) | clock.summary() | ({} if trunk is None else trunk.record(directory))
    record["compile_seconds"] = compilation.seconds() - compiled_before  # of which most is device_seconds
    if skip:
        record["skipped"] = skipped_steps(metrics_path)
    folders = [directory / "checkpoints", *([trunk.directory] if trunk else [])]
    record["attention"] = attention
    record["restored_from"] = restored_from
    record["passed_over"] = [name for folder in folders for name in passed_over(folder)]
    return Trained(params=lora.merge(model, state["params"], donate=True), record=record)


def _blocks(
    source: pipeline.StepSource, start: int, breaks: tuple[int, ...], runtime: Runtime
) -> Iterator[tuple[int, int, pipeline.Batch]]:
    """`pipeline.blocks` of which none reaches over one of the steps `breaks`, where the state is wanted."""
    ends = sorted({step for step in (*breaks, len(source)) if start < step <= len(source)})
    for first, end in zip([start, *ends], ends, strict=False):
        yield from pipeline.blocks(
            source,
            start_step=first,
            end_step=end,
            steps_per_block=runtime.steps_per_dispatch,
            workers=runtime.data_workers,
        )


def forward_options(dtype: str, runtime: Runtime) -> reward.Options:
    """Forward-pass options of a run. Raises ConfigError if this machine's CPU cannot do bfloat16."""
    products.check(dtype)
    return reward.Options(
        dtype=dtype, scan=runtime.scan_layers, remat=runtime.remat, attention=runtime.attention,
        prune=runtime.prune_last_layer,
    )  # fmt: skip


def restore_or_init(
    run: RunConfig,
    step: Step,
    checkpoints: Checkpoints,
    initial: reward.Params | Callable[[], reward.Params] | None = None,
) -> Any:
    """The training state by the resume rules above.

    Fresh parameters and adapters follow from the run's seed and draw: the same for all levels and data sizes.
    """
    assert isinstance(run.model, ModelConfig) and run.recipe is not None
    restored = checkpoints.restore(step.abstract)
    if restored is not None:
        return restored
    model, seed = run.recipe.adapt(run.model), (run.seed, run.draw)
    if initial is None:
        return step.init(reward.init(model, seed))
    params = initial() if callable(initial) else initial
    _check_shapes(params, reward.abstract(run.model))
    return step.init(lora.add(model, params, seed))


def _check_shapes(params: reward.Params, wanted: reward.Params) -> None:
    found, needed = (
        {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in leaves}
        for leaves in (jax.tree_util.tree_leaves_with_path(tree) for tree in (params, wanted))
    )
    for name in sorted(found.keys() | needed.keys()):
        if found.get(name) != needed.get(name):
            raise ConfigError(
                f"the parameters to start from do not fit the run's model: {name} has shape "
                f"{found.get(name, 'none')}, the model needs {needed.get(name, 'none')}"
            )


def write_model_info(path: Path, params: reward.Params) -> None:
    """Writes a line a parameter: path, shape, type, how it is split over the mesh."""
    lines = []
    for key, leaf in jax.tree_util.tree_leaves_with_path(params):
        lines.append(f"{jax.tree_util.keystr(key)}  {leaf.shape}  {leaf.dtype}  {leaf.sharding.spec}\n")
    atomic.write_bytes(path, "".join(lines).encode())


def batch_fingerprint(data: pipeline.TrainingData) -> str:
    """Hash (32 hex digits) of what fixes every batch: rows, orientation, weights and plan."""
    digest = hashlib.blake2b(data.plan.fingerprint.encode(), digest_size=16)
    for values in (data.trees.rows, data.trees.left, data.trees.skip):
        arrays.update(digest, values, np.int64)
    for values in (data.weight, data.target):
        arrays.update(digest, values)
    return digest.hexdigest()


class _Meter:
    """Turns device metrics into records with throughput, and sums up a run.

    Where a device's peak is known, both say two shares of it, MFU by flops.py's conventions (causal attention halved,
    no vocabulary head, nothing counted for padding and for what is computed again):
        mfu            hardware: the operations that are needed as this run computes its pairs, a shared prompt once,
                       of the last layer what is not left out
        effective_mfu  the operations of the same pairs with prompts apart and every layer whole
    In records that have no effective_mfu, mfu counts shared prompts once and every layer whole, whatever the run did.
    """

    def __init__(
        self, model: ModelConfig, data: pipeline.TrainingData, dtype: str, devices: int, *, pruned: bool
    ):
        plan = data.plan
        self._tokens, keys_per_step = np.zeros(plan.steps), np.zeros(plan.steps)
        self._shares = {"mfu": np.zeros(plan.steps), "effective_mfu": np.zeros(plan.steps)}
        ways = {"mfu": (data.shared, pruned), "effective_mfu": (False, False)}
        for steps in arrays.pieces(plan.steps, max(1, arrays.PIECE // int(plan.starts[1]))):
            starts = plan.starts[steps.start : steps.stop + 1]
            trees = data.trees[starts[0] : starts[-1]]
            left, prompt, right = (s.astype(float) for s in trees.sizes(data.lengths))
            keys = flops.tree_keys(prompt, left, right)
            self._tokens[steps] = np.add.reduceat(left + prompt + right, starts[:-1] - starts[0])
            keys_per_step[steps] = np.add.reduceat(keys, starts[:-1] - starts[0])
            for name, (shared, last_pruned) in ways.items():
                cost = flops.pair_flops(model, prompt, left, right, shared=shared, pruned=last_pruned)
                self._shares[name][steps] = np.add.reduceat(cost, starts[:-1] - starts[0])
        self._flops = flops.training_flops(model, tokens=self._tokens, keys=keys_per_step)
        self._plan, self._data = plan, data
        self._peak = (mesh.peak_flops(dtype) or 0.0) * devices
        self._since = time.perf_counter()
        self._first_block: float | None = None
        self._seconds, self._steps_timed = 0.0, slice(0, 0)

    def records(
        self, first: int, count: int, values: Mapping[str, np.ndarray], spent: Mapping[str, float]
    ) -> list[dict[str, Any]]:
        """One record a step, of a block's metrics [K] and what each step has `spent`."""
        now = time.perf_counter()
        seconds, self._since = now - self._since, now
        steps = slice(first, first + count)
        if self._first_block is None:
            self._first_block = seconds  # compiling, mostly: kept out of throughput
        else:
            self._seconds += seconds
            self._steps_timed = slice(self._steps_timed.start or first, first + count)
        pairs = np.diff(self._plan.starts)[steps]
        shared = dict(spent) | {
            "pairs_per_second": float(pairs.sum() / seconds),
            "tokens_per_second": float(self._tokens[steps].sum() / seconds),
        }
        shared |= self._of_peak(steps, seconds)
        return [
            {"step": first + i, "pairs": int(pairs[i])}
            | {name: float(v[i]) for name, v in values.items()}
            | shared
            for i in range(count)
        ]

    def _of_peak(self, steps: slice, seconds: float) -> dict[str, float]:
        """The two MFUs of steps that took so long together, where the peak is known."""
        if not self._peak or not seconds:
            return {}
        return {name: float(cost[steps].sum() / seconds / self._peak) for name, cost in self._shares.items()}

    def summary(self, start: int) -> dict[str, Any]:
        """Counts (reproducible) and throughput (not) of the run.

        Throughput leaves out the first block, which compiles, unless there is no other.
        """
        plan = self._plan
        first = self._first_block or 0.0
        timed, seconds = (self._steps_timed, self._seconds) if self._seconds else (slice(start, None), first)
        pairs = np.diff(plan.starts)[timed].sum()
        return {
            "steps": plan.steps,
            "pairs_seen": int(plan.starts[-1]),
            "tokens": int(self._tokens.sum()),
            "flops": float(self._flops.sum()),
            "packing_efficiency": plan.efficiency,
            "dropped_too_long": self._data.dropped,
            "truncated": self._data.truncated,
            "batches": batch_fingerprint(self._data),
            "resumed_at": start,
            "train_seconds": self._seconds + first,
            "first_block_seconds": first,
            "pairs_per_second": float(pairs / seconds) if seconds else 0.0,
            "tokens_per_second": float(self._tokens[timed].sum() / seconds) if seconds else 0.0,
            **self._of_peak(timed, seconds),
        }
