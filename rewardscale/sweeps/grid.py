"""From a sweep's config to its cells: the runs wanted, each with its id, its size and its cost."""

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np

from rewardscale import flops
from rewardscale.config import (
    ConfigError,
    Grid,
    ModelConfig,
    Recipe,
    RunConfig,
    SweepConfig,
    content_hash,
    science,
)
from rewardscale.data import rows as tree_rows
from rewardscale.data.subsets import Subset, available, subset
from rewardscale.data.tokenised import TokenisedView
from rewardscale.data.training_data import positions_left
from rewardscale.models.presets import get_model, is_convex
from rewardscale.sweeps.datasets import Dataset


@dataclasses.dataclass(frozen=True)
class Branch:
    """How a cell shares a trunk with others (training/trunk.py).

    Attributes:
      trunk: id of the trunk: a hash of all that decides a step, which is the run but for its length.
      steps: where cells leave the trunk, in order, up to where this one does.
      tokens, flops: of the steps before that.
      follows: whether another cell of the sweep goes at least as far, and so trains those steps.
    """

    trunk: str
    steps: tuple[int, ...]
    tokens: int
    flops: float
    follows: bool = False


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run wanted, and what it will take.

    Attributes:
      run: its config. raw_pairs, cost: see Subset.
      distinct: how many different responses its pairs are made of.
      tokens, flops: of the whole training (None for convex models).
      branch: the trunk it shares with others, or None.
    """

    run: RunConfig
    raw_pairs: int
    cost: float
    distinct: int
    tokens: int | None
    flops: float | None
    branch: Branch | None = None

    @property
    def own_tokens(self) -> int:
        """Tokens that no other cell of the sweep trains on in its place."""
        return (self.tokens or 0) - (self.branch.tokens if self.branch and self.branch.follows else 0)

    @property
    def own_flops(self) -> float:
        """FLOPs that no other cell of the sweep does in its place."""
        return (self.flops or 0.0) - (self.branch.flops if self.branch and self.branch.follows else 0.0)

    @property
    def run_id(self) -> str:
        return self.run.run_id

    @property
    def label(self) -> str:
        """A short name for people: model/level/pairs/draw."""
        run = self.run
        fold = f"/fold{run.fold}" if run.fold >= 0 else ""
        scale = f"/lr x{run.learning_rate_scale:g}" if run.learning_rate_scale != 1 else ""
        return f"{run.model_name}/{run.level}/{run.pairs}/draw{run.draw}{fold}{scale}"


@dataclasses.dataclass(frozen=True)
class _Sizes:
    """Tokens and (token, key) pairs of each corpus row's tree, float64 [rows]."""

    tokens: np.ndarray
    keys: np.ndarray


def needs_tokens(config: SweepConfig) -> bool:
    """Whether any model of the sweep reads tokens."""
    return not all(is_convex(name) for name in (*config.sweep.models, *config.also.models))


def cells(config: SweepConfig, dataset: Dataset, view: TokenisedView | None) -> list[Cell]:
    """All cells of the sweep, each once, in the order of the grids.

    Raises:
      ConfigError: an empty or impossible grid, an unknown model or level, a missing learning rate, a recipe.max_length
        at which a transformer could not score all evaluation pairs.
      DataError: more pairs asked for than a level has.
    """
    for name, grid in (("sweep", config.sweep), ("also", config.also)):
        if grid.trunks and config.recipe.why_no_trunk() and not all(map(is_convex, grid.models)):
            raise ConfigError(f"{name}.trunks: {config.recipe.why_no_trunk()}")
    out: dict[str, Cell] = {}
    sizes = None if view is None else _tree_sizes(config, view)
    for grid in (config.sweep, config.also):
        for cell in _grid_cells(config, grid, dataset, view, sizes):
            out.setdefault(cell.run_id, cell)
    if view is not None:
        _check_lengths(config, dataset, view)
    if not out:
        raise ConfigError(
            "the sweep has no cells: sweep.models, sweep.pairs, sweep.levels and sweep.draws must not be empty"
        )
    return _with_trunks(list(out.values()))


def _check_lengths(config: SweepConfig, dataset: Dataset, view: TokenisedView) -> None:
    """Raises ConfigError if an evaluation pair leaves no room for a prompt: each cell would fail after its training."""
    longest = config.recipe.max_length
    grids = [g for g in (config.sweep, config.also) if not all(map(is_convex, g.models))]
    for fold in range(max((g.folds for g in grids), default=0)) if dataset.folds else (-1,) * bool(grids):
        for name, found in dataset.evaluations(fold).items():
            rows = np.union1d(found.pairs.rows, found.calibration.rows)
            keep, _ = tree_rows.fit_to(
                view.lengths, rows, max_length=longest, too_long="truncate_left_of_prompt"
            )
            if not keep.all():
                needed = int(view.lengths[rows][:, 1:].max()) + 1
                raise ConfigError(
                    f"recipe.max_length={longest} is too short for {int((~keep).sum()):,} of the {len(keep):,} pairs "
                    f"of the evaluation set {name!r} (corpus row {int(rows[~keep][0])}): set it to at least {needed}"
                )


