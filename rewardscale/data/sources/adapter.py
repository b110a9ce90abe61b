"""Adapters: what a public set is, where it lies and how its records become comparisons. One small file each.

The files are in `adapters/`; each names its `ADAPTER` (or `ADAPTERS`), and is found by that name.
"""

import dataclasses
import difflib
import functools
import importlib
import pkgutil
from collections.abc import Mapping

from rewardscale.config import ConfigError
from rewardscale.data.sources import adapters as folder
from rewardscale.data.sources.labels import Annotator, Label
from rewardscale.data.sources.shapes import Shape

SPLITS = ("train", "validation", "test", "")


@dataclasses.dataclass(frozen=True)
class Join:
    """A second file whose records are put into those of the first: for sets that keep questions or texts apart.

    It is held in memory. Attributes:
      file: glob of the file. on: pairs of (path in the record, path in the second file's record) that must be equal.
      take: the second file's paths by the key under which the record gets them.
    """

    file: str
    on: tuple[tuple[str, str], ...]
    take: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Adapter:
    """A source.

    Attributes:
      name: it is found by. title: for people. url: its page. paper: where it is described, or "".
      licence: SPDX id where there is one, and further terms; "unknown" where the source names none.
      shape: how a record is a comparison. labels: what says which response is better, and who said it. The ones of
        kind "source" are the source's own verdict; votes that it published beside it follow.
      files: globs below the source's folder, by split; ("train", ...) where the globs of a split are tried in turn.
      hub: its Hugging Face id, or "". revision: the commit that was looked at; None: no commit is known, name one.
      split_at: path of the split in a record, or "". category, group: paths in a record, or "".
      cost_unit: of the labels' costs.
      evaluation_only: made to evaluate reward models with; a build takes it only when told to.
      joins: second files.
      expected: records by split where the source states them.
      notes: cautions: what the labels mean, what is known to be wrong, what it overlaps with.
    """

    name: str
    title: str
    url: str
    licence: str
    shape: Shape
    labels: tuple[tuple[Label, Annotator], ...]
    files: Mapping[str, tuple[str, ...]]
    hub: str = ""
    revision: str | None = None
    split_at: str = ""
    category: str = ""
    group: str = ""
    cost_unit: str = "labels"
    evaluation_only: bool = False
    joins: tuple[Join, ...] = ()
    expected: Mapping[str, int] = dataclasses.field(default_factory=dict)
    paper: str = ""
    notes: str = ""


@functools.cache
def registry() -> Mapping[str, Adapter]:
    """All adapters by name, sorted."""
    found: dict[str, Adapter] = {}
    for module in pkgutil.iter_modules(folder.__path__):
        made = importlib.import_module(f"{folder.__name__}.{module.name}")
        for own in (*getattr(made, "ADAPTERS", ()), *([made.ADAPTER] if hasattr(made, "ADAPTER") else [])):
            if own.name in found:
                raise ConfigError(f"two adapters are named {own.name!r}; rename one")
            found[own.name] = own
    return dict(sorted(found.items()))


def adapter(name: str) -> Adapter:
    """The adapter of that name. Raises ConfigError with the nearest name."""
    known = registry()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
        raise ConfigError(
            f"no adapter is named {name!r}; did you mean {near[0]!r}? There are {', '.join(known)}; for a file of "
            "your own use 'pairs'"
        )
    return known[name]
