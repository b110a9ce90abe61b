"""The pairs of a few files, in memory, as training on files takes them: what a tokenizer cannot render is left out.

Files are read as a build reads them (sources/read.py); a build (data/build) is for corpora that do not fit in memory.
"""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from rewardscale.data.chat import ChatTokenizer
from rewardscale.data.comparison import Comparison, DataError
from rewardscale.data.sources.adapter import adapter, registry
from rewardscale.data.sources.judged import Judged, Refused
from rewardscale.data.sources.pairing import label, to_pairs
from rewardscale.data.sources.read import Located, locate, numbered

_AT_ONCE = 1024
_WHY = {
    "identical": "both responses are the same text",
    "tie": "neither response is the better one",
    "not_judged": "nobody judged both responses",
}


@dataclasses.dataclass(frozen=True)
class Pairs:
    """What files hold.

    Attributes:
      comparisons: of two responses each, in an order that says nothing about which is the better one.
      orientation: int8 [n], +1 where the first response is the chosen one, else -1.
      refused: what could not be used.
    """

    comparisons: list[Comparison]
    orientation: np.ndarray
    refused: list[Refused]


def read_pairs(entries: Sequence[str], chat: ChatTokenizer, *, split: str) -> Pairs:
    """All pairs of `entries` that `chat` can render and tokenise, put in `split`.

    Args:
      entries: files or folders, as `located` takes them.

    Raises:
      ConfigError: no such adapter.
      DataError: a file that is missing or damaged, or no pair is left.
    """
    comparisons, refused = [], []
    orientation: list[int] = []
    for batch in itertools.batched(_all(entries, split), _AT_ONCE):
        pairs = [(file, line, item) for file, line, item in batch if isinstance(item, Judged)]
        refused += [item for *_, item in batch if isinstance(item, Refused)]
        encoded = chat.encode_comparisons([(o.comparison.prompt, o.comparison.responses) for *_, o in pairs])
        for (file, line, own), result in zip(pairs, encoded, strict=True):
            if isinstance(result, DataError):
                refused.append(Refused(file, line, "template", str(result)))
            else:
                comparisons.append(own.comparison)
                orientation.append(label(own.judgements)[0])
    if not comparisons:
        first = f"; the first: {refused[0].reason}" if refused else ""
        raise DataError(f"{', '.join(entries)}: none of {len(refused)} items is a usable pair{first}")
    return Pairs(comparisons, np.array(orientation, np.int8), refused)


def located(entry: str) -> Located:
    """The files of "path" (pairs, in any format that formats.py reads), "adapter:path" or, of the hub, "adapter:".

    Raises ConfigError or DataError if there is no such adapter or file.
    """
    name, colon, path = entry.partition(":")
    if not colon or name not in registry():
        name, path = "pairs", entry
    if path and not Path(path).exists():
        raise DataError(f"{path} cannot be read: there is no such file or folder")
    return locate(adapter(name), path)


def _all(entries: Sequence[str], split: str) -> Iterator[tuple[str, int, Judged | Refused]]:
    """(file, line, a pair or why there is none), entry by entry."""
    for entry in entries:
        source = located(entry)
        for unit in source.files:
            for line, item in numbered(source.adapter, unit):
                if isinstance(item, Refused):
                    yield unit.label, line, item
                    continue
                left_out: Counter[str] = Counter()
                for own in to_pairs([item], left_out=left_out):
                    comparison = dataclasses.replace(own.comparison, split=split)
                    yield unit.label, line, Judged(comparison, own.judgements)
                for code in left_out.elements():
                    yield unit.label, line, Refused(unit.label, line, code, _WHY[code])
