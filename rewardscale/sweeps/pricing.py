"""What a sweep would take on accelerators, and what it would cost: arithmetic on its grid and `config.assumed`.

    hours of a cell = (FLOPs / filled + evaluation FLOPs) / (chips x peak x share) + start
    cost            = chips x hours of all cells x price of a chip hour

FLOPs and `filled` are those of `train --dry_run` (training/dry_run.py): padding is paid for, what a layer recomputes is
in the share of peak. The evaluation is one forward pass over `assumed.evaluation_pairs` pairs. Bytes a chip are the TPU
compiler's, where `rewardscale.plan` has asked it. Nothing is measured.
"""

import dataclasses
import heapq
import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from rewardscale import flops
from rewardscale.config import Assumed, ConfigError, ModelConfig, SweepConfig, TrainConfig
from rewardscale.models.presets import is_convex
from rewardscale.sweeps import datasets
from rewardscale.sweeps.sweep import Plan
from rewardscale.training import dry_run, planning

Counted = Mapping[tuple[str, int], int]  # (model, pairs) -> cells


@dataclasses.dataclass(frozen=True)
class Priced:
    """Cells that take the same: of one model and number of pairs, whatever level, draw or fold.

    Attributes:
      cells: how many. training: what each one's training takes. evaluation_flops: of each, at its end.
      training_hours, evaluation_hours, start_hours: of each, on its slice.
    """

    model: str
    pairs: int
    cells: int
    training: dry_run.Estimate
    evaluation_flops: float
    training_hours: float
    evaluation_hours: float
    start_hours: float

    @property
    def hours(self) -> float:
        """Of one cell."""
        return self.training_hours + self.evaluation_hours + self.start_hours

    @property
    def chip_hours(self) -> float:
        """Of all its cells."""
        return self.cells * self.hours * self.training.chips


def of_grid(config: SweepConfig) -> Counted:
    """The cells of a sweep whose data need not be there. Raises ConfigError where only data could say what they are."""
    cells = set()
    for grid in (config.sweep, config.also):
        if 0 in grid.pairs:
            raise ConfigError(
                "sweep.pairs=0 is all that a level has, which data must say: name sizes, or leave --without_data out"
            )
        axes = (grid.models, grid.pairs, grid.levels, range(grid.folds), grid.learning_rate_scales)
        draws = range(grid.first_draw, grid.first_draw + grid.draws)
        cells |= set(itertools.product(*axes, draws))
    if not cells:
        raise ConfigError("the sweep has no cells: sweep.models, pairs, levels and draws must not be empty")
    return _count(config, ((model, pairs) for model, pairs, *_ in cells))


def _count(config: SweepConfig, cells: Iterable[tuple[str, int]]) -> Counted:
    """Models in the order of the config, sizes from the smallest."""
    named = (*config.sweep.models, *config.also.models)
    return dict(sorted(Counter(cells).items(), key=lambda item: (named.index(item[0][0]), item[0][1])))


def training_of(config: SweepConfig, model: str, pairs: int) -> TrainConfig:
    """A cell's training as `rewardscale.train` would be told it. Raises ConfigError for a convex model."""
    if is_convex(model):
        raise ConfigError(f"{model} is a convex model, fitted on a CPU: leave it out of what is priced")
    given = config.assumed
    assumed = Assumed(pairs, given.prompt, given.response, given.topology, given.mfu)
    return TrainConfig(model=model, recipe=config.recipe, runtime=config.runtime, assumed=assumed)


