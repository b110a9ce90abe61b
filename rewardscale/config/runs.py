"""What is run: a sweep, one training on files, one run."""

import dataclasses
from collections.abc import Mapping

from rewardscale.config.base import SCIENCE_VERSION, ConfigError, choice, content_hash, positive, science
from rewardscale.config.data import DataConfig
from rewardscale.config.model import ConvexConfig, ModelConfig
from rewardscale.config.training import Recipe, Runtime


@dataclasses.dataclass(frozen=True)
class Grid:
    """Axes whose product is a set of cells.

    Attributes:
      models: names of presets ("w16": a transformer of width 16; "hash4096": convex, 4096 buckets; "vocab64":
        convex, the 64 commonest words).
      pairs: sizes of the subsets trained on, 0 for all that a level keeps. levels: curation levels.
      draws: number of draws (permutation, initialisation and order); `first_draw` the first one's number.
      folds: number of folds used (sources that are split by group), 1 otherwise.
      learning_rate_scales: factors on each model's learning rate (tuning and sensitivity).
      trunks: transformers that differ in pairs alone share the steps before their cooldowns (training/trunk.py): the
        same results in less time. Needs a recipe whose first steps do not depend on their number, and one epoch.
    """

    models: tuple[str, ...] = ()
    pairs: tuple[int, ...] = ()
    levels: tuple[str, ...] = ()
    draws: int = 1
    first_draw: int = 0
    folds: int = 1
    learning_rate_scales: tuple[float, ...] = (1.0,)
    trunks: bool = False


@dataclasses.dataclass(frozen=True)
class Assumed:
    """What a dry run of a training takes for granted, having no weights, data or chips. Enters no run id.

    Attributes:
      pairs: in the data. prompt, response: mean tokens of a prompt, of one response; token lengths that are given
        take the place of both.
      topology: the slice trained on, "v5p:4x4x4", or GPUs, "h100:8". mfu: share of its peak bfloat16 operations that
        the model's own make up while rows are full.
    """

    pairs: int = 0
    prompt: float = 150.0
    response: float = 480.0
    topology: str = ""
    mfu: float = 0.4

    def __post_init__(self) -> None:
        positive("assumed", self, "prompt", "response", "mfu")
        if self.pairs < 0 or self.mfu > 1:
            raise ConfigError(f"assumed: pairs={self.pairs} must not be negative, mfu={self.mfu} not above 1")


@dataclasses.dataclass(frozen=True)
class AssumedSweep(Assumed):
    """What pricing a sweep takes for granted. `pairs` is not used: the grid says how many.

    Attributes:
      slices: of `topology`, each of which runs one cell at a time.
      evaluation_pairs: as many as a cell scores at its end, held-out pairs and benchmarks, with the lengths of the
        data's. start_minutes: of each cell with its chips taken and idle: nodes, image, compiles, checkpoints.
    """

    slices: int = 1
    evaluation_pairs: int = 0
    start_minutes: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("assumed", self, "slices")
        if self.evaluation_pairs < 0 or self.start_minutes < 0:
            raise ConfigError(
                f"assumed: evaluation_pairs={self.evaluation_pairs} and start_minutes={self.start_minutes} must not be "
                "negative"
            )


@dataclasses.dataclass(frozen=True)
class SweepConfig:
    """A whole sweep.

    Attributes:
      name: names the default workdir, runs/<name>.
      sweep: the grid of cells; `also` a second grid of the same sweep (empty by default).
      recipe: how transformers are trained; `learning_rates` sets the peak rate a model name.
      convex: how convex models are fitted.
      seed: enters permutations, initialisations and orders of all runs.
      benchmarks: what every transformer scores when it is trained (names of `rewardscale.evaluate`); no run id
        depends on it.
      assumed: for prices alone (sweeps/pricing.py); no run id depends on it.
    """

    name: str = "sweep"
    seed: int = 0
    data: DataConfig = DataConfig()
    sweep: Grid = Grid()
    also: Grid = Grid()
    recipe: Recipe = Recipe()
    learning_rates: Mapping[str, float] = dataclasses.field(default_factory=dict)
    convex: ConvexConfig = ConvexConfig()
    benchmarks: tuple[str, ...] = ()
    runtime: Runtime = Runtime()
    assumed: AssumedSweep = AssumedSweep()


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One reward model trained on pairs from files (`python -m rewardscale.train`).

    Attributes:
      name: names the default workdir, runs/<name>.
      model: where training starts: a Hugging Face folder, a hub id with `revision` (its commit), or a preset's name
        with random weights ("d6", "qwen3-0.6b"). A reward model keeps its head, a language model gets a fresh one.
      tokenizer: a Hugging Face folder; by default the model's. pad_token: a special token of it, if it names none.
      data, validation: files or folders of pairs, jsonl, parquet, ... (data/sources/formats.py), or "adapter:path" of a
        public set (docs/corpus.md).
      fresh_head: draw a new head although the model has one.
      export_dtype: of the weights written at the end, "float32" or "bfloat16".
      benchmarks: what the trained model is evaluated on at the end (names of `rewardscale.evaluate`).
      seed: of the order, the head and the adapters.
      assumed: for `--dry_run` and `rewardscale.plan` alone.
    """

    name: str = "train"
    model: str = ""
    revision: str = ""
    tokenizer: str = ""
    pad_token: str = ""
    data: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    benchmarks: tuple[str, ...] = ()
    fresh_head: bool = False
    export_dtype: str = "bfloat16"
    seed: int = 0
    recipe: Recipe = Recipe()
    runtime: Runtime = Runtime()
    assumed: Assumed = Assumed()

    def __post_init__(self) -> None:
        choice("export_dtype", self.export_dtype, ("float32", "bfloat16"))


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """One training of one reward model: everything that changes its numbers, nothing else.

    Attributes:
      model_name, model: the preset and what it stands for.
      recipe: for transformers (None for convex models).
      level, pairs, draw, fold, seed: which subset, and the seed of initialisation and order.
      learning_rate_scale: the factor that `recipe.learning_rate` already contains (for tables).
      data: fingerprints of corpus, view, level and subset.
      evaluations: names of the evaluation sets, with fingerprints.
    """

    model_name: str
    model: ModelConfig | ConvexConfig
    recipe: Recipe | None
    level: str
    pairs: int
    draw: int
    fold: int
    seed: int
    learning_rate_scale: float
    data: Mapping[str, str]
    evaluations: Mapping[str, str]
    science_version: int = SCIENCE_VERSION

    @property
    def family(self) -> str:
        """ "transformer" or "convex"."""
        return "convex" if isinstance(self.model, ConvexConfig) else "transformer"

    @property
    def run_id(self) -> str:
        """Hash (20 hex digits) of this config: same id, same science."""
        return content_hash(science(self))
