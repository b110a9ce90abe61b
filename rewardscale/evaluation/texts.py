"""The texts of several benchmarks, each once: what a model has to score, and where each benchmark finds it again."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence

import numpy as np

from rewardscale.data.comparison import Message
from rewardscale.evaluation.benchmarks.base import Benchmark


@dataclasses.dataclass(frozen=True)
class Group:
    """A prompt with all different responses to it.

    Attributes:
      prompt: its messages. key: its hash.
      responses: texts. ids, hashes: of each response, the first with the prompt, the second without.
    """

    prompt: tuple[Message, ...]
    key: str
    responses: tuple[str, ...]
    ids: tuple[str, ...]
    hashes: tuple[str, ...]

    @functools.cached_property
    def characters(self) -> int:
        """Of all texts, the prompt once: about what scoring them costs."""
        return sum(len(m.content) for m in self.prompt) + sum(map(len, self.responses))

    @functools.cached_property
    def longest(self) -> int:
        """Characters of the prompt with its longest response."""
        return sum(len(m.content) for m in self.prompt) + max(map(len, self.responses))

    def only(self, wanted: Sequence[bool]) -> "Group":
        """Those responses alone."""
        keep = [k for k, one in enumerate(wanted) if one]
        parts = [tuple(values[k] for k in keep) for values in (self.responses, self.ids, self.hashes)]
        return Group(self.prompt, self.key, *parts)


@dataclasses.dataclass(frozen=True)
class Texts:
    """The union of the texts of benchmarks.

    Attributes:
      groups: a prompt each, in order of first appearance.
      places: of each benchmark by name, int64 [items, most responses], where `ids` has the text; -1 for none.
    """

    groups: tuple[Group, ...]
    places: dict[str, np.ndarray]

    @functools.cached_property
    def ids(self) -> tuple[str, ...]:
        """Of all texts, group by group."""
        return tuple(one for group in self.groups for one in group.ids)

    def matrix(self, benchmark: str, values: np.ndarray) -> np.ndarray:
        """float64 [items, most responses] of a benchmark from `values` [texts], NaN where there is no response."""
        places = self.places[benchmark]
        return np.where(places >= 0, values[places], np.nan).astype(np.float64)


def union(benchmarks: Sequence[Benchmark]) -> Texts:
    """Every different (prompt, response) of the benchmarks once, responses to one prompt together."""
    prompts: dict[str, tuple[Message, ...]] = {}
    found: dict[str, dict[str, tuple[str, str]]] = {}  # prompt -> id of a text -> (response, its hash)
    wanted: dict[str, list[list[str]]] = {}
    for benchmark in benchmarks:
        rows = wanted.setdefault(benchmark.name, [])
        for item in benchmark.items:
            key = prompt_hash(item.prompt)
            prompts.setdefault(key, item.prompt)
            own = found.setdefault(key, {})
            row = []
            for response in item.responses:
                own_hash = _hash(response)
                row.append(_hash(key + own_hash))
                own.setdefault(row[-1], (response, own_hash))
            rows.append(row)
    groups = tuple(
        Group(prompts[key], key, tuple(r for r, _ in own.values()), tuple(own), tuple(h for _, h in own.values()))
        for key, own in found.items()
    )  # fmt: skip
    number = {one: k for k, one in enumerate(one for group in groups for one in group.ids)}
    places = {}
    for name, rows in wanted.items():
        places[name] = np.full((len(rows), max(map(len, rows))), -1, np.int64)
        for i, row in enumerate(rows):
            places[name][i, : len(row)] = [number[one] for one in row]
    return Texts(groups, places)


def prompt_hash(prompt: Sequence[Message]) -> str:
    """32 hex digits of a prompt's messages."""
    return _hash(json.dumps([[m.role, m.content] for m in prompt]))


def _hash(text: str) -> str:
    """Of any text, also one that is not valid Unicode."""
    return hashlib.blake2b(text.encode(errors="backslashreplace"), digest_size=16).hexdigest()
