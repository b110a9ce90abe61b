"""Who gave which label to which item, as flat arrays: what agreement and aggregation are computed from."""

import dataclasses
from collections.abc import Sequence
from typing import Self

import numpy as np
import polars as pl

from rewardscale.data.comparison import DataError

PREFERENCES = (1, -1, 0)  # the label 0 is "first", 1 "second", 2 "tie"


@dataclasses.dataclass(frozen=True)
class Judgements:
    """Labels by several annotators, in any order; an annotator may label an item several times, or never.

    Attributes:
      item: int64 [judgements], index into `items`. annotator: likewise. label: int64 [judgements], 0 to classes - 1.
      items, annotators: names (corpus rows, say). classes: how many labels there are.

    Raises DataError where the arrays are not of one length or an index is out of range.
    """

    item: np.ndarray
    annotator: np.ndarray
    label: np.ndarray
    items: Sequence
    annotators: Sequence
    classes: int

    def __post_init__(self) -> None:
        for name, size in (
            ("item", len(self.items)),
            ("annotator", len(self.annotators)),
            ("label", self.classes),
        ):
            values = getattr(self, name)
            if len(values) != len(self.item):
                raise DataError(f"judgements: {name} has {len(values)} values, not {len(self.item)}")
            if len(values) and not 0 <= values.min() <= values.max() < size:
                raise DataError(f"judgements: {name} must lie between 0 and {size - 1}")

    @classmethod
    def of(cls, verdicts: pl.DataFrame) -> Self:
        """Judgements of a table of verdicts with `row`, `annotator` and `preferred`; labels as in PREFERENCES.

        Items are the rows, ascending, and annotators the names, sorted; those who could not say are left out.
        """
        said = verdicts.filter(pl.col("preferred").is_not_null())
        rows, item = np.unique(said["row"].to_numpy(), return_inverse=True)
        names = said["annotator"].unique().sort()
        annotator = said["annotator"].cast(pl.Enum(names)).to_physical().to_numpy().astype(np.int64)
        label = np.array([2, 0, 1])[said["preferred"].to_numpy()]  # -1 is the last
        return cls(item, annotator, label, rows.tolist(), names.to_list(), len(PREFERENCES))

    @classmethod
    def from_matrix(cls, matrix: np.ndarray, classes: int) -> Self:
        """Judgements of an int matrix [items, annotators], negative where there is none."""
        item, annotator = np.nonzero(matrix >= 0)
        return cls(
            item, annotator, matrix[item, annotator], range(len(matrix)), range(matrix.shape[1]), classes
        )

    def counts(self) -> np.ndarray:
        """float64 [items, classes]: how often each item was given each label."""
        flat = np.bincount(self.item * self.classes + self.label, minlength=len(self.items) * self.classes)
        return flat.reshape(len(self.items), self.classes).astype(np.float64)