def price(
    config: SweepConfig,
    counted: Counted,
    sizes: dry_run.Sizes | None = None,
    models: Mapping[str, ModelConfig] | None = None,
) -> list[Priced]:
    """What cells take on `assumed.topology`, on pairs of these sizes or of the assumed ones.

    `models` are what names stand for that are no published backbones'. Raises ConfigError without a topology, and as
    dry_run.estimate.
    """
    assumed = config.assumed
    if not assumed.topology:
        raise ConfigError("no slice to price: --config.assumed.topology=v5p:4x4x4")
    out = []
    for (model, pairs), cells in counted.items():
        training = training_of(config, model, pairs)
        found = dry_run.estimate(training, sizes, model=(models or {}).get(model))
        tokens, keys = (assumed.evaluation_pairs * each for each in (found.sizes.tokens, found.sizes.keys))
        forward = flops.forward_flops(found.model, tokens=tokens, keys=keys)
        out.append(
            Priced(
                model,
                pairs,
                cells,
                found,
                forward,
                found.hours,
                forward / (found.chips * found.peak * assumed.mfu) / 3600,
                assumed.start_minutes / 60,
            )
        )
    return out


def of_plan(plan: Plan, *, chip_hour_price: float = 0.0) -> str:
    """The page of a sweep's transformers that are not done, pairs as long as those of its tokens.

    One line where none is left. Raises ConfigError as `price`.
    """
    cells = [c for c in plan.todo() if isinstance(c.run.model, ModelConfig)]
    models = {c.run.model_name: c.run.model for c in cells if isinstance(c.run.model, ModelConfig)}
    if not cells:
        return f"{plan.config.assumed.topology}: no transformer is left to train there"
    some = training_of(plan.config, cells[0].run.model_name, cells[0].run.pairs)
    lengths = np.asarray(datasets.view(plan.dataset).lengths)
    sizes = dry_run.sizes_of(some, lengths, source="of the sweep's corpus")
    counted = _count(plan.config, ((c.run.model_name, c.run.pairs) for c in cells))
    priced = price(plan.config, counted, sizes, models)
    return page(plan.config, priced, chip_hour_price=chip_hour_price)


def wall_hours(priced: Sequence[Priced], slices: int) -> float:
    """Until the last cell is done, `slices` at a time, the longest first."""
    ends = [0.0] * slices
    for one in sorted(priced, key=lambda p: -p.hours):
        for _ in range(one.cells):
            heapq.heapreplace(ends, ends[0] + one.hours)
    return max(ends)


def bytes_a_chip(config: TrainConfig, model: ModelConfig) -> str:
    """GiB that the TPU compiler planned for the training's step; of GPUs by arithmetic; or why it is not known."""
    if not config.runtime.row_length:
        return "no row_length"
    job = dry_run.step_job(config, model=model)
    if planning.is_gpu(job.topology):
        return f"{planning.by_arithmetic(job).gib:.1f}"
    try:
        result = planning.Compiler(planning.default_cache(), offline=True)(job)
    except planning.Missing:
        return "not compiled"
    except ConfigError:
        return "no libtpu"
    return f"{result.gib:.1f}" if result.fits else f"{result.gib:.1f}: too many"


def page(config: SweepConfig, priced: Sequence[Priced], *, chip_hour_price: float = 0.0) -> str:
    """For people: every number with what it is made of. Numbers that are shown add up, but for their rounding."""
    assumed, first = config.assumed, priced[0].training
    cells = sum(p.cells for p in priced)
    total = sum(p.cells * p.hours for p in priced)
    chip_hours = sum(p.chip_hours for p in priced)
    wall = wall_hours(priced, assumed.slices)
    share = f"{first.chips} chips x {first.peak / 1e12:,.0f} TFLOP/s x {assumed.mfu:.0%}"
    each = "one cell at a time" if assumed.slices == 1 else f"{assumed.slices} slices, a cell each"
    return "\n".join(
        [
            f"{cells} cells on {assumed.topology}, {first.chips} chips a cell, {each}; pairs of "
            f"{first.sizes.tokens:,.0f} tokens ({first.sizes.source})",
            "",
            *_models(config, priced),
            "",
            *_sizes(priced),
            "",
            f"hours    of a cell = (FLOPs / filled + evaluation FLOPs) / ({share} (assumed)) / 3600 + "
            f"{assumed.start_minutes:g} minutes (assumed)",
            f"         evaluation FLOPs: one forward pass over {assumed.evaluation_pairs:,} pairs (assumed)",
            f"total    {cells} cells, {total:,.2f} hours of a slice; {assumed.slices} at once, the longest first: "
            f"{wall:,.2f} hours, {wall / 24:,.1f} days",
            f"         {first.chips} chips x {total:,.2f} hours = {chip_hours:,.0f} chip hours",
            _cost(chip_hours, chip_hour_price),
            "Nothing was measured or run.",
        ]
    )


