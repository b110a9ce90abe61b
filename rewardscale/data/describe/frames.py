"""What a built corpus holds, as small polars tables.

Each table is aggregated by a query over the manifest, the ledger or the stages' files, so memory depends on the number
of sources, categories and different lengths and not on that of comparisons. The same corpus gives the same tables.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl

from rewardscale.data.build.run import Built
from rewardscale.data.comparison import DataError
from rewardscale.data.corpus import open_corpus
from rewardscale.data.tokenised import TokenisedView

SPLITS = ("train", "validation", "test")
DROPS = ("duplicate", "conflict", "near_duplicate", "contaminated")
EXACT_PROMPTS = 2_000_000  # above, distinct prompts are counted in a part of the hashes and scaled
_Z = 1.959964  # normal quantile of 95 % intervals
_OCTAVE_BINS = 4  # of the length ratio
_MOST_RATIO = 16.0


def open_built(directory: Path) -> Built:
    """Opens a finished build (rewardscale/data/build/run.py). Raises DataError if it is not one, or is damaged."""
    directory = Path(directory)
    path = directory / "build.json"
    try:
        record = json.loads(path.read_text())
        corpus = open_corpus(directory / "corpus", deep=False)
        if record["fingerprint"] != corpus.fingerprint:
            raise DataError(f"{path} is the record of another corpus than {corpus.directory}; build it again")
    except FileNotFoundError as error:
        raise DataError(
            f"{directory} is not a finished build: build.json is missing; name the folder that "
            "`python -m rewardscale.build` wrote, or let it finish"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{path} cannot be read ({error!r}); delete {directory} and build it again"
        ) from error
    return Built(directory, corpus, record)


def frame_sources(built: Built) -> pl.DataFrame:
    """A row a source: title, licence, url; counts.

    refused: records and single responses; comparisons: read; unpaired: candidate pairs of theirs that were left out;
    pairs: what they gave (a comparison that is kept whole counts as one); then the pairs dropped by reason, and kept.
    """
    rows = []
    for source in built.record["sources"]:
        dropped = dict.fromkeys(DROPS, 0)
        for reason, count in source["dropped"].items():
            dropped[reason.partition(":")[0]] += count
        rows.append(
            {
                **{name: str(source.get(name) or "") for name in ("name", "title", "licence", "url")},
                "refused": sum(source["refused"].values()),
                "comparisons": source["comparisons"],
                "unpaired": sum(source["unpaired"].values()),
                "pairs": source["items"],
                **dropped,
                "kept": source["kept"],
            }
        )
    return pl.DataFrame(rows)


def frame_unpaired(built: Built) -> pl.DataFrame:
    """source, reason, pairs: candidate pairs that were left out when responses were paired, most first."""
    rows = [
        (s["name"], reason, count) for s in built.record["sources"] for reason, count in s["unpaired"].items()
    ]
    frame = pl.DataFrame(rows, {"source": pl.String, "reason": pl.String, "pairs": pl.Int64}, orient="row")
    return frame.sort("pairs", "source", "reason", descending=[True, False, False])


def frame_refusals(built: Built) -> pl.DataFrame:
    """source, code, records: what was refused, most first."""
    rows = [(s["name"], code, count) for s in built.record["sources"] for code, count in s["refused"].items()]
    frame = pl.DataFrame(rows, {"source": pl.String, "code": pl.String, "records": pl.Int64}, orient="row")
    return frame.sort("records", "source", "code", descending=[True, False, False])


def frame_contamination(built: Built) -> pl.DataFrame:
    """set, source, pairs: what was left out because it shares a run of words with an evaluation set."""
    rows = [
        (reason.partition(":")[2], s["name"], count)
        for s in built.record["sources"]
        for reason, count in s["dropped"].items()
        if reason.startswith("contaminated:")
    ]
    frame = pl.DataFrame(rows, {"set": pl.String, "source": pl.String, "pairs": pl.Int64}, orient="row")
    return frame.sort("set", "source")


def frame_copies(built: Built) -> pl.DataFrame:
    """stage, reason, source, of, pairs: pairs of `source` that were dropped for one of the source `of`."""
    schema = {
        "stage": pl.String,
        "reason": pl.String,
        "source": pl.String,
        "of": pl.String,
        "items": pl.Int64,
    }
    rows = [
        {"stage": stage, "reason": row.get("reason", "near_duplicate"), **row}
        for stage, counts in built.record["stages"].items()
        for row in counts.get("by_source", [])
        if isinstance(row, Mapping) and {"source", "of", "items"} <= set(row)
    ]
    frame = pl.DataFrame([{name: row[name] for name in schema} for row in rows], schema)
    return frame.rename({"items": "pairs"}).sort("pairs", "source", "of", descending=[True, False, False])


def frame_splits(built: Built) -> pl.DataFrame:
    """source, split, pairs, labelled."""
    counts = built.corpus.scan_manifest().group_by("source", "split")
    table = counts.agg(pairs=pl.len(), labelled=(pl.col("preferred") != 0).sum())
    return _collect(table).sort("source", "split")


def frame_categories(built: Built) -> pl.DataFrame:
    """category, pairs, sources (how many have it); most pairs first. "" stands for none."""
    counts = _collect(built.corpus.scan_manifest().group_by("category", "source").agg(pairs=pl.len()))
    table = counts.group_by("category").agg(pl.col("pairs").sum(), sources=pl.len())
    return table.sort("pairs", "category", descending=[True, False])


def distinct_prompts(built: Built) -> tuple[int, bool]:
    """(number of distinct prompts, whether it was counted exactly).

    Of a large corpus those are counted whose hash begins with as many zeros as leave about EXACT_PROMPTS, and scaled:
    within about 0.1 %.
    """
    digits = max(0, math.ceil(math.log(max(1, len(built.corpus)) / EXACT_PROMPTS, 16)))
    chosen = built.corpus.scan_manifest().select("prompt_hash")
    if digits:
        chosen = chosen.filter(pl.col("prompt_hash").str.starts_with("0" * digits))
    count = _collect(chosen.select(pl.col("prompt_hash").n_unique())).item()
    return count * 16**digits, not digits


def frame_lengths(built: Built) -> pl.DataFrame:
    """part, length, pairs: how many prompts, chosen and rejected responses have so many characters.

    Chosen and rejected are those of labelled pairs, prompts those of all.
    """
    manifest = built.corpus.scan_manifest()
    labelled = manifest.filter(pl.col("preferred") != 0)
    first_chosen = pl.col("preferred") > 0
    first, second = pl.col("chars_first"), pl.col("chars_second")
    queries = {
        "prompt": manifest.select(length="chars_prompt"),
        "chosen": labelled.select(length=pl.when(first_chosen).then(first).otherwise(second)),
        "rejected": labelled.select(length=pl.when(first_chosen).then(second).otherwise(first)),
    }
    tables = [
        _collect(query.group_by("length").agg(pairs=pl.len()))
        .sort("length")
        .select(
            part=pl.lit(part), length=pl.col("length").cast(pl.Int64), pairs=pl.col("pairs").cast(pl.Int64)
        )
        for part, query in queries.items()
    ]
    return pl.concat(tables)


def frame_token_lengths(built: Built, view: TokenisedView) -> pl.DataFrame:
    """The same in tokens of a view of the corpus. Raises DataError if the view has another number of rows."""
    if len(view) != len(built.corpus):
        raise DataError(
            f"{view.directory} has {len(view)} rows, the corpus {len(built.corpus)}: another corpus's"
        )
    counts: dict[str, np.ndarray] = {part: np.zeros(0, np.int64) for part in ("prompt", "chosen", "rejected")}
    start = 0
    for manifest in _manifest_parts(built, ["preferred"]):
        sign = manifest["preferred"].to_numpy()
        lengths = np.asarray(view.lengths[start : start + len(sign), :3])
        start += len(sign)
        pair, first = lengths[sign != 0, 1:], sign[sign != 0] > 0
        counts["prompt"] = _added(counts["prompt"], lengths[:, 0])
        counts["chosen"] = _added(counts["chosen"], np.where(first, pair[:, 0], pair[:, 1]))
        counts["rejected"] = _added(counts["rejected"], np.where(first, pair[:, 1], pair[:, 0]))
    tables = []
    for part, count in counts.items():
        found = np.flatnonzero(count)
        columns = {"length": found.astype(np.int64), "pairs": count[found]}
        tables.append(pl.DataFrame(columns).select(pl.lit(part).alias("part"), "length", "pairs"))
    return pl.concat(tables)


def _added(counts: np.ndarray, values: np.ndarray) -> np.ndarray:
    new = np.bincount(values, minlength=len(counts))
    new[: len(counts)] += counts
    return new


def quantiles(lengths: pl.DataFrame, part: str, shares: tuple[float, ...]) -> list[int]:
    """Lengths of `part` that `shares` of its texts do not exceed; nothing if there are none."""
    own = lengths.filter(pl.col("part") == part).sort("length")
    if own.is_empty():
        return []
    sums = own["pairs"].to_numpy().cumsum()
    places = np.searchsorted(sums, np.ceil(np.asarray(shares) * sums[-1]))
    return own["length"].to_numpy()[np.minimum(places, len(sums) - 1)].tolist()


def frame_length_bias(built: Built) -> pl.DataFrame:
    """source, pairs, longer, share, low, high: in how many labelled pairs the longer response is the chosen one.

    Pairs of equal length (in characters) are left out. low and high: 95 % interval (Wilson 1927). The first row is of
    all sources together, its name null.
    """
    table = _collect(_uneven(built).group_by("source").agg(pairs=pl.len(), longer=pl.col("longer").sum()))
    table = table.sort("source").cast({"pairs": pl.Int64, "longer": pl.Int64})
    total = table.select(pl.lit(None, pl.String).alias("source"), pl.col("pairs", "longer").sum())
    return _with_wilson(pl.concat([total, table]))


def frame_length_curve(built: Built) -> pl.DataFrame:
    """The same by how many times longer the longer response is: ratio_low, ratio_high of each bin, a quarter octave.

    The last bin holds all ratios from 16 on.
    """
    ratio = pl.max_horizontal("chars_first", "chars_second") / pl.min_horizontal(
        "chars_first", "chars_second"
    ).clip(1)
    place = (
        (ratio.log(2) * _OCTAVE_BINS).floor().clip(0, math.log2(_MOST_RATIO) * _OCTAVE_BINS).cast(pl.Int64)
    )
    table = _collect(
        _uneven(built).group_by(place.alias("bin")).agg(pairs=pl.len(), longer=pl.col("longer").sum())
    )
    table = table.sort("bin").cast({"pairs": pl.Int64, "longer": pl.Int64})
    edges = [pl.lit(2.0).pow((pl.col("bin") + side) / _OCTAVE_BINS) for side in (0, 1)]
    return _with_wilson(table.select(ratio_low=edges[0], ratio_high=edges[1], pairs="pairs", longer="longer"))


def _uneven(built: Built) -> pl.LazyFrame:
    """Labelled pairs whose responses differ in length, with `longer`: whether the longer one is chosen."""
    first, second = pl.col("chars_first"), pl.col("chars_second")
    pairs = built.corpus.scan_manifest().filter((pl.col("preferred") != 0) & (first != second))
    return pairs.with_columns(longer=(pl.col("preferred") > 0) == (first > second))


def wilson(successes: np.ndarray, trials: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95 % interval of a share (Wilson 1927), float64 as long as `trials`, which must be positive."""
    share = successes / trials
    middle = (share + _Z**2 / (2 * trials)) / (1 + _Z**2 / trials)
    half = _Z / (1 + _Z**2 / trials) * np.sqrt(share * (1 - share) / trials + _Z**2 / (4 * trials**2))
    return middle - half, middle + half


