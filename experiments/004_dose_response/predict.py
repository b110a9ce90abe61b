"""The prediction of experiment 004, from clean runs alone: python predict.py SWEEP_DIR LEVEL [MODEL]

Reads the rewards of the runs at LEVEL (no added flips) and the largest data size, divides each run's test margins by
its temperature (fitted on validation pairs), and takes them for the distribution of true margins: P(observed label)
= sigmoid(margin). Adding flips at rate eta then costs, in pairs at equal recalibrated loss,

    sandwich:     plain Bradley-Terry loss, orthogonal features (rewardscale.scaling.theory.sandwich_der)
    lower bound:  1 / (1 - 2 eta)^2
"""

import json
import sys
from pathlib import Path

import numpy as np
import polars as pl

from rewardscale.scaling.theory import lower_bound_der, sandwich_der

RATES = (0.1, 0.2, 0.3, 0.4)


def recalibrated_margins(workdir: Path, level: str, model: str) -> np.ndarray:
    """|margins| / temperature over all test pairs of the largest clean runs, [runs x pairs]."""
    table = pl.read_parquet(workdir / "results.parquet")
    headline = json.loads((workdir / "sweep.json").read_text())["headline_eval"]
    runs = table.filter(
        (pl.col("eval_set") == headline) & (pl.col("level") == level) & (pl.col("model") == model)
    )
    runs = runs.filter(pl.col("pairs") == pl.col("pairs").max())
    parts = []
    for run_id, temperature in runs.select("run_id", "temperature").rows():
        rewards = pl.read_parquet(workdir / "runs" / run_id / "rewards.parquet")
        parts.append(np.abs((rewards["first"] - rewards["second"]).to_numpy()) / temperature)
    return np.concatenate(parts)


def main(workdir: Path, level: str, model: str | None) -> None:
    models = pl.read_parquet(workdir / "results.parquet").sort("params")["model"]
    model = str(model or models[-1])
    margins = recalibrated_margins(workdir, level, model)
    quartiles = np.quantile(margins, [0.25, 0.5, 0.75])
    spread = float(np.sqrt((margins**2).mean()))
    print(
        f"{level}, {model}: {len(margins):,} margins, root mean square {spread:.2f}, quartiles {quartiles.round(2)}\n"
    )
    sample = np.quantile(margins, (np.arange(4000) + 0.5) / 4000)
    symmetric = np.concatenate([sample, -sample])
    print("| flips added | 0.1 | 0.2 | 0.3 | 0.4 |\n| --- | --- | --- | --- | --- |")
    for name, values in (
        ("sandwich", sandwich_der(symmetric, RATES)),
        ("lower bound", lower_bound_der(RATES)),
    ):
        print(f"| {name} | " + " | ".join(f"{v:.2f}" for v in values) + " |")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else None)
