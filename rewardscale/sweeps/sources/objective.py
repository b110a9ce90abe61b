"""Objective pairs (rewardscale/data/sources/mmlu_pro_responses.py) as a source of sweeps, split by question."""

import functools
from collections.abc import Mapping
from pathlib import Path

from rewardscale import atomic
from rewardscale.config import ConfigError, DataConfig
from rewardscale.curation import independent
from rewardscale.data import templates
from rewardscale.data.comparison import DataError
from rewardscale.data.corpus import write_corpus
from rewardscale.data.levels import Level
from rewardscale.data.sources import mmlu_pro_responses
from rewardscale.sweeps.configfile import unknown_key
from rewardscale.sweeps.sources.base import VALIDATION, Base, EvaluationSet, Progress, evaluation, named

KEY = "key"
COST_UNIT = "pairs"


class ObjectiveDataset(Base):
    """Right and wrong answers to one question; the level "key" is the answer key's verdict.

    The other levels are those of a simulated source and a simulated judge whose error rates the config sets, labelled
    anew in each draw (curation/independent.py); "gold" is the key by the name that it has among them.
    """

    headline = KEY
    cost_unit = COST_UNIT

    @classmethod
    def build(
        cls, config: DataConfig, directory: Path, data_dir: Path | None, progress: Progress | None
    ) -> "ObjectiveDataset":
        if not (directory / "BUILT").exists():
            if data_dir is None:
                raise DataError(
                    "the objective sweep reads mmlu-pro-responses: say where it lies by --data_dir=DIR or the "
                    "environment variable REWARDSCALE_DATA"
                )
            if not (directory / "corpus").exists():
                made = mmlu_pro_responses.read(data_dir, config.objective, progress=progress)
                write_corpus(
                    directory / "corpus",
                    made.comparisons,
                    about=made.about,
                    columns=made.columns,
                    progress=named(progress, "corpus", len(made.comparisons)),
                )
            atomic.write_json(directory / "BUILT", {"source": "objective"})
        return cls(config, directory)

    def levels(self) -> list[str]:
        return [KEY, *independent.LEVELS]

    @functools.lru_cache(maxsize=2)  # noqa: B019 - lives as long as the process
    def curated(self, name: str, draw: int) -> Level:
        if name == KEY:
            return self._key  # the same for all draws
        if name not in self.levels():
            raise ConfigError(f"level: {unknown_key(name, self.levels())}")
        return self._simulated(draw)[name]

    @functools.cached_property
    def _key(self) -> Level:
        return Level(
            name=KEY,
            rows=self.manifest["row"].to_numpy(),
            orientation=self.manifest["right"].to_numpy(),
            cost_unit=COST_UNIT,
            about={"rule": "the answer with the answer key's letter is the better one"},
        )

    @functools.lru_cache(maxsize=2)  # noqa: B019
    def _simulated(self, draw: int) -> dict[str, Level]:
        config = self.config.objective
        return independent.simulated_levels(
            self._key,
            self.manifest["split"].to_numpy(),
            flip_rate=config.flip_rate,
            accuracy=config.judge_accuracy,
            draw=draw,
            seed=self.seed,
        )

    @functools.lru_cache(maxsize=1)  # noqa: B019
    def evaluations(self, fold: int) -> Mapping[str, EvaluationSet]:
        del fold
        key, validation = self.level(KEY, 0), self._rows("validation")
        return {
            VALIDATION: evaluation(key, validation, validation),
            KEY: evaluation(key, self._rows("test"), validation),
        }

    def tokenizer(self) -> tuple[templates.Tokenizer, str]:
        return self._byte_pairs(self.config.objective.bpe_vocab)
