"""All benchmarks by name, and the average of the seven.

load("rm-bench", Path("data"))                        data/rm-bench/, or data itself where it is the folder
load_all("rm-bench,llmbar,my_pairs.jsonl", Path("data"))
load_all("all", Path("data"))                         those that are there; the others with the reason
"""

import difflib
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np

from rewardscale.config import ConfigError
from rewardscale.data.comparison import DataError
from rewardscale.evaluation.benchmarks import (
    judgebench,
    plain,
    ppe_correctness,
    ppe_preference,
    rewardbench,
    rewardbench2,
    rm_bench,
    rmb,
)
from rewardscale.evaluation.benchmarks.base import Benchmark
from rewardscale.evaluation.benchmarks.reading import Spec, below, how_to_get, locate

SEVEN = ("rewardbench", "rewardbench2", "ppe-preference", "ppe-correctness", "rmb", "rm-bench", "judgebench")
_MODULES = (rewardbench, rewardbench2, ppe_preference, ppe_correctness, rmb, rm_bench, judgebench, plain)


@functools.cache
def registry() -> Mapping[str, Spec]:
    """All benchmarks by name, the seven first."""
    found = {spec.name: spec for module in _MODULES for spec in module.SPECS}
    return MappingProxyType({name: found[name] for name in (*SEVEN, *sorted(found.keys() - set(SEVEN)))})


def names() -> tuple[str, ...]:
    """Names of all benchmarks, the seven first."""
    return tuple(registry())


def spec(name: str) -> Spec:
    """The benchmark of that name; "_" is as good as "-". Raises ConfigError with the nearest name."""
    known = registry()
    if (own := name.replace("_", "-")) in known:
        return known[own]
    near = difflib.get_close_matches(own, known, n=1, cutoff=0.0)[0]
    raise ConfigError(
        f"no benchmark is named {name!r}; did you mean {near!r}? There are {', '.join(known)}, and any file of "
        "comparisons (.jsonl, .parquet, ...) by its path"
    )


def load(name: str, where: Path | None, *, revision: str | None = None) -> Benchmark:
    """A benchmark by its name, or any file of comparisons by its path.

    Args:
      where: a data directory, the benchmark's own folder or a file of it; None: the hub.
      revision: commit of the hub's data set, where none is known or another is wanted.

    Raises ConfigError for a name that there is not, DataError where files are absent, damaged or of another set.
    """
    if plain.is_file_of_comparisons(name):
        return plain.from_file(Path(name))
    own = spec(name)
    return own.read(locate(own, where, revision=revision))


def load_all(selection: str, where: Path | None) -> tuple[list[Benchmark], dict[str, str]]:
    """The benchmarks of "all" or "name,name,..." in the order of the names, and why some are not there, by name.

    Of "all", a benchmark is left out that has no folder with files of its own in the data directory `where` (or, where
    that is None, no data set on the hub at a known commit). One that is asked for by name, or is there and damaged, is
    an error.
    """
    if selection.strip() != "all":
        wanted = [name.strip() for name in selection.split(",") if name.strip()]
        if not wanted:
            raise ConfigError(f"no benchmark is named; give all, or some of {', '.join(names())}")
        if twice := [name for name in wanted if wanted.count(name) > 1]:
            raise ConfigError(f"the benchmark {twice[0]!r} is named twice")
        return [load(name, where) for name in wanted], {}
    if where is not None and not where.is_dir():
        raise DataError(f"there is no data directory {where}")
    found, absent = [], {}
    for own in registry().values():
        if where is not None:
            files = below(own, where)
        else:
            files = locate(own, None) if own.hub and own.revision else None
        if files is not None:
            found.append(own.read(files))
        else:
            absent[own.name] = how_to_get(own)
    if not found:
        raise DataError(
            f"{where or 'the hub'} holds none of {', '.join(names())}: a folder for each is looked for"
        )
    return found, absent


def seven_average(measured: Sequence[tuple[Benchmark, np.ndarray]]) -> tuple[float | None, str]:
    """The mean of the seven headline scores; None and why, unless all seven are whole and scored to the last item.

    Args:
      measured: benchmarks, also others than the seven, with their rewards float64 [items, most responses].
    """
    there = {benchmark.name: (benchmark, rewards) for benchmark, rewards in measured if benchmark.seven}
    if absent := [name for name in SEVEN if name not in there]:
        return None, f"of the seven, {', '.join(absent)} {'is' if len(absent) == 1 else 'are'} absent"
    values = []
    for name in SEVEN:
        benchmark, rewards = there[name]
        if not benchmark.whole:
            why = ", ".join(f"{count:,} {reason}" for reason, count in benchmark.missing.items())
            return None, f"{benchmark.shown_name} is not whole{f' ({why})' if why else ''}"
        if left := int((~benchmark.scored(rewards)).sum()):
            return None, f"{benchmark.title}: {left:,} of {len(benchmark.items):,} items have no reward"
        values.append(float(benchmark.scores(rewards)[benchmark.headline][0]))
    return float(np.mean(values)), ""
