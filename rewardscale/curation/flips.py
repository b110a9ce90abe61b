"""Known noise: levels with labels flipped at a known rate, whatever noise they had before.

`<level>+flip<rate>` is a level whose every label is turned round with that probability. The uniform number that
decides belongs to (seed, draw, corpus row): flips at a lower rate are a subset of those at a higher one, and
levels that differ in the rate alone are paired.
"""

import dataclasses

import numpy as np

from rewardscale.config import ConfigError
from rewardscale.data.levels import Level

FLIP = "+flip"
_FLIPS = 0xF11B


def parse_flips(name: str) -> tuple[str, float]:
    """("strict", 0.1) for "strict+flip0.1"; rate 0 for a level without flips.

    Raises ConfigError where the rate is not a number in [0, 0.5).
    """
    base, found, text = name.partition(FLIP)
    if not found:
        return name, 0.0
    try:
        rate = float(text)
    except ValueError:
        rate = -1.0
    if not 0 <= rate < 0.5:
        raise ConfigError(
            f"level {name!r}: the rate after {FLIP!r} must be a number in [0, 0.5), e.g. {base}{FLIP}0.1"
        )
    return base, rate


def flipped(rows: np.ndarray, rate: float, *, draw: int, seed: int, stream: int = 0) -> np.ndarray:
    """bool [rows]: which labels a flip at `rate` turns round; every `stream` has numbers of its own.

    Args:
      rows: uint32 [n], corpus rows.
    """
    uniform = np.random.default_rng([_FLIPS, seed, draw, stream]).random(int(rows.max(initial=0)) + 1)
    return uniform[rows] < rate


def with_flips(level: Level, rate: float, *, draw: int, seed: int) -> Level:
    """`level` with each label flipped with probability `rate`; its name gets "+flip<rate>"."""
    turned = flipped(level.rows, rate, draw=draw, seed=seed)
    return dataclasses.replace(
        level,
        name=f"{level.name}{FLIP}{rate:g}",
        orientation=np.where(turned, -level.orientation, level.orientation).astype(np.int8),
        about={**level.about, "flips": rate, "flips_draw": draw, "flips_seed": seed},
    )
