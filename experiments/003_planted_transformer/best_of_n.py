"""(d) Gold against proxy along best of n: python best_of_n.py RUNS

RUNS: the folder of the three sweeps' folders, by the names of configs/planted_transformer.py. Models of two widths at
the largest size score the candidates (minutes, kept in the runs' folders; asked again, nothing is scored twice). Prints
the README's table and writes best_of_n.csv, .png. Intervals: t over draws, a model each.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy import stats

from rewardscale import best_of_n
from rewardscale.evaluation.benchmarks import planted
from rewardscale.evaluation.best_of_n import fit_gao
from rewardscale.scaling.figures import save
from rewardscale.scaling.panels import frames, legend_above, level_styles, look, marker_of, plain, set_axis
from rewardscale.sweeps import cell as runs
from rewardscale.sweeps import configfile, datasets
from rewardscale.sweeps import sweep as sweeps

HERE = Path(__file__).parent
VARIANTS = {"": "flips", "bradley_terry": "sampled labels", "length_bias": "length bias"}
MODELS = ("w16", "w40")
N = 2 ** np.arange(planted.SAMPLES.bit_length())


def curves(variant: str, root: Path) -> pl.DataFrame:
    """A row a model, level, draw, candidates and n: gains over n = 1 in standard deviations of each reward."""
    config, _ = configfile.load(f"planted_transformer.py{variant and ':'}{variant}")
    config = dataclasses.replace(config, benchmarks=planted.NAMES)
    plan = sweeps.plan(config, root / config.name)
    assert plan.wanted is not None
    context = runs.Context(
        plan.dataset, datasets.view(plan.dataset), config.runtime, plan.workdir, plan.wanted
    )
    largest, rows = max(config.sweep.pairs), []
    chosen = [c for c in plan.cells if c.run.pairs == largest and c.run.model_name in MODELS]
    for number, cell in enumerate(chosen):
        print(f"\r{config.name}: model {number + 1} of {len(chosen)}", end="", file=sys.stderr, flush=True)
        if not runs.run_cell(cell, context):
            raise SystemExit(f"run {cell.run_id} is busy: try again later")
        table = pl.read_parquet(plan.workdir / "runs" / cell.run_id / "benchmark_rewards.parquet")
        rewards = table["reward"].to_numpy().astype(np.float64)
        for benchmark in plan.wanted.benchmarks:
            proxy = plan.wanted.texts.matrix(benchmark.name, rewards)
            words = np.array([[len(r.split()) for r in item.responses] for item in benchmark.items])
            beyond = np.maximum(words - config.data.planted.world.longest, 0).astype(np.float64)
            gold = benchmark.quality
            assert gold is not None
            gains = [_gain(proxy, of) for of in (gold, proxy)]
            same = {
                "labels": variant,
                "level": cell.run.level,
                "model": cell.run.model_name,
                "draw": cell.run.draw,
            }
            same["candidates"] = benchmark.name
            nats, excess = (best_of_n.estimate(proxy, of, N).mean(axis=0) for of in (gold, beyond))
            rows += [
                same | {"n": int(n), "gold": g, "proxy": p, "nats": v - nats[0], "excess": e - excess[0]}
                for n, g, p, v, e in zip(N, *gains, nats, excess, strict=True)
            ]
    print(file=sys.stderr)
    return pl.DataFrame(rows)


def _gain(proxy: np.ndarray, of: np.ndarray) -> np.ndarray:
    """Mean over prompts [n] of `of` at the proxy's best of n, over n = 1, in standard deviations within a prompt."""
    mean = best_of_n.estimate(proxy, of, N).mean(axis=0)
    return (mean - mean[0]) / np.sqrt(((of - of.mean(axis=1, keepdims=True)) ** 2).mean())


def summary(table: pl.DataFrame) -> pl.DataFrame:
    """Means over draws with 95 % t-intervals, a row a curve and n."""
    group = ["candidates", "model", "labels", "level", "n"]
    out = table.group_by(group, maintain_order=True).agg(
        pl.len().alias("draws"),
        *(pl.col(k).mean().alias(k) for k in ("gold", "proxy")),
        *(pl.col(k).std().alias(f"{k}_sd") for k in ("gold", "proxy")),
    )
    t = float(stats.t.ppf(0.975, int(out["draws"].min()) - 1))  # type: ignore[arg-type]
    half = {k: pl.col(f"{k}_sd") / pl.col("draws").sqrt() * t for k in ("gold", "proxy")}
    ends = [
        (pl.col(k) + sign * half[k]).alias(f"{k}_{end}")
        for k in half
        for end, sign in (("low", -1), ("high", 1))
    ]
    distance = pl.Series("d", np.sqrt(best_of_n.kl(out["n"].to_numpy())))
    return out.with_columns(distance, *ends)


