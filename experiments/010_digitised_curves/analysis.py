"""What the published curves of Skywork-Reward-V2 support: fits to digitised figures, and what they cannot tell.

    python experiments/010_digitised_curves/analysis.py [OUT.png]

Prints Markdown tables and draws curves.png beside this file.
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from rewardscale.scaling import forms
from rewardscale.scaling.fit import Fit, FitError, fit

HERE = Path(__file__).parent
BATCH = 256  # pairs a step, as the paper says of this run
STAGES = {"original": "0.5", "filtered": "C0", "filtered_plus_corrected": "C1"}


def read(name: str) -> pl.DataFrame:
    return pl.read_csv(HERE / "curves" / f"{name}.csv")


def line(*cells: object) -> str:
    """One row of a Markdown table."""
    return "| " + " | ".join(map(str, cells)) + " |"


def header(*cells: str) -> str:
    return line(*cells) + "\n" + line(*["---"] * len(cells))


# Figure 7, right: one run.


def run() -> tuple[NDArray, NDArray]:
    """Pairs seen and error (100 - mean score of six benchmarks, points) along the run."""
    table = read("fig7_right_curve")
    return BATCH * table["step"].to_numpy(), 100 - table["avg6"].to_numpy()


def thinned(pairs: NDArray, error: NDArray, count: int = 25) -> tuple[NDArray, NDArray]:
    """About ``count`` points evenly spaced in log pairs; as they are logged, late training would outweigh the rest."""
    wanted = np.geomspace(pairs[0], pairs[-1], count)
    index = np.unique([np.abs(np.log(pairs / p)).argmin() for p in wanted])
    return pairs[index], error[index]


def windows() -> dict[str, tuple[NDArray, NDArray]]:
    pairs, error = run()
    early = pairs >= 250_000
    return {
        "from 0.25M pairs, every logged step": (pairs[early], error[early]),
        "from 0.25M pairs, even in log": thinned(pairs[early], error[early]),
        "from 1M pairs, even in log": thinned(pairs[pairs >= 1e6], error[pairs >= 1e6]),
        "0.25M to 4M pairs, even in log": thinned(
            pairs[early & (pairs <= 4e6)], error[early & (pairs <= 4e6)]
        ),
        "all, even in log": thinned(pairs, error),
    }


def print_run() -> None:
    pairs, error = run()
    last = error[-20:].mean()
    print("Figure 7, right. error = E + B pairs^-beta along one run (no interval: nothing was repeated):\n")
    print(
        header(
            "points used",
            "points",
            "E",
            "exponent",
            "rms residual, points",
            f"predicted at {pairs[-1] / 1e6:.1f}M (seen {last:.1f})",
        )
    )
    for name, (x, y) in windows().items():
        found = fit(forms.POWER_FLOOR, {"pairs": x}, y)
        p = found.parameters
        rms = np.sqrt(((y - found.predict({"pairs": x})) ** 2).mean())
        ends = found.predict({"pairs": pairs[-1:]})[0]
        print(line(name, len(x), f"{p['floor']:.1f}", f"{p['exponent']:.2f}", f"{rms:.2f}", f"{ends:.1f}"))
    x, y = windows()["from 0.25M pairs, every logged step"]
    r = fit(forms.POWER_FLOOR, {"pairs": x}, y).residuals
    print(f"\nCorrelation of neighbouring residuals: {np.corrcoef(r[1:], r[:-1])[0, 1]:.2f}.")


# Figure 7, left: stages.


def print_stages() -> None:
    table = read("fig7_left")
    print("\nFigure 7, left. Mean score by stage (no sizes are given, so there is no law to fit):\n")
    print(header("curve", "seed", "iteration 8", "stage 2", "stage 2 minus seed"))
    for name in STAGES:
        first, eighth, last = (table[name][i] for i in (0, 8, 9))
        print(line(name.replace("_", " "), first, eighth, last, f"{last - first:+.1f}"))
    change = np.diff(table["original"].to_numpy()[:9])
    spread = f"{change.std(ddof=1):.1f} points"
    print(
        f"\nStandard deviation of the original curve's changes from stage to stage, seed to iteration 8: {spread}."
    )


# Figure 4: best of n.


def best_of_n() -> dict[tuple[str, str], tuple[NDArray, NDArray]]:
    """(task, model) -> n = 2..32 and gain over n = 1, points."""
    table = read("fig4_bon")
    n = np.array([int(c) for c in table.columns[2:]])
    out = {}
    for row in table.iter_rows():
        score = 100 * np.array(row[2:])
        out[row[0], row[1]] = n[1:], score[1:] - score[0]
    return out


def distance(n: NDArray) -> NDArray:
    """sqrt(KL) of best of n, KL = log n - (n - 1) / n nats (Gao et al. 2022, section 2.3)."""
    return np.sqrt(np.log(n) - (n - 1) / n)


def fit_best_of_n(n: NDArray, gain: NDArray) -> Fit:
    return fit(forms.BEST_OF_N, {"distance": distance(n)}, gain, log=False, delta=np.inf)


def print_best_of_n() -> None:
    print("\nFigure 4. gain = d (alpha - beta d), d = sqrt(KL), mean of the five tasks, n = 2 to 32:\n")
    print(
        header(
            "chooser",
            "alpha",
            "beta",
            "rms residual, points",
            "peak of the fit, n",
            "held out n > 8, rms points",
        )
    )
    curves = best_of_n()
    for (task, model), (n, gain) in curves.items():
        if task != "Avg":
            continue
        found = fit_best_of_n(n, gain)
        alpha, beta = found.parameters["gain"], found.parameters["over_optimisation"]
        early = fit_best_of_n(n[n <= 8], gain[n <= 8])
        missed = early.predict({"distance": distance(n[n > 8])}) - gain[n > 8]
        peak = peak_at(alpha, beta)
        said = "none" if peak is None else f"{peak:,.0f}" if peak <= 32 else f"{peak:,.0f} (extrapolated)"
        rms = np.sqrt((found.residuals**2).mean())
        print(
            line(
                model, f"{alpha:.1f}", f"{beta:.1f}", f"{rms:.2f}", said, f"{np.sqrt((missed**2).mean()):.1f}"
            )
        )
    print("\nCurves that fall by more than half a point after their top, by task:\n")
    print(header("task", "chooser", "top at n", "fall to n = 32, points"))
    for (task, model), (n, gain) in curves.items():
        fall = gain.max() - gain[-1]
        if fall > 0.5 and task != "Avg":
            print(line(task, model, n[gain.argmax()], f"{fall:.1f}"))


def peak_at(alpha: float, beta: float) -> float | None:
    """n at which d = alpha / (2 beta), None without a peak (beta <= 0)."""
    if beta <= 0:
        return None
    log_n = np.linspace(np.log(2), 60, 200_000)
    d = np.sqrt(log_n - 1 + np.exp(-log_n))
    return float(np.exp(log_n[np.abs(d - alpha / (2 * beta)).argmin()]))


# The picture.


def draw_run(ax: Axes) -> None:
    pairs, error = run()
    ax.plot(pairs, error, ".", ms=2, color="0.6", label="one run, as logged")
    x = np.geomspace(pairs[0], pairs[-1], 200)
    for (name, (used, y)), colour in zip(list(windows().items())[1:4], ("C0", "C1", "C2"), strict=True):
        found = fit(forms.POWER_FLOOR, {"pairs": used}, y)
        inside = (x >= used[0]) & (x <= used[-1])
        p = found.parameters
        label = f"{name.split(',')[0]}: E {p['floor']:.1f}, exponent {p['exponent']:.2f}"
        ax.plot(x[inside], found.predict({"pairs": x[inside]}), color=colour, label=label)
        ax.plot(x[~inside], found.predict({"pairs": x[~inside]}), ":", color=colour)
    ax.set(
        xscale="log",
        yscale="log",
        xlabel="pairs seen in the run",
        ylabel="100 − mean score of six benchmarks",
    )
    ax.set(ylim=(11, 60), title="Figure 7, right: one run (dotted: extrapolated)")
    ax.set_yticks([12, 15, 20, 30, 50], ["12", "15", "20", "30", "50"])
    ax.set_yticks([], minor=True)
    ax.legend(fontsize=7, frameon=False)


def draw_stages(ax: Axes) -> None:
    table = read("fig7_left")
    for name, colour in STAGES.items():
        ax.plot(range(10), table[name], "o-", ms=4, color=colour, label=name.replace("_", " "))
    names = ["seed", *(str(i) for i in range(1, 9)), "stage 2"]
    ax.set_xticks(range(10), names)
    ax.set(xlabel="stage of the pipeline (not a data size)", ylabel="mean score of six benchmarks")
    ax.set(title="Figure 7, left: stages, nothing fitted")
    ax.legend(fontsize=7, frameon=False)


def draw_best_of_n(ax: Axes) -> None:
    curves = {model: value for (task, model), value in best_of_n().items() if task == "Avg"}
    d = np.linspace(0.01, distance(np.array([32]))[0], 100)
    for i, (model, (n, gain)) in enumerate(curves.items()):
        p = fit_best_of_n(n, gain).parameters
        ax.plot(distance(n), gain, ".", ms=4, color=f"C{i}")
        ax.plot(d, forms.BEST_OF_N({"distance": d}, **p), lw=1, color=f"C{i}", label=model)
    ax.set(xlabel="√KL, nats^½ (n = 32 at 1.58)", ylabel="gain over n = 1, points")
    ax.set(title="Figure 4: best of n, mean of five tasks")
    ax.legend(fontsize=7, frameon=False)


def draw(path: Path) -> None:
    figure = Figure(figsize=(15, 4.6), layout="constrained")
    run_ax, stages_ax, best_ax = figure.subplots(1, 3)
    draw_run(run_ax)
    draw_stages(stages_ax)
    draw_best_of_n(best_ax)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    try:
        print_run()
        print_stages()
        print_best_of_n()
    except FitError as error:
        sys.exit(f"error: {error}")
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "curves.png")
