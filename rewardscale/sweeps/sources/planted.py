"""A planted world (rewardscale/data/planted.py) as a source of sweeps."""

import functools
from collections.abc import Mapping
from pathlib import Path

from rewardscale import atomic
from rewardscale.config import DataConfig
from rewardscale.curation import planted as planted_levels
from rewardscale.data import planted, templates
from rewardscale.data.levels import Level, level_names
from rewardscale.sweeps.sources.base import VALIDATION, Base, EvaluationSet, Progress, evaluation, named


class PlantedDataset(Base):
    """A planted world (rewardscale/data/planted.py)."""

    headline = "gold"
    cost_unit = "raw pairs"

    @classmethod
    def build(
        cls, config: DataConfig, directory: Path, data_dir: Path | None, progress: Progress | None
    ) -> "PlantedDataset":
        del data_dir  # nothing to read
        if not (directory / "BUILT").exists():
            sizes = config.planted
            total = sizes.train + sizes.validation + sizes.test
            planted_levels.build(config.planted, directory, progress=named(progress, "corpus", total))
            atomic.write_json(directory / "BUILT", {"source": "planted"})
        return cls(config, directory)

    def levels(self) -> list[str]:
        return list(level_names(self.directory / "levels"))

    @functools.lru_cache(maxsize=16)  # noqa: B019 - lives as long as the process
    def curated(self, name: str, draw: int) -> Level:
        del draw  # one verdict a row: all draws share the levels
        return self._read_level(self.directory / "levels", name)

    @functools.lru_cache(maxsize=4)  # noqa: B019
    def evaluations(self, fold: int) -> Mapping[str, EvaluationSet]:
        del fold
        test, validation = self._rows("test"), self._rows("validation")
        p = {name: self.manifest[f"p_{name}"].to_numpy()[test] for name in ("gold", "raw")}
        return {
            VALIDATION: evaluation(self.level("gold", 0), validation, validation),
            "gold": evaluation(self.level("gold", 0), test, validation, planted.entropy(p["gold"])),
            "raw": evaluation(self.level("raw", 0), test, validation, planted.entropy(p["raw"])),
        }

    def tokenizer(self) -> tuple[templates.Tokenizer, str]:
        return planted.tokenizer(self.config.planted.world), "words"