def _with_wilson(table: pl.DataFrame) -> pl.DataFrame:
    table = table.filter(pl.col("pairs") > 0)
    longer, pairs = (table[name].to_numpy().astype(np.float64) for name in ("longer", "pairs"))
    low, high = wilson(longer, pairs)
    return table.with_columns(share=pl.Series(longer / pairs), low=pl.Series(low), high=pl.Series(high))


def frame_margins(built: Built) -> pl.DataFrame:
    """source, margin, pairs: by how much the chosen response is preferred, in two digits; 0 where there is no label."""
    labelled = pl.col("preferred") != 0
    margin = pl.when(labelled).then(pl.col("margin").cast(pl.Float64).round_sig_figs(2)).otherwise(0.0)
    table = built.corpus.scan_manifest().group_by("source", margin.alias("margin")).agg(pairs=pl.len())
    return _collect(table).cast({"pairs": pl.Int64}).sort("source", "margin")


def frame_verdicts(built: Built) -> pl.DataFrame:
    """kind, annotator, verdicts, ties, confidence (mean, null where none is given), cost (sum); most verdicts first."""
    parts = sorted((built.directory / "ledger").glob("part-*.parquet"))
    if not parts:
        raise DataError(f"{built.directory / 'ledger'} holds no verdicts; build the corpus again")
    exact = {  # in millionths: sums of integers do not depend on their order
        name: (pl.col(name).cast(pl.Float64) * 1e6).round().cast(pl.Int64) for name in ("confidence", "cost")
    }
    table = pl.scan_parquet(parts).group_by("kind", "annotator").agg(
        verdicts=pl.len(),
        ties=(pl.col("preferred") == 0).sum(),
        confident=pl.col("confidence").count(),
        confidence=exact["confidence"].sum(),
        cost=exact["cost"].sum(),
    )  # fmt: skip
    mean = pl.when(pl.col("confident") > 0).then(pl.col("confidence") / 1e6 / pl.col("confident"))
    table = _collect(table).with_columns(confidence=mean, cost=pl.col("cost") / 1e6).drop("confident")
    return table.sort("verdicts", "kind", "annotator", descending=[True, False, False])


