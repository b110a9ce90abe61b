"""The pairs that a curation run starts from, with the labels as found.

    <workdir>/corpus        planted worlds and ukpconvarg1: written here; a finished corpus stays where it is

A corpus's manifest says `preferred` (+1, -1, 0 for no label: the label as found), and where it is known `gold` (the
truth, 0 where there is none), `gold_margin` and `p_raw` (planted worlds: P(a label as found is +1)).
"""

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from rewardscale.config import ConfigError, to_mapping
from rewardscale.config.curation import CurationConfig
from rewardscale.data import planted
from rewardscale.data.comparison import DataError
from rewardscale.data.corpus import Corpus, open_corpus, write_corpus
from rewardscale.data.ledger.ledger import Ledger
from rewardscale.data.sources import ukpconvarg1

SOURCE = "source"
_VOTES = 0xB0CE  # stream of the order of votes
_SPLIT = 0x5917


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What all stages read.

    Attributes:
      corpus: the comparisons. manifest: its manifest.
      original: int8 [rows], +1, -1, 0 where the source has no label.
      pool: bool [rows], the pairs that curation may judge and keep: training split, two responses.
      truth: int8 [rows], 0 where unknown, or None. margin: float64 [rows], in Bradley-Terry units, or None.
      votes: people's votes that may be asked for (VERDICT_COLUMNS), or None.
    """

    corpus: Corpus
    manifest: pl.DataFrame
    original: np.ndarray
    pool: np.ndarray
    truth: np.ndarray | None
    margin: np.ndarray | None
    votes: pl.DataFrame | None = None

    def __len__(self) -> int:
        return len(self.manifest)

    @functools.cached_property
    def labelled(self) -> np.ndarray:
        """bool [rows]: pairs of the pool that have a label as found: the level raw."""
        return self.pool & (self.original != 0)

    @functools.cached_property
    def ids(self) -> list[str]:
        """Content id of each row."""
        return self.manifest["id"].to_list()

    @functools.cached_property
    def prompts(self) -> np.ndarray:
        """Prompt hash of each row."""
        return self.manifest["prompt_hash"].to_numpy()

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """int64 [rows], characters of both responses together; reads the whole corpus."""
        return np.fromiter((sum(map(len, c.responses)) for c in self.corpus), np.int64, len(self))

    @functools.cached_property
    def groups(self) -> np.ndarray:
        """Group of each row: what validation does not split."""
        return self.manifest["group"].to_numpy()


def prepare(
    config: CurationConfig,
    workdir: Path,
    data_dir: Path | None = None,
    *,
    progress: Callable[[int], None] | None = None,
) -> Inputs:
    """Opens the run's pairs, writing the corpus first where there is none, and the labels as found to the ledger.

    Raises ConfigError or DataError, with the mend.
    """
    if config.source == "corpus":
        return _inputs(_finished(Path(config.corpus), data_dir))
    if config.source == "planted":
        return _inputs(_planted(config, workdir, progress))
    return _votes(config, workdir, data_dir, progress)


def add_source_verdicts(inputs: Inputs, ledger: Ledger) -> None:
    """The labels as found, as verdicts of the source; once."""
    labelled = inputs.original != 0
    table = inputs.manifest.filter(labelled).select(
        "row",
        pl.col("id").alias("comparison"),
        pl.lit(SOURCE).alias("annotator"),
        pl.lit("source").alias("kind"),
        pl.lit(0).alias("round"),
        pl.Series("preferred", inputs.original[labelled]),
        pl.lit(None, dtype=pl.Float32).alias("confidence"),
        pl.lit(0.0).alias("cost"),
        pl.concat_str(pl.lit("source:"), "id", pl.lit(":"), "row").alias("key"),
    )
    ledger.append(table)


def _inputs(corpus: Corpus, votes: pl.DataFrame | None = None) -> Inputs:
    manifest = corpus.manifest()
    if "preferred" not in manifest.columns:
        raise DataError(
            f"{corpus.directory}: its manifest has no `preferred`; build it with rewardscale.build"
        )

    def column(name: str) -> np.ndarray | None:
        return manifest[name].fill_null(0).to_numpy() if name in manifest.columns else None

    return Inputs(
        corpus=corpus,
        manifest=manifest,
        original=manifest["preferred"].fill_null(0).cast(pl.Int8).to_numpy(),
        pool=((manifest["split"] == "train") & (manifest["responses"] == 2)).to_numpy(),
        truth=column("gold"),
        margin=column("gold_margin"),
        votes=votes,
    )


def _finished(folder: Path, data_dir: Path | None) -> Corpus:
    for place in (data_dir / folder if data_dir and not folder.is_absolute() else folder, folder):
        if (place / "corpus").is_dir():
            return open_corpus(place / "corpus")
    raise ConfigError(
        f"corpus={str(folder)!r} is no finished corpus: build it with python -m rewardscale.build"
    )


def _planted(config: CurationConfig, workdir: Path, progress: Callable[[int], None] | None) -> Corpus:
    world = config.planted
    about = {"generator": "planted", "config": to_mapping(world)}
    if (workdir / "corpus").exists():
        return _same(open_corpus(workdir / "corpus"), about, workdir)
    sizes = {"train": world.train, "validation": world.validation, "test": world.test}
    splits = np.repeat(list(sizes), list(sizes.values()))
    pairs = planted.sample_pairs(world.world, len(splits), stream=world.seed)
    labels = planted.label(pairs, world)
    columns = {
        "preferred": labels.raw,
        "gold": labels.gold,
        "gold_margin": pairs.margin,
        "p_gold": labels.p_gold,
        "p_raw": labels.p_raw,
    }
    comparisons = planted.comparisons(pairs, splits.tolist())
    return write_corpus(workdir / "corpus", comparisons, about=about, columns=columns, progress=progress)


def _same(corpus: Corpus, about: dict, workdir: Path) -> Corpus:
    if corpus.about != json.loads(json.dumps(about)):
        raise DataError(
            f"{corpus.directory} holds another corpus; delete {workdir} or choose another --workdir"
        )
    return corpus


def _votes(
    config: CurationConfig, workdir: Path, data_dir: Path | None, progress: Callable[[int], None] | None
) -> Inputs:
    """Of each pair's votes, in random order: the first is the label as found, the second a person's, the rest truth."""
    if data_dir is None:
        raise DataError(
            "the votes source reads ukpconvarg1: say where it lies by --data_dir=DIR or the environment "
            "variable REWARDSCALE_DATA"
        )
    read = ukpconvarg1.read(data_dir)
    shuffled = read.verdicts.with_columns(
        order=pl.Series(np.random.default_rng([_VOTES, config.seed]).random(len(read.verdicts)))
    ).sort("row", "order")
    turn = shuffled.with_columns(turn=pl.int_range(pl.len()).over("row"))
    per_row = (
        turn.group_by("row", maintain_order=True)
        .agg(
            preferred=pl.col("preferred").filter(pl.col("turn") == 0).first(),
            total=pl.col("preferred").filter(pl.col("turn") >= 2).sum(),
            held_out=(pl.col("turn") >= 2).sum(),
        )
        .sort("row")
    )
    total, held_out = per_row["total"].to_numpy().astype(float), per_row["held_out"].to_numpy()
    margin = config.votes.margin * total / np.maximum(held_out, 1)
    titles = np.unique([c.group for c in read.comparisons])
    titles = titles[np.random.default_rng([_SPLIT, config.seed]).permutation(len(titles))]
    test, validation = config.votes.test_groups, config.votes.validation_groups
    if not 0 < test + validation < len(titles):
        raise ConfigError(
            f"votes: test_groups and validation_groups must leave some of {len(titles)} debates"
        )
    split = dict.fromkeys(titles, "train") | dict.fromkeys(titles[:test], "test")
    split |= dict.fromkeys(titles[test : test + validation], "validation")
    about = {**ukpconvarg1.ABOUT, "config": to_mapping(config.votes), "seed": config.seed}
    if (workdir / "corpus").exists():
        corpus = _same(open_corpus(workdir / "corpus"), about, workdir)
    else:
        columns = {
            "preferred": per_row["preferred"],
            "gold": np.sign(total).astype(np.int8),
            "gold_margin": margin,
        }
        texts = [dataclasses.replace(c, split=split[c.group]) for c in read.comparisons]
        corpus = write_corpus(workdir / "corpus", texts, about=about, columns=columns, progress=progress)
    asked = turn.filter(pl.col("turn") == 1).drop("order", "turn")
    return _inputs(corpus, asked)
