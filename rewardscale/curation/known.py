"""What a ledger says about each corpus row at some moment: gold, silver, what was discarded, what is held out."""

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np
import polars as pl

from rewardscale.config.curation import CurationConfig
from rewardscale.curation.inputs import Inputs
from rewardscale.curation.merging import across

STAND_IN = "judges-for-people"  # annotator of the pass without people: the judges' majority where people would decide
_SEED = 0x5EED0


@dataclasses.dataclass(frozen=True)
class Known:
    """All of it [rows].

    Attributes:
      gold: int8, people's decision: +1, -1, 0 for none. discarded: bool, people were asked and could not decide.
      judges: int8 [judges, rows], +1, -1, 0. confidence: float32 [judges, rows]. judged: bool, some judge gave a
        verdict. silver: int8, the judges' merged verdict; 0 for none.
      validation: bool, the seed's pairs that are held out. reserved: bool, these and all that share their groups.
    """

    gold: np.ndarray
    discarded: np.ndarray
    judges: np.ndarray
    confidence: np.ndarray
    judged: np.ndarray
    silver: np.ndarray
    validation: np.ndarray
    reserved: np.ndarray

    @property
    def gold_training(self) -> np.ndarray:
        """bool: gold pairs that reward models may see and judges may be shown."""
        return (self.gold != 0) & ~self.reserved

    @property
    def gold_validation(self) -> np.ndarray:
        """bool: gold pairs that choose checkpoints and measure levels."""
        return (self.gold != 0) & self.validation

    @property
    def open(self) -> np.ndarray:
        """bool: nobody was asked, and nothing forbids it. To be joined with the pool."""
        return ~(self.judged | (self.gold != 0) | self.discarded | self.reserved)

    def silver_training(self, original: np.ndarray, rule: str) -> np.ndarray:
        """bool: pairs with a judges' label and none of people's. rule "remove": only where it is the original one."""
        usable = (self.silver != 0) & (self.gold == 0) & ~self.discarded & ~self.reserved
        return usable & (self.silver == original) if rule == "remove" else usable


def seed_rows(inputs: Inputs, config: CurationConfig) -> np.ndarray:
    """int64 [seed pairs]: the pool's pairs of stage 0, drawn at random, in the order of the draw."""
    random = np.random.default_rng([_SEED, config.seed])
    return random.permutation(np.flatnonzero(inputs.pool))[: config.seed_pairs]


def held_out(inputs: Inputs, config: CurationConfig) -> tuple[np.ndarray, np.ndarray]:
    """(validation, reserved), bool [rows] each; they hang on corpus and config alone."""
    names = inputs.groups if config.validation_by == "group" else np.asarray(inputs.ids)
    seed = seed_rows(inputs, config)
    chosen = {name: _share(config.seed, name) < config.validation for name in np.unique(names[seed])}
    validation = np.zeros(len(inputs), bool)
    validation[seed] = [chosen[name] for name in names[seed]]
    reserved = np.isin(names, [name for name, held in chosen.items() if held])
    return validation, reserved


def known(
    inputs: Inputs, config: CurationConfig, verdicts: pl.DataFrame, *, before: int | None = None
) -> Known:
    """Merges the verdicts of iterations `before` that one, or all.

    People: the majority of those who prefer a response; an even split, or nobody, is undecided. Judges:
    `merging.across`. A verdict of a source says nothing here.
    """
    if before is not None:
        verdicts = verdicts.filter(pl.col("iteration") < before)
    validation, reserved = held_out(inputs, config)
    names = config.judge_names
    judges = np.zeros((len(names), len(inputs)), np.int8)
    confidence = np.zeros((len(names), len(inputs)), np.float32)
    judged = np.zeros(len(inputs), bool)
    for number, name in enumerate(names):
        mine = verdicts.filter(pl.col("annotator") == name)
        rows = mine["row"].to_numpy()
        judges[number, rows] = mine["preferred"].fill_null(0).to_numpy()
        confidence[number, rows] = mine["confidence"].fill_null(0.0).to_numpy()
        judged[rows] = True
    people = verdicts.filter(is_person(config))
    rows, preferred = people["row"].to_numpy(), people["preferred"].fill_null(0).to_numpy()
    gold = np.sign(np.bincount(rows, preferred, len(inputs))).astype(np.int8)
    asked = np.bincount(rows, minlength=len(inputs)) > 0
    return Known(
        gold=gold,
        discarded=asked & (gold == 0),
        judges=judges,
        confidence=confidence,
        judged=judged,
        silver=across(judges, confidence) if len(names) else np.zeros(len(inputs), np.int8),
        validation=validation,
        reserved=reserved,
    )


def is_person(config: CurationConfig) -> pl.Expr:
    """Which verdicts count as people's: none of a person's in the pass without people."""
    if config.people.kind == "none":
        return pl.col("annotator") == STAND_IN
    simulated: Sequence[str] = [person.called for person in config.people.simulated]
    return (pl.col("kind") == "person") | pl.col("annotator").is_in(list(simulated))


def _share(seed: int, name: str) -> float:
    digest = hashlib.blake2b(f"{seed}:validation:{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64