def report(table: pl.DataFrame, means: pl.DataFrame) -> None:
    """The README's table: gains at the largest n, where gold is highest, and Gao et al.'s form."""
    print(
        "| candidates | model | labels | level | gold gain at n = 256 | largest gain | at n | alpha | beta |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    distance = np.sqrt(best_of_n.kl(N))
    for key, own in means.group_by(["candidates", "model", "labels", "level"], maintain_order=True):
        last, top = own.row(-1, named=True), own.sort("gold").row(-1, named=True)
        draws = table.filter(
            *(pl.col(k) == v for k, v in zip(("candidates", "model", "labels", "level"), key, strict=True))
        )
        gains = np.stack([of.sort("n")["gold"].to_numpy() for _, of in draws.group_by("draw")])
        alpha, beta = fit_gao(distance, gains)
        t = float(stats.t.ppf(0.975, len(gains) - 1)) / np.sqrt(len(gains))
        said = [f"{v.mean():.2f} ± {v.std(ddof=1) * t:.2f}" for v in (alpha, beta)]
        half = (last["gold_high"] - last["gold_low"]) / 2
        who = f"{key[0].removeprefix('planted-')} | {key[1]} | {VARIANTS[str(key[2])]} | {key[3]}"
        print(
            f"| {who} | {last['gold']:.2f} ± {half:.2f} | {top['gold']:.2f} | {top['n']} | {' | '.join(said)} |"
        )


def thresholds(table: pl.DataFrame) -> None:
    """After the fact: the penalty a word from which gold is lost along best of n, for the longer candidates.

    Gold is linear in the penalty and no proxy has seen it, so the curve at any penalty follows from that at one.
    """
    print(
        "\n| model | labels | level | words past the 12th, n = 256 | gold peaks before 256 from | below n = 1 from |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    own = table.filter(pl.col("candidates") == planted.NAMES[1])
    for key, of in own.group_by(["model", "labels", "level"], maintain_order=True):
        mean = of.group_by("n").agg(pl.col("nats").mean(), pl.col("excess").mean()).sort("n")
        free, excess = (mean["nats"] + planted.PENALTY * mean["excess"]).to_numpy(), mean["excess"].to_numpy()
        grid = np.arange(0.0, 50.0, 0.1)
        curves = free - grid[:, None] * excess
        peak, lost = grid[(curves[:, :-1].max(axis=1) > curves[:, -1])], grid[curves[:, -1] < 0]
        said = [f"{of[0]:.1f} nats" if len(of) else "never" for of in (peak, lost)]
        print(f"| {key[0]} | {VARIANTS[str(key[1])]} | {key[2]} | {excess[-1]:+.1f} | {' | '.join(said)} |")


def _curve(labels: str, level: str) -> str:
    if labels == "length_bias":
        return VARIANTS[labels]
    return level if not labels else f"{level}, {VARIANTS[labels]}"


def draw(means: pl.DataFrame) -> None:
    """Gold (solid) and proxy (dashed) gain over sqrt(KL): candidates down, models across."""
    from matplotlib.lines import Line2D

    dashed: Any = (0, (4, 1.2))
    named = means.with_columns(
        curve=pl.struct("labels", "level").map_elements(
            lambda of: _curve(of["labels"], of["level"]),
            return_dtype=pl.String,
        )
    )
    styles = level_styles(named["curve"].unique().to_list())
    layout = [[(benchmark, model) for model in MODELS] for benchmark in planted.NAMES]
    low, high = float(named["gold_low"].min()), float(named["proxy_high"].max())  # type: ignore[arg-type]
    with look():
        figure, grid = frames(layout, head=0.5, height=1.9)
        for (row, column), panel in grid.items():
            benchmark, model = layout[row][column]
            for curve, style in styles.items():
                own = named.filter(
                    pl.col("candidates") == benchmark, pl.col("model") == model, pl.col("curve") == curve
                ).sort("n")
                if own.is_empty():
                    continue
                d = own["d"].to_numpy()
                panel.fill_between(
                    d, own["gold_low"], own["gold_high"], color=style.colour, alpha=0.15, linewidth=0
                )
                panel.plot(d, own["gold"], linewidth=1, **marker_of(style))
                panel.plot(d, own["proxy"], color=style.colour, linewidth=0.7, linestyle=dashed)
            plain(panel.set_title(f"{benchmark.removeprefix('planted-')}: {model}", loc="left"))
            set_axis(panel, "x", 0.0, float(named["d"].max()), log=False, room=6)  # type: ignore[arg-type]
            set_axis(panel, "y", low, high, log=False, room=6)
            if row == len(layout) - 1:
                plain(panel.set_xlabel("√KL from the policy, √nats"))
            if column == 0:
                plain(panel.set_ylabel("gain over n = 1, sd"))
            panel.tick_params(labelleft=column == 0, labelbottom=row == len(layout) - 1)
        handles = [Line2D([], [], linewidth=0.9, **marker_of(style)) for style in styles.values()]
        grey: dict[str, Any] = {"color": "#777777"}
        handles += [
            Line2D([], [], linewidth=1, **grey),
            Line2D([], [], linewidth=0.7, linestyle=dashed, **grey),
        ]
        labels = [*styles, "gold reward", "proxy reward"]
        legend_above(figure, handles, labels, columns=4)
    save(figure, named.drop("curve"), HERE, "best_of_n")


def main(root: Path) -> None:
    table = pl.concat([curves(variant, root) for variant in VARIANTS])
    means = summary(table)
    report(table, means)
    thresholds(table)
    draw(means)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