def frame_clusters(built: Built) -> pl.DataFrame | None:
    """stage, size, clusters: how many pairs were so many times there; None if the stages' files were not kept.

    A pair and its copies are a cluster; those of contradicting labels are counted too.
    """
    tables = []
    for stage in ("exact", "near"):
        # A file at a time: a cluster lies in one.
        for file in sorted((built.directory / "work" / stage).glob("*/drop.parquet")):
            copies = pl.scan_parquet(file).filter(pl.col("of_part").is_not_null())
            others = (pl.col("part") != pl.col("of_part")) | (pl.col("item") != pl.col("of_item"))
            sizes = copies.group_by("of_part", "of_item").agg(size=others.sum().cast(pl.Int64) + 1)
            counted = sizes.group_by("size").agg(clusters=pl.len().cast(pl.Int64))
            tables.append(_collect(counted).select(pl.lit(stage).alias("stage"), "size", "clusters"))
    if not tables:
        return None
    return pl.concat(tables).group_by("stage", "size").agg(pl.col("clusters").sum()).sort("stage", "size")


def examples_of_refusals(built: Built, most: int = 3) -> list[dict[str, Any]]:
    """The first `most` refused records of each code: source, file, line, code, reason."""
    wanted = {code: most for source in built.record["sources"] for code in source["refused"]}
    found: list[dict[str, Any]] = []
    if not wanted:
        return found
    with (built.directory / "quarantine.jsonl").open("rb") as lines:
        for line in lines:
            record = orjson.loads(line)
            left = wanted.get(record["code"], 0)
            if left:
                found.append(record)
                wanted[record["code"]] = left - 1
                if not any(wanted.values()):
                    break
    order = {code: number for number, code in enumerate(sorted(wanted))}
    return sorted(found, key=lambda record: order[record["code"]])


def _manifest_parts(built: Built, columns: list[str]) -> Iterator[pl.DataFrame]:
    """Columns of the manifest, file by file, in row order."""
    for path in built.corpus.manifests:
        yield pl.read_parquet(path, columns=columns)


def _collect(query: pl.LazyFrame) -> pl.DataFrame:
    return query.collect(engine="streaming")
