"""Real people's votes (rewardscale/data/sources/ukpconvarg1.py) as a source of sweeps, split by debate."""

import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl

from rewardscale import atomic
from rewardscale.config import ConfigError, DataConfig
from rewardscale.curation import votes as vote_levels
from rewardscale.data import templates
from rewardscale.data.comparison import DataError
from rewardscale.data.corpus import write_corpus
from rewardscale.data.ledger.ledger import Ledger
from rewardscale.data.levels import Level, level_names, read_level, write_level
from rewardscale.data.sources import ukpconvarg1
from rewardscale.sweeps.configfile import unknown_key
from rewardscale.sweeps.sources.base import VALIDATION, Base, EvaluationSet, Progress, evaluation, named


class VotesDataset(Base):
    """Real people's votes on argument pairs, split by debate (rewardscale/data/sources/ukpconvarg1.py)."""

    headline = "strict"
    cost_unit = "votes"

    def __init__(self, config: DataConfig, directory: Path):
        super().__init__(config, directory)
        self.folds = config.votes.folds
        titles = np.unique(self.groups())
        if not 2 <= self.folds <= len(titles):
            raise ConfigError(
                f"data.votes.folds={self.folds} must lie between 2 and the {len(titles)} debates"
            )
        order = np.random.default_rng([0xF01D, config.votes.seed]).permutation(len(titles))
        self._titles = titles[order]

    @classmethod
    def build(
        cls, config: DataConfig, directory: Path, data_dir: Path | None, progress: Progress | None
    ) -> "VotesDataset":
        if not (directory / "BUILT").exists():
            if data_dir is None:
                raise DataError(
                    "the votes sweep reads ukpconvarg1: say where it lies by --data_dir=DIR or the environment "
                    "variable REWARDSCALE_DATA"
                )
            votes = ukpconvarg1.read(data_dir)
            if not (directory / "corpus").exists():
                write_corpus(
                    directory / "corpus",
                    votes.comparisons,
                    about=ukpconvarg1.ABOUT,
                    columns=votes.columns,
                    progress=named(progress, "corpus", len(votes.comparisons)),
                )
            ledger = Ledger(directory / "ledger")
            if ledger.read().is_empty():
                ledger.append(votes.verdicts)
            atomic.write_json(directory / "BUILT", {"source": "votes"})
        return cls(config, directory)

    @functools.cached_property
    def _verdicts(self) -> pl.DataFrame:
        return Ledger(self.directory / "ledger").read()

    def levels(self) -> list[str]:
        return list(vote_levels.LEVELS)

    @functools.lru_cache(maxsize=64)  # noqa: B019
    def curated(self, name: str, draw: int) -> Level:
        if name not in vote_levels.LEVELS:
            raise ConfigError(f"level: {unknown_key(name, list(vote_levels.LEVELS))}")
        folder = self.directory / "levels" / f"draw-{draw}"
        if name not in level_names(folder):
            made = vote_levels.vote_levels(
                self.manifest, self._verdicts, draw=draw, seed=self.config.votes.seed
            )
            for level in made.values():
                write_level(folder, level)
        return read_level(folder / name)

    def titles(self, fold: int) -> tuple[np.ndarray, np.ndarray]:
        """Debates of the fold's test set and of its validation set."""
        parts = np.array_split(np.arange(len(self._titles)), self.folds)
        after = (parts[fold][-1] + 1 + np.arange(self.config.votes.validation_groups)) % len(self._titles)
        return self._titles[parts[fold]], self._titles[after]

    @functools.lru_cache(maxsize=16)  # noqa: B019
    def pool(self, fold: int) -> np.ndarray:
        test, validation = self.titles(fold)
        held_out = np.isin(self.groups(), np.concatenate([test, validation]))
        return self.manifest["row"].to_numpy()[~held_out]

    @functools.lru_cache(maxsize=16)  # noqa: B019
    def evaluations(self, fold: int) -> Mapping[str, EvaluationSet]:
        test, validation = (np.flatnonzero(np.isin(self.groups(), names)) for names in self.titles(fold))
        return {
            VALIDATION: evaluation(self.level("strict", 0), validation, validation),
            "strict": evaluation(self.level("strict", 0), test, validation),
            "votes": evaluation(self.level("one_vote", 0), test, validation),
        }

    def tokenizer(self) -> tuple[templates.Tokenizer, str]:
        return self._byte_pairs(self.config.votes.bpe_vocab)
