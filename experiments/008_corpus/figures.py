"""Draws this folder's two figures from a finished corpus.

python experiments/008_corpus/figures.py corpora/008
"""

import sys
from pathlib import Path

from rewardscale.data import describe

drawn = describe.figures(describe.open_built(Path(sys.argv[1])))
for name in ("flow", "length_bias"):
    drawn[name].savefig(Path(__file__).parent / f"{name}.png", dpi=200, bbox_inches="tight")
