"""The grain pipeline: training step number -> the packed rows of that step.

A batch is a pure function of (run config, step): grain's MapDataset indexes steps, a resumed run
starts at `start_step`, and neither the number of workers nor the number of hosts changes the global
batch. No iterator state is saved, so none can go stale. This module imports no jax: grain's workers
import it again.
"""

import dataclasses
import os
import sys
from collections.abc import Iterator

import grain
import numpy as np
from absl import flags

from rewardscale.data import arrays
from rewardscale.data import rows as tree_rows
from rewardscale.data.comparison import DataError
from rewardscale.data.tokenised import token_store
from rewardscale.data.training_data import TrainingData, prepare

__all__ = ["Batch", "Capacity", "StepSource", "TrainingData", "blocks", "capacity", "prepare"]

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Capacity:
    """Static sizes of a step's arrays: microbatches a step and trees a row."""

    microbatches: int
    slots: int


def capacity(
    lengths: np.ndarray,
    *,
    pairs_per_step: int,
    row_length: int,
    rows_per_microbatch: int,
    shared: bool = True,
) -> Capacity:
    """Sizes that hold any step of up to `pairs_per_step` pairs of a view, whatever the subset.

    They depend on the view and the recipe alone, so runs on any subset share one executable. Any two rows
    of a best fit hold more than one row's tokens together, so there are at most 2 * tokens / row_length + 1
    rows, and no more than trees. A truncated tree may be as long as a row, and as short as its responses and
    one prompt token: the sizes hold for "drop" and "truncate_left_of_prompt" alike.

    Args:
      lengths: the view's table [rows, 1 + K]. shared: whether a pair's prompt stands in a row once.
    """
    prompts = 1 if shared else 2
    longest, shortest = 1, row_length
    for piece in arrays.pieces(len(lengths)):
        table = lengths[piece]
        responses = table[:, 1:3].sum(1, dtype=np.int64)
        longest = max(longest, int((prompts * table[:, 0].astype(np.int64) + responses).max()))
        shortest = min(shortest, int(responses.min()))
    longest, shortest = min(row_length, longest), prompts + shortest
    rows = min(pairs_per_step, -(-2 * pairs_per_step * longest // row_length) + 1)
    slots = min(pairs_per_step, row_length // shortest)
    return Capacity(_power_of_two(-(-rows // rows_per_microbatch)), _power_of_two(max(1, slots)))


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()


class StepSource:
    """Random access to steps: `source[s]` is step s's batch for one host.

    Arrays have shape [microbatches, rows_per_microbatch / hosts, ...], padded to the capacity;
    "microbatches" says how many are real, "pairs" how many pairs the whole step has.

    Args:
      data: the run's data. sizes: at least what the plan needs (DataError otherwise).
      host, hosts: which share of each microbatch's rows this host reads.
    """

    def __init__(self, data: TrainingData, sizes: Capacity, *, host: int = 0, hosts: int = 1):
        if (
            sizes.microbatches < data.plan.microbatches.max(initial=0)
            or sizes.slots < data.plan.trees_per_row
        ):
            raise DataError(f"the packing plan needs more than {sizes}: choose a larger capacity")
        if data.plan.rows_per_microbatch % hosts:
            raise DataError(
                f"runtime.rows_per_microbatch={data.plan.rows_per_microbatch} must be divisible "
                f"by the {hosts} hosts"
            )
        self._data, self._sizes = data, sizes
        self._host, self._hosts = host, hosts

    def __len__(self) -> int:
        return self._data.plan.steps

    def __getitem__(self, step: int) -> Batch:
        return {name: values[0] for name, values in self.block(step, 1).items()}

    def block(self, first: int, size: int) -> Batch:
        """Steps first, first + 1, ... stacked to [size, ...]; steps beyond the end have no microbatches.

        Raises IndexError if `first` is no step of the plan.
        """
        data, plan = self._data, self._data.plan
        if not 0 <= first < plan.steps:
            raise IndexError(f"step {first} of {plan.steps}")
        last = min(first + size, plan.steps)
        begin = plan.starts[first]
        planned = slice(begin, plan.starts[last])
        placed, offset, slot = (
            values[planned].astype(np.int64) for values in (plan.row, plan.offset, plan.slot)
        )
        step = np.repeat(np.arange(last - first), np.diff(plan.starts[first : last + 1]))
        share = plan.rows_per_microbatch // self._hosts
        microbatch, within = np.divmod(placed, plan.rows_per_microbatch)
        mine = np.flatnonzero(within // share == self._host)
        here = begin + mine
        row = ((step * self._sizes.microbatches + microbatch) * share + within - self._host * share)[mine]
        rows, slot = size * self._sizes.microbatches * share, slot[mine]
        batch = tree_rows.assemble(
            token_store(data.view_directory),
            data.lengths,
            data.trees[here],
            row,
            offset[mine],
            slot,
            shape=(rows, plan.row_length),
            slots=self._sizes.slots,
            shared=data.shared,
        )
        for name, values in (("weight", data.weight), ("target", data.target)):
            batch[name] = np.zeros((rows, self._sizes.slots), np.float32)
            batch[name][row, slot] = values[here]
        batch["valid"] = np.zeros((rows, self._sizes.slots), np.bool_)
        batch["valid"][row, slot] = True
        batch = {
            name: a.reshape(size, self._sizes.microbatches, share, *a.shape[1:]) for name, a in batch.items()
        }
        for name, counts in (("microbatches", plan.microbatches), ("pairs", np.diff(plan.starts))):
            batch[name] = np.zeros(size, np.int32)
            batch[name][: last - first] = counts[first:last]
        return batch


def blocks(
    source: StepSource,
    *,
    start_step: int,
    steps_per_block: int,
    workers: int = 0,
    end_step: int | None = None,
) -> Iterator[tuple[int, int, Batch]]:
    """Yields (first step, number of steps, batches stacked to [steps_per_block, ...]) from `start_step` on.

    The last block ends at `end_step` (the last step by default); what its arrays hold beyond is not counted.
    `workers` grain processes build blocks ahead (0: a thread of this one).
    """
    end = len(source) if end_step is None else end_step
    firsts = range(start_step, end, steps_per_block)
    if not firsts:
        return
    dataset = grain.MapDataset.source(firsts).map(_Block(source, steps_per_block))
    iterable = dataset.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2))
    if workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # grain asks absl for its own flags, which only absl.app.run parses
        iterable = iterable.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2),
            worker_init_fn=_keep_off_accelerators,
        )
    iterator = iter(iterable)
    try:
        for first, block in zip(firsts, iterator, strict=True):
            yield first, min(steps_per_block, end - first), block
    finally:
        close = getattr(iterator, "close", None)
        if close:
            close()


def _keep_off_accelerators(worker: int, workers: int) -> None:
    """grain brings jax along; a worker that touched it must not take the trainer's TPU or GPU."""
    del worker, workers
    os.environ["JAX_PLATFORMS"] = "cpu"
    if "jax" in sys.modules:  # it has read the environment already
        sys.modules["jax"].config.update("jax_platforms", "cpu")


@dataclasses.dataclass(frozen=True)
class _Block:
    """First step -> block (a class, so that workers can unpickle it)."""

    source: StepSource
    size: int

    def __call__(self, first: int) -> Batch:
        return self.source.block(first, self.size)
