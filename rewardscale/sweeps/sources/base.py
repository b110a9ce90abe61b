"""What a sweep needs of its data, and what all sources share: a corpus on disk, its levels, evaluation sets."""

import abc
import dataclasses
import functools
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import polars as pl

from rewardscale import atomic
from rewardscale.config import ConfigError, DataConfig, content_hash
from rewardscale.curation.flips import FLIP, parse_flips, with_flips
from rewardscale.data import templates
from rewardscale.data.comparison import DataError
from rewardscale.data.corpus import Corpus, open_corpus
from rewardscale.data.levels import Level, level_names, read_level
from rewardscale.sweeps.configfile import unknown_key

Progress = Callable[[str, int, int], None]  # (what, done, total)
VALIDATION = "validation"


@dataclasses.dataclass(frozen=True)
class Labelled:
    """Pairs with labels.

    Attributes:
      rows: uint32 [n], corpus rows. orientation: int8 [n].
      target: float64 [n], probability that the response which `orientation` prefers is the better one, where a
        planted world knows it (losses are then expectations over labels); None for 1.
    """

    rows: np.ndarray
    orientation: np.ndarray
    target: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class EvaluationSet:
    """Labelled pairs to evaluate on.

    Attributes:
      pairs: what is evaluated. calibration: validation pairs, labelled in the same way, that fit the
        temperature. bayes_loss: log-loss of the best possible model, if known.
      fingerprint: hash of rows and orientations.
    """

    pairs: Labelled
    calibration: Labelled
    bayes_loss: float | None = None

    @functools.cached_property
    def fingerprint(self) -> str:
        parts = (self.pairs, self.calibration)
        arrays = [[p.rows, p.orientation] + ([] if p.target is None else [p.target]) for p in parts]
        return content_hash([[a.tolist() for a in of] for of in arrays])


class Dataset(Protocol):
    """What a sweep needs of its data; `fold` is -1 where a source has a fixed split."""

    directory: Path
    corpus: Corpus
    folds: int
    headline: str
    cost_unit: str

    def levels(self) -> list[str]: ...
    def level(self, name: str, draw: int) -> Level: ...
    def pool(self, fold: int) -> np.ndarray: ...
    def evaluations(self, fold: int) -> Mapping[str, EvaluationSet]: ...
    def groups(self) -> np.ndarray: ...
    def texts(self) -> np.ndarray: ...
    def tokenizer(self) -> tuple[templates.Tokenizer, str]: ...


class Base(abc.ABC):
    """A corpus on disk, its manifest and its levels; unless a source says otherwise, one fixed split and no folds."""

    folds = 0

    def __init__(self, config: DataConfig, directory: Path):
        self.config, self.directory = config, directory
        self.seed: int = getattr(config, config.source).seed
        self.corpus = open_corpus(directory / "corpus")

    @functools.cached_property
    def manifest(self) -> pl.DataFrame:
        return self.corpus.manifest()

    def groups(self) -> np.ndarray:
        """Group (prompt, debate) of each corpus row."""
        return self.manifest["group"].to_numpy()

    def level(self, name: str, draw: int) -> Level:
        """The level `name`; "<level>+flip0.1" is that level with a tenth of its labels flipped at random."""
        base, rate = parse_flips(name)
        made = self.curated(base, draw)
        return with_flips(made, rate, draw=draw, seed=self.seed) if FLIP in name else made

    @abc.abstractmethod
    def curated(self, name: str, draw: int) -> Level:
        """A level as the source makes it."""

    @functools.lru_cache(maxsize=4)  # noqa: B019 - lives as long as the process
    def pool(self, fold: int) -> np.ndarray:
        """Corpus rows that a fold's runs may be trained on."""
        del fold
        return self._rows("train")

    def texts(self) -> np.ndarray:
        """int32 [rows, 2]: which distinct text each response of a pair is, numbered by first appearance."""
        path = self.directory / "texts.npy"
        if not path.exists():
            number: dict[str, int] = {}
            ids = [[number.setdefault(r, len(number)) for r in c.responses[:2]] for c in self.corpus]
            buffer = io.BytesIO()
            np.save(buffer, np.asarray(ids, np.int32))
            atomic.write_bytes(path, buffer.getvalue())
        return np.load(path)

    def _rows(self, split: str) -> np.ndarray:
        return self.manifest.filter(pl.col("split") == split)["row"].to_numpy()

    def _byte_pairs(self, vocab: int) -> tuple[templates.Tokenizer, str]:
        """A byte-level BPE tokenizer of `vocab` tokens, trained on the corpus's texts, and the chat template."""
        texts = {text: None for c in self.corpus for text in (*(m.content for m in c.prompt), *c.responses)}
        return templates.train_bpe(list(texts), vocab), "chat"

    def _read_level(self, folder: Path, name: str) -> Level:
        if name not in level_names(folder):
            raise ConfigError(f"level {name!r}: {unknown_key(name, list(level_names(folder)))}")
        return read_level(folder / name)


def evaluation(
    level: Level, test: np.ndarray, validation: np.ndarray, bayes_loss: float | None = None
) -> EvaluationSet:
    return EvaluationSet(labelled(level, test), labelled(level, validation), bayes_loss)


def labelled(level: Level, rows: np.ndarray) -> Labelled:
    keep = np.isin(level.rows, rows)
    if not keep.any():
        raise DataError(f"no pair of level {level.name!r} is left to evaluate on")
    return Labelled(level.rows[keep], level.orientation[keep])


def named(progress: Progress | None, what: str, total: int) -> Callable[[int], None] | None:
    return None if progress is None else lambda done: progress(what, done, total)
