"""From a sweep's config to its cells: the runs wanted, each with its id, its size and its cost."""

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np

from rewardscale import flops
from rewardscale.config import ConfigError, Grid, ModelConfig, Recipe, RunConfig, SweepConfig
from rewardscale.data import rows as tree_rows
from rewardscale.data.subsets import Subset, available, subset
from rewardscale.data.tokenised import TokenisedView
from rewardscale.models.presets import get_model, is_convex
from rewardscale.sweeps.datasets import Dataset


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run wanted, and what it will take.

    Attributes:
      run: its config. raw_pairs, cost: see Subset.
      distinct: how many different responses its pairs are made of.
      tokens, flops: of the whole training (None for convex models).
    """

    run: RunConfig
    raw_pairs: int
    cost: float
    distinct: int
    tokens: int | None
    flops: float | None

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
      ConfigError: an empty or impossible grid, an unknown model or level, a missing learning rate.
      DataError: more pairs asked for than a level has.
    """
    out: dict[str, Cell] = {}
    sizes = None if view is None else _tree_sizes(config, view)
    for grid in (config.sweep, config.also):
        for cell in _grid_cells(config, grid, dataset, view, sizes):
            out.setdefault(cell.run_id, cell)
    if not out:
        raise ConfigError(
            "the sweep has no cells: sweep.models, sweep.pairs, sweep.levels and sweep.draws must not be empty"
        )
    return list(out.values())


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
                    yield _cell(run, chosen, distinct, sizes)


def _recipe(config: SweepConfig, model: str, scale: float) -> Recipe:
    if model not in config.learning_rates:
        known = ", ".join(sorted(config.learning_rates)) or "none"
        raise ConfigError(
            f"learning_rates.{model} is not set (set: {known}); add --config.learning_rates.{model}=..."
        )
    return dataclasses.replace(config.recipe, learning_rate=config.learning_rates[model] * scale)


def _cell(run: RunConfig, chosen: Subset, distinct: int, sizes: _Sizes | None) -> Cell:
    tokens = operations = None
    if isinstance(run.model, ModelConfig) and run.recipe is not None and sizes is not None:
        epochs = run.recipe.positions(run.pairs) / run.pairs
        tokens = round(float(sizes.tokens[chosen.rows].sum()) * epochs)
        keys = float(sizes.keys[chosen.rows].sum()) * epochs
        operations = flops.training_flops(run.recipe.adapt(run.model), tokens=tokens, keys=keys)
    return Cell(run, chosen.raw_pairs, chosen.cost, distinct, tokens, operations)


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