def _models(config: SweepConfig, priced: Sequence[Priced]) -> list[str]:
    """A line a model: what its step looks like."""
    widths = (16, 10, 8, 8, 7, 16)
    lines = [_columns(widths, ("model", "mesh", "rows", "length", "filled", "GiB a chip"))]
    for name in dict.fromkeys(p.model for p in priced):
        one = next(p for p in reversed(priced) if p.model == name)
        training = training_of(config, name, one.pairs)
        shape = planning.mesh_over(training.assumed.topology, config.runtime.mesh, model=one.training.model)
        size = (f"{one.training.together}", f"{config.runtime.row_length:,}", f"{one.training.filled:.0%}")
        lines.append(
            _columns(
                widths, (name, ",".join(map(str, shape)), *size, bytes_a_chip(training, one.training.model))
            )
        )
    lines.append(
        "GiB by arithmetic (flops.device_bytes): no compiler was asked"
        if planning.is_gpu(config.assumed.topology)
        else "GiB as the TPU compiler planned them for the step: rewardscale.plan --sweep=... asks it"
    )
    asked = config.runtime.rows_per_microbatch
    if any(p.training.together != asked for p in priced):
        lines.append(
            f"runtime.rows_per_microbatch={asked} cannot be dealt over data x fsdp: set it to the rows above, as priced"
        )
    return lines


def _sizes(priced: Sequence[Priced]) -> list[str]:
    """A line a (model, pairs), then one a model and one for all."""
    widths = (16, 11, 6, 9, 10, 10, 8, 7, 10, 11)
    heads = (
        "model",
        "pairs",
        "cells",
        "steps",
        "FLOPs",
        "training",
        "eval",
        "start",
        "cells x h",
        "chip hours",
    )
    lines = [_columns(widths, heads)]

    def total(name: str, part: Sequence[Priced]) -> str:
        hours, chips = sum(p.cells * p.hours for p in part), sum(p.chip_hours for p in part)
        counts = (name, "all", str(sum(p.cells for p in part)), *[""] * 5)
        return _columns(widths, (*counts, f"{hours:,.2f}", f"{chips:,.1f}"))

    for p in priced:
        hours = (p.training_hours, p.evaluation_hours, p.start_hours)
        lines.append(
            _columns(
                widths,
                (
                    *(
                        p.model,
                        f"{p.pairs:,}",
                        str(p.cells),
                        f"{p.training.steps:,}",
                        f"{p.training.flops:.3g}",
                    ),
                    *(f"{h:,.3f}" for h in hours),
                    *(f"{p.cells * p.hours:,.2f}", f"{p.chip_hours:,.1f}"),
                ),
            )
        )
    names = dict.fromkeys(p.model for p in priced)
    return [*lines, *(total(n, [p for p in priced if p.model == n]) for n in names), total("all", priced)]


def _cost(chip_hours: float, chip_hour_price: float) -> str:
    if not chip_hour_price:
        return f"cost     {chip_hours:,.0f} chip hours x the price of one, which --chip_hour_price=... says"
    return (
        f"cost     {chip_hours:,.0f} chip hours x {chip_hour_price:g} (--chip_hour_price) = "
        f"{chip_hours * chip_hour_price:,.0f}"
    )


def _columns(widths: Sequence[int], values: Sequence[str]) -> str:
    return " ".join(f"{value:>{width}}" for width, value in zip(widths, values, strict=True)).rstrip()
