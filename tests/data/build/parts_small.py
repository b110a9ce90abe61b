"""Small folders of normalise tasks, with parts of any size, from comparisons and signs."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from rewardscale.data.build import normalise
from rewardscale.data.build.parts import Part
from rewardscale.data.comparison import Comparison, Message
from rewardscale.data.sources.judged import Judged, Judgement

Item = tuple[Comparison, int]  # and its sign: +1 first response preferred, -1 second, 0 tie or unknown


def pair(prompt: str, chosen: str, rejected: str, *, tie: bool = False, source: str = "test") -> Item:
    """A pair with its responses in the order of a hash of their texts, as sources give them."""
    responses = tuple(sorted((chosen, rejected), key=lambda text: hashlib.blake2b(text.encode()).digest()))
    sign = 0 if tie else 1 if responses[0] == chosen else -1
    return Comparison((Message("user", prompt),), responses, source=source), sign


def judged(item: Item) -> Judged:
    """The item with its source's judgement."""
    comparison, sign = item
    scores = [0.0] * len(comparison.responses)
    scores[:2] = max(sign, 0), max(-sign, 0)
    return Judged(comparison, (Judgement(comparison.source, "source", tuple(scores)),))


def write_parts(directory: Path, tasks: Sequence[Sequence[Sequence[Item]]]) -> list[Part]:
    """Writes normalise tasks of parts of items under `directory`; returns the parts, numbered over all tasks."""
    parts: list[Part] = []
    for number, task in enumerate(tasks):
        folder = directory / f"unit-{number:05d}"
        folder.mkdir(parents=True)
        for index, items in enumerate(task):
            normalise._write_part(folder, index, tuple(map(judged, items)))
        digest = hashlib.blake2b(digest_size=16)
        for path in sorted(folder.glob("*")):
            digest.update(path.name.encode() + path.read_bytes())
        for index, items in enumerate(task):
            parts.append(Part(len(parts), folder, index, len(items), digest.hexdigest()))
    return parts
