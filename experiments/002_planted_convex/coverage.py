"""How often the intervals cover what was planted: python coverage.py WORKDIR [SEEDS [LARGEST]]

For each seed a planted convex world of its own is built, swept (`sweep.py:convex` with the axes below) and reported
by `rewardscale.launch`, and every interval is held against the world's truth.json. Finished sweeps are kept in WORKDIR.
Only sizes up to LARGEST are fitted (all of them by default). Writes coverage_<LARGEST>.csv beside this file and prints
the table of README.md.
"""

import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
from tqdm import tqdm

from rewardscale.scaling.collect import Sweep, load_sweep
from rewardscale.scaling.compare import compare_levels
from rewardscale.scaling.der import der
from rewardscale.scaling.fit import fit
from rewardscale.scaling.forms import MODEL_POWER_FLOOR, POWER, POWER_FLOOR, Form
from rewardscale.scaling.points import Points, points
from rewardscale.scaling.resample import Interval, of_fit, resample

SIZES = (500, 1000, 2000, 4000, 8000, 16_000, 32_000)
STUDENT, STUDENTS = "vocab512", ("vocab16", "vocab32", "vocab64", "vocab128", "vocab256")
LEVELS = ("raw", "gold", "biased", "deterministic", "deterministic+flip0.2")
DRAWS = 5
Row = tuple[str, float, Interval]  # quantity, truth, interval


def sweep_of(seed: int, workdir: Path) -> Sweep:
    """Runs the seed's sweep (or finishes it) and reads its folder."""
    folder = workdir / f"seed-{seed}"
    axes = {
        "sweep.models": STUDENT,
        "sweep.pairs": ",".join(map(str, SIZES)),
        "sweep.levels": ",".join(LEVELS),
        "sweep.draws": str(DRAWS),
        "also.models": ",".join(STUDENTS),
        "also.pairs": str(SIZES[-1]),
        "also.levels": "raw,gold",
        "also.draws": str(DRAWS),
        "data.planted_linear.seed": str(seed),
        "seed": str(seed),
    }
    command = [sys.executable, "-m", "rewardscale.launch", "--config=sweep.py:convex", f"--workdir={folder}"]
    log = folder.with_suffix(".log")
    folder.mkdir(parents=True, exist_ok=True)
    with log.open("w") as out:
        done = subprocess.run(
            [*command, *(f"--config.{k}={v}" for k, v in axes.items())], stdout=out, stderr=out
        )
    if done.returncode:
        raise SystemExit(f"the sweep of seed {seed} failed; see {log}")
    return load_sweep(folder)


def parameter(own: Points, form: Form, name: str) -> Interval:
    """The interval of one parameter of ``form`` fitted to these points."""
    found = fit(form, own.x, own.mean)
    return resample(own, of_fit(found)).interval(form.parameters.index(name))


def curve(sweep: Sweep, level: str, eval_set: str = "gold") -> Points:
    return points(sweep, models=[STUDENT], levels=[level], eval_set=eval_set)


def in_data(sweep: Sweep, truth: dict) -> Iterator[Row]:
    """The laws in D of the student that knows all words."""
    limits = truth["levels"]
    for level in ("gold", "raw", "biased"):
        own = curve(sweep, level)
        yield f"floor E, {level}", limits[level]["512"]["test_loss"], parameter(own, POWER_FLOOR, "floor")
        if level != "biased":
            yield f"exponent β, {level}", 1.0, parameter(own, POWER_FLOOR, "exponent")
    both = points(sweep, models=[STUDENT], levels=["raw", "gold"])
    yield "raw pairs a gold pair is worth", truth["raw_per_gold"]["512"], der(both, "raw", "gold").summary
    yield (
        "exponent β on sign, deterministic",
        1.0,
        parameter(curve(sweep, "deterministic", "sign"), POWER, "exponent"),
    )
    flipped = curve(sweep, "deterministic+flip0.2", "sign")
    yield "exponent β on sign, deterministic with flips", 0.5, parameter(flipped, POWER, "exponent")


def in_size(sweep: Sweep, truth: dict) -> Iterator[Row]:
    """The law in N at the largest D, against the same form fitted to the exact losses."""
    for level in ("gold", "raw"):
        every = points(sweep, levels=[level])
        own = every.select(every.x["pairs"] == SIZES[-1])
        limits = truth["levels"][level]
        exact = [
            limits[str(int(n))]["test_loss"] + limits[str(int(n))]["rate"] / SIZES[-1]
            for n in own.x["params"]
        ]
        planted = fit(MODEL_POWER_FLOOR, own.x, exact).parameters["model_exponent"]
        yield f"exponent α, {level}", planted, parameter(own, MODEL_POWER_FLOOR, "model_exponent")


def kinds(sweep: Sweep) -> dict[str, str | None]:
    """Which nested model is chosen for a pair of levels that differ by an offset, and for one that differs in floor."""
    chosen = {}
    for name, level in (("offset", "raw"), ("floor", "biased")):
        own = points(sweep, models=[STUDENT], levels=[level, "gold"])
        chosen[name] = compare_levels(own, base="gold").chosen
    return chosen


def main(workdir: Path, seeds: int, largest: int) -> None:
    rows, chosen = [], []
    for seed in tqdm(range(seeds), desc="seeds"):
        whole = sweep_of(seed, workdir)
        sweep = whole.filter(pl.col("pairs") <= largest)
        truth = json.loads(next((workdir / f"seed-{seed}" / "data").glob("*/truth.json")).read_text())
        parts: tuple[tuple[Callable[[Sweep, dict], Iterator[Row]], Sweep], ...] = (
            (in_data, sweep),
            (in_size, whole),
        )
        for part, of in parts:
            for quantity, planted, seen in part(of, truth):
                inside = None
                if seen.low is not None and seen.high is not None:
                    inside = seen.low <= planted <= seen.high
                rows.append((seed, quantity, planted, seen.estimate, seen.low, seen.high, inside))
        chosen.append((seed, *kinds(sweep).values()))
    columns = ["seed", "quantity", "planted", "estimate", "low", "high", "covered"]
    table = pl.DataFrame(rows, schema=columns, orient="row")
    here = Path(__file__).parent
    table.write_csv(here / f"coverage_{largest}.csv")
    print(
        "| quantity | planted | median estimate | median half width | covered |\n| --- | --- | --- | --- | --- |"
    )
    for quantity in table["quantity"].unique(maintain_order=True):
        own = table.filter(pl.col("quantity") == quantity)
        half = ((own["high"] - own["low"]) / 2).median()
        planted, estimate = own["planted"].mean(), own["estimate"].median()
        given = own["covered"].drop_nulls()
        print(f"| {quantity} | {planted:.4g} | {estimate:.4g} | {half:.2g} | {given.sum()} of {len(given)} |")
    given = table["covered"].drop_nulls()
    spread = math.sqrt(0.95 * 0.05 / len(given))
    print(
        f"\n{given.mean():.1%} of all {len(given)} intervals cover (nominal 95 %, ± {spread:.1%} if independent)"
    )
    print(f"{len(table) - len(given)} of {len(table)} quantities got no interval")
    picked = pl.DataFrame(chosen, schema=["seed", "offset", "floor"], orient="row")
    for name in ("offset", "floor"):
        counts = picked[name].value_counts(sort=True).rows()
        print(f"chosen where {name} was planted: " + ", ".join(f"{kind} {count}" for kind, count in counts))


if __name__ == "__main__":
    np.seterr(over="ignore")
    given = [int(word) for word in sys.argv[2:4]]
    main(Path(sys.argv[1]), *(given + [20, SIZES[-1]][len(given) :]))
