"""What a corpus is built from, and how."""

import dataclasses
import re

from rewardscale.config.base import ConfigError, choice, positive

PAIRINGS = ("keep", "all", "best_worst", "best_random", "adjacent")
CONFLICTS = ("drop", "majority", "first")
NEAR_ON = ("pair", "prompt", "responses")


@dataclasses.dataclass(frozen=True)
class SourceConfig:
    """One set of comparisons.

    Attributes:
      adapter: how it is read (rewardscale/data/sources/adapters; "pairs" reads the usual forms).
      path: file, folder or Hugging Face hub id; a relative one is looked for in --data_dir first. "" means the
        adapter's own hub id.
      name: what it is called in the manifest; "" means the adapter's name.
      split: which of the set's own splits is read; "" means all.
      revision: commit of a hub id; "" means the one that the adapter pins.
      pairing: how K > 2 responses become pairs: "all", "best_worst", "best_random" (the best one against a random
        worse one), "adjacent" (neighbours in the order of scores), or "keep" them together.
      margin: smallest difference of scores of a pair.
      ties: whether pairs of equal scores are made of K > 2 responses; a published pair stays, labelled a tie.
      most: pairs that one record may give; 0 for no limit.
      limit: comparisons that are read; 0 for all.
      evaluation: says that training on a set that was made for evaluation is wanted.
    """

    adapter: str = "pairs"
    path: str = ""
    name: str = ""
    split: str = ""
    revision: str = ""
    pairing: str = "best_worst"
    margin: float = 0.0
    ties: bool = False
    most: int = 0
    limit: int = 0
    evaluation: bool = False

    def __post_init__(self) -> None:
        choice("sources.pairing", self.pairing, PAIRINGS)
        if self.margin < 0 or self.most < 0 or self.limit < 0:
            raise ConfigError("sources: margin, most and limit must not be negative")

    @property
    def called(self) -> str:
        """Name in the manifest."""
        return self.name or self.adapter


@dataclasses.dataclass(frozen=True)
class NearConfig:
    """Near-duplicates by MinHash (Broder 1997): off unless `threshold` is greater than 0.

    Attributes:
      threshold: Jaccard similarity of word 5-shingles from which on two comparisons are the same, 0 to 1.
      on: "pair" (prompt and responses), "prompt" or "responses".
    """

    threshold: float = 0.0
    on: str = "pair"

    def __post_init__(self) -> None:
        choice("near.on", self.on, NEAR_ON)
        if not 0 <= self.threshold < 1:
            raise ConfigError(f"near.threshold={self.threshold} must be at least 0 and less than 1")


@dataclasses.dataclass(frozen=True)
class DecontaminateConfig:
    """Comparisons that share a run of words with an evaluation set are left out.

    Attributes:
      sets: "name=path" each: jsonl files of {"id", "text"}, or of comparisons; "name=adapter:path" reads a set as a
        source is read.
      words: length of the run (13: Brown et al. 2020, appendix C).
    """

    sets: tuple[str, ...] = ()
    words: int = 13

    def __post_init__(self) -> None:
        positive("decontaminate", self, "words")
        for entry in self.sets:
            if not re.fullmatch(r"[\w.-]+=.+", entry):
                raise ConfigError(f"decontaminate.sets: {entry!r} must be written name=path")


@dataclasses.dataclass(frozen=True)
class SplitConfig:
    """Shares of prompt groups that become validation and test, by a hash of group and `seed`.

    A group is the source's own, or the conversation's first messages up to the first answer. `by_source` keeps the
    split that the source published instead, where it names one.
    """

    validation: float = 0.01
    test: float = 0.0
    seed: int = 0
    by_source: bool = False

    def __post_init__(self) -> None:
        if min(self.validation, self.test) < 0 or self.validation + self.test >= 1:
            raise ConfigError("split: validation and test must not be negative and sum to less than 1")


@dataclasses.dataclass(frozen=True)
class BuildConfig:
    """A corpus. Earlier sources win: of duplicates the first in the order of `sources` stays.

    Attributes:
      conflicts: what becomes of one pair with contradicting labels: "drop" all, the "majority"'s, or the "first".
      seed: of what is drawn when responses are paired.
      most_bytes: a message or response of so many bytes or more is refused.
    """

    name: str = "corpus"
    sources: tuple[SourceConfig, ...] = ()
    conflicts: str = "drop"
    near: NearConfig = NearConfig()
    decontaminate: DecontaminateConfig = DecontaminateConfig()
    split: SplitConfig = SplitConfig()
    seed: int = 0
    most_bytes: int = 1_000_000

    def __post_init__(self) -> None:
        choice("conflicts", self.conflicts, CONFLICTS)
        positive("config", self, "most_bytes")
        if not re.fullmatch(r"[\w.-]+", self.name):
            raise ConfigError(f"name={self.name!r} must do as a folder's name")
        called = [source.called for source in self.sources]
        if twice := sorted({name for name in called if called.count(name) > 1}):
            raise ConfigError(f"sources: {', '.join(twice)} is there twice; give each a `name` of its own")
