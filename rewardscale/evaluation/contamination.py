"""Which items of the benchmarks share 13 words in a row with the prompts of a training corpus.

The benchmarks' runs of words are indexed (data/build/ngram_index.py, the index that a build decontaminates with) and
the corpus streams by once, so its size is no matter. An item's prompt and its responses are told apart: a shared prompt
is what decontamination looks for (Skywork-Reward-V2 drops a pair whose prompt shares 13 words with a benchmark's), a
response that a training prompt quotes is another leak. Texts of 8 to 12 words count as a whole, shorter ones not at
all; system prompts are passed over on both sides, for whole corpora share one.
"""

import dataclasses
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from rewardscale.data.build import ngram_index
from rewardscale.data.build.decontaminate import SHORTEST
from rewardscale.data.comparison import Comparison
from rewardscale.data.overlap import WORDS
from rewardscale.evaluation.benchmarks.base import Benchmark, BenchmarkItem

EXAMPLES = 5
CHARACTERS = 2**22  # of the corpus looked up at once
_WHERE = ("prompt", "response")


@dataclasses.dataclass(frozen=True)
class Example:
    """An overlap: the item's id, "prompt" or "response", the words shared, the corpus row that has them."""

    item: str
    where: str
    words: str
    row: int


@dataclasses.dataclass(frozen=True)
class Contamination:
    """A benchmark's overlap with a corpus.

    Attributes:
      benchmark: its name. items: how many it has.
      prompt, response: bool [items]: whether the prompt, whether any response, shares words with the corpus.
      short: items none of whose prompt messages is long enough to be looked for.
      examples: some, of the first items found.
    """

    benchmark: str
    items: int
    prompt: np.ndarray
    response: np.ndarray
    short: int
    examples: tuple[Example, ...]

    @property
    def clean(self) -> np.ndarray:
        """bool [items]: neither; as weights it gives the scores of what the corpus cannot have taught by heart."""
        return ~(self.prompt | self.response)

    def record(self) -> dict[str, object]:
        """For a report: counts and shares, without the arrays."""
        found = {"prompt": int(self.prompt.sum()), "response": int(self.response.sum())}
        return {
            "benchmark": self.benchmark,
            "items": self.items,
            **{f"{where}_items": count for where, count in found.items()},
            **{f"{where}_share": count / self.items for where, count in found.items()},
            "clean_items": int(self.clean.sum()),
            "short_prompts": self.short,
            "examples": [dataclasses.asdict(example) for example in self.examples],
        }


def corpus_prompts(comparisons: Iterable[Comparison]) -> Iterator[tuple[int, str]]:
    """(row, text) of every message of the prompts but system ones; of rows in a row with one prompt the first."""
    last = None
    for row, comparison in enumerate(comparisons):
        if comparison.prompt != last:
            last = comparison.prompt
            yield from ((row, message.content) for message in last if message.role != "system")


def contamination(
    benchmarks: Sequence[Benchmark],
    corpus: Iterable[tuple[int, str]],
    *,
    words: int = WORDS,
    shortest: int = SHORTEST,
    examples: int = EXAMPLES,
    characters: int = CHARACTERS,
) -> list[Contamination]:
    """The overlap of each benchmark with a corpus, given as (row, text), of `corpus_prompts` or other texts.

    Args:
      words: of a run. shortest: words from which a shorter text is looked for as a whole.
      examples: how many a benchmark. characters: of the corpus at once.
    """
    sides = [_side(benchmark, where) for benchmark in benchmarks for where in _WHERE]
    with tempfile.TemporaryDirectory() as name:
        folders = [Path(name) / f"{number:04d}" for number in range(len(sides))]
        for folder, (_, texts) in zip(folders, sides, strict=True):
            folder.mkdir()
            ngram_index.write(folder, [""] * len(texts), texts, words=words, shortest=shortest)
        found = _stream(folders, words, _blocks(corpus, characters))
        spelled = [ngram_index.Texts(folder) for folder in folders]
        out = []
        for number, benchmark in enumerate(benchmarks):
            masks, shown = [], []
            for side, where in enumerate(_WHERE, 2 * number):
                items = sides[side][0]
                mask = np.zeros(len(benchmark.items), bool)
                for text, (word, count, row) in sorted(found[side].items()):
                    if not mask[items[text]]:
                        run = " ".join(spelled[side].words(text)[word : word + count])
                        shown.append((items[text], Example(benchmark.items[items[text]].id, where, run, row)))
                    mask[items[text]] = True
                masks.append(mask)
            first = [example for _, example in sorted(shown, key=lambda pair: pair[0])]
            short = _short(benchmark, min(words, shortest))
            out.append(
                Contamination(
                    benchmark.name,
                    len(benchmark.items),
                    *masks,
                    short=short,
                    examples=tuple(first[:examples]),
                )
            )
    return out


def _side(benchmark: Benchmark, where: str) -> tuple[list[int], list[str]]:
    """(item of each text, texts): the prompts' messages, or the responses."""
    pairs = [
        (number, text)
        for number, item in enumerate(benchmark.items)
        for text in (_messages(item) if where == "prompt" else item.responses)
    ]
    return [number for number, _ in pairs], [text for _, text in pairs]


def _messages(item: BenchmarkItem) -> list[str]:
    return [message.content for message in item.prompt if message.role != "system"]


def _short(benchmark: Benchmark, shortest: int) -> int:
    return sum(
        all(len(ngram_index.word_list(text)) < shortest for text in _messages(item))
        for item in benchmark.items
    )


def _stream(
    folders: Sequence[Path], words: int, blocks: Iterable[tuple[list[int], list[str]]]
) -> list[dict[int, tuple[int, int, int]]]:
    """Of each index its texts that were met: text -> (first word of the run, words, row of the corpus).

    A run that was confirmed once is not looked at again: a corpus may hold a benchmark many times over.
    """
    index = ngram_index.Index(folders, words)
    found: list[dict[int, tuple[int, int, int]]] = [{} for _ in folders]
    known = np.zeros(0, np.uint64)
    for rows, texts in blocks:
        spots, _ = index.spots(texts)
        spots = spots[~np.isin(spots["hash"], known)]
        matches, _ = index.confirmed(texts, spots)
        for spot, side, text, word, count in matches.tolist():
            found[side].setdefault(text, (word, count, rows[int(spots["text"][spot])]))
        known = np.union1d(known, spots["hash"][matches["spot"]])
    return found


def _blocks(corpus: Iterable[tuple[int, str]], characters: int) -> Iterator[tuple[list[int], list[str]]]:
    """(rows, texts) of about `characters` together, a text once in a block."""
    block: dict[str, int] = {}
    size = 0
    for row, text in corpus:
        if text not in block:
            block[text] = row
            size += len(text)
        if size >= characters:
            yield list(block.values()), list(block)
            block, size = {}, 0
    if block:
        yield list(block.values()), list(block)
