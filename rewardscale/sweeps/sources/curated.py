"""A finished curation run (rewardscale/curate.py) as a source of sweeps: its corpus, its levels, held-out truth.

Evaluated on the pairs that curation never saw, where the truth of the corpus's own test split is known (planted worlds,
ukpconvarg1); else on the gold validation split, which no level of a sweep then contains: one half of its groups is the
test set, the other fits the temperature.
"""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rewardscale import atomic
from rewardscale.config import ConfigError, DataConfig
from rewardscale.config.data import WorldConfig
from rewardscale.data import planted, templates
from rewardscale.data.comparison import DataError
from rewardscale.data.corpus import open_corpus
from rewardscale.data.levels import Level, level_names, read_level
from rewardscale.sweeps.configfile import from_mapping
from rewardscale.sweeps.sources.base import VALIDATION, Base, EvaluationSet, Progress, evaluation

_HALVES = 0x5A17


class CuratedDataset(Base):
    """What a curation run made."""

    headline = "gold"

    def __init__(self, config: DataConfig, directory: Path, run: Path):
        self.config, self.directory, self.run = config, directory, run
        self.seed = config.curated.seed
        self.made: dict[str, Any] = json.loads((run / "config.json").read_text())
        self.cost_unit = self.made["cost_unit"]
        self.corpus = open_corpus(Path(json.loads((run / "corpus.json").read_text())["directory"]))

    @classmethod
    def build(
        cls, config: DataConfig, directory: Path, data_dir: Path | None, progress: Progress | None
    ) -> "CuratedDataset":
        del data_dir, progress  # it is made already
        run = Path(config.curated.workdir)
        if not config.curated.workdir or not (run / "report.json").is_file():
            raise ConfigError(
                f"data.curated.workdir={config.curated.workdir!r} is no finished curation run: "
                "python -m rewardscale.curate makes one"
            )
        found = cls(config, directory, run)
        _same_corpus(found)
        return found

    def levels(self) -> list[str]:
        return list(level_names(self.run / "levels"))

    @functools.lru_cache(maxsize=64)  # noqa: B019 - lives as long as the process
    def curated(self, name: str, draw: int) -> Level:
        del draw  # all draws share the run's levels
        return self._read_level(self.run / "levels", name)

    @functools.lru_cache(maxsize=4)  # noqa: B019
    def pool(self, fold: int) -> np.ndarray:
        rows = super().pool(fold)
        if self._has_truth:
            return rows
        names = self._names()
        return rows[~np.isin(names[rows], names[self._gold_validation.rows])]

    @functools.lru_cache(maxsize=4)  # noqa: B019
    def evaluations(self, fold: int) -> Mapping[str, EvaluationSet]:
        del fold
        if not self._has_truth:
            gold, (test, validation) = self._gold_validation, self._halves()
            return {
                VALIDATION: evaluation(gold, validation, validation),
                "gold": evaluation(gold, test, validation),
            }
        truth = self._all("gold")
        test, validation = (np.intersect1d(self._rows(name), truth.rows) for name in ("test", "validation"))
        bayes = None
        if "p_gold" in self.manifest.columns:
            bayes = planted.entropy(self.manifest["p_gold"].to_numpy()[test])
        return {
            VALIDATION: evaluation(truth, validation, validation),
            "gold": evaluation(truth, test, validation, bayes),
            "raw": evaluation(self._all("preferred"), test, validation),
        }

    def tokenizer(self) -> tuple[templates.Tokenizer, str]:
        if self.made["source"] == "planted":
            return planted.tokenizer(from_mapping(WorldConfig, self.made["planted"]["world"])), "words"
        return self._byte_pairs(self.config.curated.bpe_vocab)

    @property
    def _has_truth(self) -> bool:
        return "gold" in self.manifest.columns and bool((self.manifest["split"] == "test").any())

    @functools.cached_property
    def _gold_validation(self) -> Level:
        return read_level(self.run / "evaluation" / "gold_validation")

    def _names(self) -> np.ndarray:
        """What the gold validation split does not share with training: groups, or pairs."""
        return self.groups() if self.made["validation_by"] == "group" else self.manifest["row"].to_numpy()

    def _halves(self) -> tuple[np.ndarray, np.ndarray]:
        rows = self._gold_validation.rows
        names = self._names()[rows]
        order = np.random.default_rng([_HALVES, self.seed]).permutation(np.unique(names))
        if len(order) < 2:
            raise DataError(
                f"{self.run}: {len(rows)} gold validation pairs of one group are too few to evaluate on"
            )
        test = np.isin(names, order[: (len(order) + 1) // 2])
        return rows[test], rows[~test]

    def _all(self, column: str) -> Level:
        """The labels of a column of the manifest."""
        labels = self.manifest[column].fill_null(0).to_numpy()
        rows = np.flatnonzero(labels)
        return Level(column, rows.astype(np.uint32), labels[rows].astype(np.int8))


def _same_corpus(found: CuratedDataset) -> None:
    """Raises DataError if the sweep's data were made from another corpus in the same place."""
    path, own = found.directory / "BUILT", {"source": "curated", "corpus": found.corpus.fingerprint}
    if not path.exists():
        atomic.write_json(path, own)
    elif json.loads(path.read_text()) != own:
        raise DataError(
            f"{found.run} holds another corpus than when {found.directory} was made; delete the latter"
        )
