"""(b) Levels whose errors were dealt anew: python twins.py CURATION

Writes into a finished curation run, for filtered, corrected and no_humans, two twins each, with the same pairs and as
many wrong labels:

    <level>_errors_anywhere     wrong on pairs drawn at random: independent errors
    <level>_errors_by_margin    wrong on pairs drawn at random among those of like margin (twenty quantiles)

What a level loses against the second is the price of errors that a model can learn; what the second gains over the
first is that of erring on close pairs.
"""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np

from rewardscale.config.curation import CurationConfig
from rewardscale.curation.inputs import Inputs, prepare
from rewardscale.data.levels import Level, read_level, write_level
from rewardscale.sweeps.configfile import from_mapping

LEVELS = ("filtered", "corrected", "no_humans")
STRATA = 20


def twin(level: Level, inputs: Inputs, name: str, *, strata: int) -> Level:
    """The level with its wrong labels dealt to random pairs of the same of `strata` quantiles of the margin's size."""
    assert inputs.truth is not None and inputs.margin is not None
    rows = level.rows.astype(np.int64)
    size, truth = np.abs(inputs.margin[rows]), inputs.truth[rows]
    edges = np.quantile(size, np.linspace(0, 1, strata + 1)[1:-1])
    stratum, random = np.searchsorted(edges, size, side="right"), np.random.default_rng(strata)
    wrong = level.orientation != truth
    dealt = np.zeros(len(rows), bool)
    for number in range(strata):
        here = np.flatnonzero(stratum == number)
        dealt[random.permutation(here)[: int(wrong[here].sum())]] = True
    return dataclasses.replace(
        level,
        name=name,
        orientation=np.where(dealt, -truth, truth).astype(np.int8),
        about={"of": level.fingerprint},
    )


def main(run: Path) -> None:
    made = json.loads((run / "config.json").read_text())
    inputs = prepare(from_mapping(CurationConfig, made), run)
    for name in LEVELS:
        level = read_level(run / "levels" / name)
        for kind, strata in (("anywhere", 1), ("by_margin", STRATA)):
            write_level(run / "levels", twin(level, inputs, f"{name}_errors_{kind}", strata=strata))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
