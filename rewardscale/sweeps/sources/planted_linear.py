"""The planted convex world (rewardscale/data/planted_linear.py) as a source of sweeps.

<directory>/truth.json says what a sweep on it must find (curation/planted_linear_truth.py).
"""

import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from rewardscale import atomic
from rewardscale.config import ConfigError, DataConfig, to_mapping
from rewardscale.curation import planted_linear as linear_levels
from rewardscale.curation.planted_linear_truth import truth
from rewardscale.data import planted_linear, templates
from rewardscale.data.corpus import write_corpus
from rewardscale.data.levels import Level
from rewardscale.sweeps.configfile import unknown_key
from rewardscale.sweeps.sources.base import VALIDATION, Base, EvaluationSet, Labelled, Progress, named


class PlantedLinearDataset(Base):
    """The planted convex world."""

    headline = "gold"
    cost_unit = linear_levels.COST_UNIT

    @classmethod
    def build(
        cls, config: DataConfig, directory: Path, data_dir: Path | None, progress: Progress | None
    ) -> "PlantedLinearDataset":
        del data_dir  # nothing to read
        world = config.planted_linear
        sizes = {"train": world.train, "validation": world.validation, "test": world.test}
        splits = np.repeat(list(sizes), list(sizes.values()))
        if not (directory / "BUILT").exists():
            pairs = planted_linear.sample_pairs(world, len(splits))
            if not (directory / "corpus").exists():
                write_corpus(
                    directory / "corpus",
                    list(planted_linear.comparisons(pairs, splits.tolist())),
                    about={"generator": "planted_linear", "config": to_mapping(world)},
                    columns={"gold_margin": pairs.margin, "longer": -np.sign(np.diff(pairs.length)[:, 0])},
                    progress=named(progress, "corpus", len(splits)),
                )
            test = planted_linear.corpus_population(world, pairs, np.flatnonzero(splits == "test"))
            atomic.write_json(directory / "truth.json", truth(world, test))
            atomic.write_json(directory / "BUILT", {"source": "planted_linear"})
        return cls(config, directory)

    def levels(self) -> list[str]:
        return list(linear_levels.rules(self.config.planted_linear))

    @functools.lru_cache(maxsize=64)  # noqa: B019 - lives as long as the process
    def curated(self, name: str, draw: int) -> Level:
        if name not in self.levels():
            raise ConfigError(f"level: {unknown_key(name, self.levels())}")
        longer = self.manifest["longer"].to_numpy()
        return linear_levels.level(self.config.planted_linear, name, self._margin, longer, draw=draw)

    @functools.lru_cache(maxsize=4)  # noqa: B019
    def evaluations(self, fold: int) -> Mapping[str, EvaluationSet]:
        """ "gold": expectations over Bradley-Terry labels. "sign": which response has the higher gold reward."""
        del fold
        test, validation = self._rows("test"), self._rows("validation")
        soft, hard = (functools.partial(self._labelled, soft=soft) for soft in (True, False))
        return {
            VALIDATION: EvaluationSet(soft(validation), soft(validation)),
            "gold": EvaluationSet(soft(test), soft(validation), linear_levels.entropy(self._margin[test])),
            "sign": EvaluationSet(hard(test), hard(validation), 0.0),
        }

    def tokenizer(self) -> tuple[templates.Tokenizer, str]:
        return planted_linear.tokenizer(self.config.planted_linear), "words"

    @functools.cached_property
    def _margin(self) -> np.ndarray:
        return self.manifest["gold_margin"].to_numpy()

    def _labelled(self, rows: np.ndarray, *, soft: bool) -> Labelled:
        margin = self._margin[rows]
        orientation = np.where(margin > 0, 1, -1).astype(np.int8)
        return Labelled(rows, orientation, 1 / (1 + np.exp(-np.abs(margin))) if soft else None)
