"""The planted corpus: text, verdicts of a simulated curator in the ledger's schema, levels from the ledger.

    <directory>/corpus    ArrayRecord shards + manifest (with the gold margin)
    <directory>/ledger    verdicts: the source's raw label, the simulated curator, the simulated gold annotator
    <directory>/levels    raw, filtered, corrected, gold, random_matched

Levels read verdicts, never the generator: a pipeline with real annotators makes the same files.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from rewardscale.config import PlantedConfig, to_mapping
from rewardscale.curation import independent
from rewardscale.data import planted
from rewardscale.data.comparison import DataError
from rewardscale.data.corpus import Corpus, open_corpus, write_corpus
from rewardscale.data.ledger.ledger import Ledger
from rewardscale.data.ledger.schema import KINDS
from rewardscale.data.levels import Level, write_level

SOURCE, CURATOR, GOLD = "source", "simulated-independent-curator", "simulated-gold"


def build(config: PlantedConfig, directory: Path, *, progress: Callable[[int], None] | None = None) -> Corpus:
    """Generates corpus, ledger and levels under `directory`; goes on where an interrupted call stopped.

    Raises DataError if `directory` holds another config's corpus, OSError if writing fails.
    """
    sizes = {"train": config.train, "validation": config.validation, "test": config.test}
    splits = np.repeat(list(sizes), list(sizes.values()))
    pairs = planted.sample_pairs(config.world, len(splits), stream=config.seed)
    labels = planted.label(pairs, config)
    about = {"generator": "planted", "config": to_mapping(config)}
    if (directory / "corpus").exists():
        corpus = open_corpus(directory / "corpus")
        if corpus.about != json.loads(json.dumps(about)):
            raise DataError(
                f"{corpus.directory} holds another corpus; delete {directory} or choose another one"
            )
    else:
        corpus = write_corpus(
            directory / "corpus",
            planted.comparisons(pairs, splits.tolist()),
            about=about,
            columns={"gold_margin": pairs.margin, "p_gold": labels.p_gold, "p_raw": labels.p_raw},
            progress=progress,
        )
    ledger = Ledger(directory / "ledger")
    manifest = corpus.manifest()
    written = set(ledger.read()["annotator"])
    for annotator, kind, preferred in (
        (SOURCE, "source", labels.raw),
        (CURATOR, "simulated", labels.curator),
        (GOLD, "simulated", labels.gold),
    ):
        if annotator not in written:
            ledger.append(_verdicts(manifest, annotator, kind, preferred))
    for level in levels_from_ledger(manifest, ledger.read(), seed=config.seed).values():
        write_level(directory / "levels", level)
    return corpus


def levels_from_ledger(manifest: pl.DataFrame, verdicts: pl.DataFrame, *, seed: int) -> dict[str, Level]:
    """Levels (curation/independent.py) of a corpus whose every row was judged by the source, one curator and gold.

    Raises DataError unless each of the three judged each row once, without a tie, on this corpus.
    """
    raw, curator, gold = (_preferred(manifest, verdicts, name) for name in (SOURCE, CURATOR, GOLD))
    return independent.levels(
        manifest["row"].to_numpy(),
        manifest["split"].to_numpy(),
        raw=raw,
        curator=curator,
        gold=gold,
        seed=(seed,),
        who={"source": "the source", "curator": "the curator", "gold": "the gold annotator"},
    )


def _verdicts(manifest: pl.DataFrame, annotator: str, kind: str, preferred: np.ndarray) -> pl.DataFrame:
    assert kind in KINDS
    return manifest.select(
        "row",
        pl.col("id").alias("comparison"),
        pl.lit(annotator).alias("annotator"),
        pl.lit(kind).alias("kind"),
        pl.lit(0).alias("round"),
        pl.Series("preferred", preferred),
        pl.lit(None, dtype=pl.Float32).alias("confidence"),
        pl.lit(0.0 if kind == "source" else 1.0).alias("cost"),
    )


def _preferred(manifest: pl.DataFrame, verdicts: pl.DataFrame, annotator: str) -> np.ndarray:
    """This annotator's preference on each corpus row. Raises DataError where one is missing, doubled or a tie."""
    mine = verdicts.filter(pl.col("annotator") == annotator)
    joined = manifest.select("row", "id").join(
        mine.select("row", "comparison", "preferred"), on="row", how="left"
    )
    if (
        not len(mine) == len(joined) == len(manifest)
        or joined["preferred"].null_count()
        or (joined["preferred"] == 0).any()
    ):
        raise DataError(f"the ledger does not hold exactly one decided verdict of {annotator!r} a corpus row")
    if not (joined["id"] == joined["comparison"]).all():
        raise DataError("the ledger belongs to another corpus: comparison ids differ")
    return joined.sort("row")["preferred"].to_numpy()
