"""What a verdict and a pair's attributes are, as records and as columns."""

import dataclasses
import datetime
from typing import Literal, get_args

import polars as pl

Kind = Literal["person", "llm_judge", "reward_model", "simulated", "source"]
KINDS: tuple[str, ...] = get_args(Kind)
Objectivity = Literal["objective", "subjective"]
Controversiality = Literal["low", "medium", "high"]

# Magpie's task categories (Xu et al. 2024, arXiv 2406.08464), which Skywork-Reward-V2 uses (its section D.2).
CATEGORIES = (
    "Information seeking",
    "Reasoning",
    "Planning",
    "Editing",
    "Coding & Debugging",
    "Math",
    "Role playing",
    "Data analysis",
    "Creative writing",
    "Advice seeking",
    "Brainstorming",
    "Others",
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One judgement of one comparison of two responses by one annotator.

    Attributes:
      row: corpus row number. comparison: `Comparison.id` of that row, to notice a ledger of another corpus.
      annotator: who; one name, one kind. kind: person, llm_judge, reward_model, simulated or source.
      preferred: +1 first response (in the corpus's order, whatever order was shown), -1 second, 0 tie, None where
        the annotator could not say.
      round: position among this row's verdicts of the same annotator pool.
      iteration: of stage 1 (0: the seed), None outside the pipeline.
      confidence: in [0, 1]; None where the annotator gives none.
      votes_first, votes_second, votes_tie, votes_failed: what the verdict was merged from; a call that never gave
        a readable answer has failed.
      key: hash of what was asked of whom; appending a key that is there changes nothing. "" in records of old.
      model, prompt_version: of a judge or a reward model.
      tokens_in, tokens_out: of all calls; cost: in the ledger's unit (USD for judges); seconds: spent.
      time: when (UTC), None in simulated ledgers, which are the same bytes each time.
      reason: in the annotator's words. examples: ids of the comparisons shown as worked examples.
    """

    row: int
    comparison: str
    annotator: str
    kind: Kind
    preferred: int | None
    round: int = 0
    iteration: int | None = None
    confidence: float | None = None
    votes_first: int = 0
    votes_second: int = 0
    votes_tie: int = 0
    votes_failed: int = 0
    key: str = ""
    model: str = ""
    prompt_version: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    seconds: float = 0.0
    time: datetime.datetime | None = None
    reason: str = ""
    examples: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """What a pair asks of an annotator: five preference attributes (Skywork-Reward-V2, arXiv 2507.01352, section 3).

    Attributes:
      category: one of CATEGORIES. desired: what the user wants of a good answer. guideline: how to decide
        this very pair. author: who wrote or last edited them.
    """

    category: str
    objectivity: Objectivity
    controversiality: Controversiality
    desired: str
    guideline: str
    author: str = ""


VERDICT_COLUMNS = pl.Schema(
    {
        "row": pl.UInt32,
        "comparison": pl.String,
        "annotator": pl.String,
        "kind": pl.String,
        "round": pl.UInt16,
        "preferred": pl.Int8,
        "confidence": pl.Float32,
        "cost": pl.Float32,
        "iteration": pl.UInt16,
        "votes_first": pl.UInt16,
        "votes_second": pl.UInt16,
        "votes_tie": pl.UInt16,
        "votes_failed": pl.UInt16,
        "key": pl.String,
        "model": pl.String,
        "prompt_version": pl.String,
        "tokens_in": pl.UInt32,
        "tokens_out": pl.UInt32,
        "seconds": pl.Float32,
        "time": pl.Datetime("us", "UTC"),
        "reason": pl.String,
        "examples": pl.List(pl.String),
    }
)
# What every record says; a table may leave the others out, and they take the defaults of Verdict.
CORE_COLUMNS = pl.Schema(dict(list(VERDICT_COLUMNS.items())[:8]))