def _with_trunks(cells: list[Cell]) -> list[Cell]:
    """The cells, told where others leave their trunks; who has a trunk for itself has none."""
    trunks: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell.branch is not None:
            trunks.setdefault(cell.branch.trunk, []).append(cell)
    out = {}
    for members in trunks.values():
        steps = sorted({step for c in members if c.branch for step in c.branch.steps})
        longest = max(members, key=lambda c: (c.branch.steps[-1] if c.branch else 0, c.run.pairs))
        for cell in members:
            assert cell.branch is not None
            own = tuple(step for step in steps if step <= cell.branch.steps[-1])
            branch = dataclasses.replace(cell.branch, steps=own, follows=cell is not longest)
            out[cell.run_id] = dataclasses.replace(cell, branch=branch if len(members) > 1 else None)
    return [out.get(cell.run_id, cell) for cell in cells]


def _grid_cells(
    config: SweepConfig, grid: Grid, dataset: Dataset, view: TokenisedView | None, sizes: _Sizes | None
) -> Iterator[Cell]:
    if grid.folds > max(1, dataset.folds):
        raise ConfigError(f"sweep.folds={grid.folds}: the data has {dataset.folds or 'no'} folds")
    folds = range(grid.folds) if dataset.folds else (-1,)
    draws = range(grid.first_draw, grid.first_draw + grid.draws)
    texts = dataset.texts()
    for level, draw in itertools.product(grid.levels, draws):
        curated = dataset.level(level, draw)
        data = {"corpus": dataset.corpus.fingerprint, "level": curated.fingerprint}
        for fold, size in itertools.product(folds, grid.pairs):
            pairs = size or available(curated, dataset.pool(fold))
            chosen = subset(curated, pairs, pool=dataset.pool(fold), seed=config.seed, draw=draw)
            distinct = len(np.unique(texts[chosen.rows]))
            evaluations = {name: e.fingerprint for name, e in dataset.evaluations(fold).items()}
            for name in grid.models:
                scales = (1.0,) if is_convex(name) else grid.learning_rate_scales
                for scale in scales:
                    run = RunConfig(
                        model_name=name,
                        model=get_model(
                            name, vocab_size=view.vocab_size if view else 0, convex=config.convex, draw=draw
                        ),
                        recipe=None if is_convex(name) else _recipe(config, name, scale),
                        level=level,
                        pairs=pairs,
                        draw=draw,
                        fold=fold,
                        seed=config.seed,
                        learning_rate_scale=scale,
                        data=data
                        | {"subset": chosen.fingerprint}
                        | ({} if is_convex(name) or view is None else {"view": view.key}),
                        evaluations=evaluations,
                    )
                    yield _cell(run, chosen, distinct, sizes, grid.trunks)


def _recipe(config: SweepConfig, model: str, scale: float) -> Recipe:
    if model not in config.learning_rates:
        known = ", ".join(sorted(config.learning_rates)) or "none"
        raise ConfigError(
            f"learning_rates.{model} is not set (set: {known}); add --config.learning_rates.{model}=..."
        )
    return dataclasses.replace(config.recipe, learning_rate=config.learning_rates[model] * scale)


def _cell(run: RunConfig, chosen: Subset, distinct: int, sizes: _Sizes | None, trunks: bool) -> Cell:
    tokens = operations = branch = None
    if isinstance(run.model, ModelConfig) and run.recipe is not None and sizes is not None:
        epochs = run.recipe.positions(run.pairs) / run.pairs
        tokens = round(float(sizes.tokens[chosen.rows].sum()) * epochs)
        keys = float(sizes.keys[chosen.rows].sum()) * epochs
        operations = flops.training_flops(run.recipe.adapt(run.model), tokens=tokens, keys=keys)
        branch = _branch(run, chosen, sizes) if trunks else None
    return Cell(run, chosen.raw_pairs, chosen.cost, distinct, tokens, operations, branch)


def _branch(run: RunConfig, chosen: Subset, sizes: _Sizes) -> Branch | None:
    """The trunk that a run could share, left where its cooldown begins; None where that is its first step."""
    assert isinstance(run.model, ModelConfig) and run.recipe is not None
    recipe, batch = run.recipe, run.recipe.batch_size(run.pairs)
    rows = chosen.rows[sizes.tokens[chosen.rows] > 0]  # the others are too long and dropped
    if not len(rows):
        return None
    step = recipe.trunk_steps(positions_left(recipe.positions(run.pairs), len(rows), run.pairs), batch)
    if not step:
        return None
    here = rows[: step * batch]
    tokens, keys = float(sizes.tokens[here].sum()), float(sizes.keys[here].sum())
    # Schedule and cooldown have not acted yet; what the rest of these decides is the batch.
    lengths = {
        "epochs": 1.0,
        "min_steps": 1,
        "min_pairs_per_step": 1,
        "schedule": "constant",
        "cooldown": 0.0,
    }
    shared = dataclasses.replace(
        run,
        pairs=0,
        recipe=dataclasses.replace(recipe, **lengths),
        data={name: value for name, value in run.data.items() if name != "subset"},
        evaluations={},
    )
    done = flops.training_flops(recipe.adapt(run.model), tokens=tokens, keys=keys)
    return Branch(content_hash(science(shared) | {"batch": batch}), (step,), round(tokens), done)


def _tree_sizes(config: SweepConfig, view: TokenisedView) -> _Sizes:
    """Sizes of each corpus row's tree; 0 for rows that are too long and dropped."""
    lengths = view.lengths.astype(float)
    prompt, responses = lengths[:, 0], lengths[:, 1:]
    keys = flops.tree_keys(prompt, *responses.T)
    recipe = config.recipe
    keep, _ = tree_rows.fit_to(
        view.lengths, np.arange(len(view)), max_length=recipe.max_length, too_long=recipe.too_long
    )
    return _Sizes(lengths.sum(1) * keep, keys * keep)
