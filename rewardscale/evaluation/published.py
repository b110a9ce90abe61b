"""Scores that a paper printed, for rows beside ours that say so: "published numbers, not run here"."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

LABEL = "published numbers, not run here"


@dataclasses.dataclass(frozen=True)
class Row:
    """A model as a paper's table has it.

    Attributes:
      model, kind: its name; "the paper's model" or "baseline in the paper".
      scores: share right by benchmark, 0 to 1; what the paper does not print is absent.
      average: the mean of the seven as printed, if it is. changed: what a later version prints otherwise.
    """

    model: str
    kind: str
    scores: Mapping[str, float]
    average: float | None
    changed: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Published:
    """A paper's table and where it is from."""

    paper: str
    address: str
    table: str
    version: str
    rows: tuple[Row, ...]


def published() -> Published:
    """Table 1 of Skywork-Reward-V2 (arXiv 2507.01352): its eight models and its main baselines."""
    record = json.loads(Path(__file__).with_name("published.json").read_text())
    rows = tuple(
        Row(
            row["model"],
            row["kind"],
            {name: value / 100 for name, value in row["scores"].items() if value is not None},
            None if row["average"] is None else row["average"] / 100,
            {name: value / 100 for name, value in row.get("version_3", {}).items()},
        )
        for row in record["rows"]
    )
    return Published(record["paper"], record["address"], record["table"], record["version"], rows)
