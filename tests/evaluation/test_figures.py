"""Every figure is drawn from real numbers, saved twice with the same bytes, and shows what it was given."""

import numpy as np
import pytest
from matplotlib.text import Text

from rewardscale.evaluation import best_of_n, calibration, compare_models, drawing, figures
from rewardscale.evaluation.resampling import Interval

MODELS = ["a small model", "another, larger model", "length only <&>"]


def some_scores() -> dict[str, dict[str, Interval]]:
    random = np.random.default_rng(0)
    rows = ["RewardBench v1", "RM-Bench 798/1,327", "JudgeBench", "a plain set"]
    return {
        model: {
            row: Interval(m, m - 0.04, m + 0.03, 0.02, 50, 80)
            if row != "a plain set"
            else Interval(m, None, None, None, 3, 3, "3 clusters")
            for row, m in zip(rows, 0.55 + 0.1 * number + 0.1 * random.random(4), strict=True)
        }
        for number, model in enumerate(MODELS[:2])
    }


def some_margins(seed: int, pairs: int = 1_500, scale: float = 2.5) -> np.ndarray:
    random = np.random.default_rng(seed)
    size = np.abs(random.normal(size=pairs)) * 1.4
    return np.where(random.random(pairs) < 1 / (1 + np.exp(-size)), size, -size) * scale


def some_samples(seed: int, noise: float, tail: float | None = None) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    gold = np.random.default_rng(99).normal(size=(120, 64))
    error = random.normal(size=gold.shape) if tail is None else random.standard_t(tail, size=gold.shape)
    return gold + noise * error, gold


def draw(kind: str):
    if kind == "scores":
        rows = list(next(iter(some_scores().values())))
        controls = {"longer is better": dict.fromkeys(rows, 0.57), "random": dict.fromkeys(rows[:3], 0.5)}
        return figures.scores(some_scores(), controls)
    if kind == "reliability":
        found = calibration.calibrate(some_margins(0), np.arange(1_500) // 3, resamples=20)
        return figures.reliability(found, MODELS[1])
    if kind == "best_of":
        made = {model: some_samples(i, 0.7 + i) for i, model in enumerate(MODELS)}
        curves = {m: best_of_n.curve(r, 1.0 * (q > 0.5), resamples=100) for m, (r, q) in made.items()}
        return figures.best_of(curves, "share right")
    if kind == "goodhart":
        made = {MODELS[0]: some_samples(0, 1.0, 2.0), MODELS[1]: some_samples(1, 0.8)}
        return figures.goodhart({m: best_of_n.goodhart(p, g, resamples=100) for m, (p, g) in made.items()})
    if kind == "style_matrix":
        matrix = np.array([[0.81, 0.42, 0.31], [0.93, 0.8, 0.52], [0.97, 0.91, np.nan]])
        names = ["concise", "detailed", "markdown"]
        return figures.style_matrix({m: matrix**p for m, p in zip(MODELS, (1, 0.5, 2), strict=True)}, names)
    margins = {model: some_margins(0) + some_margins(i) for i, model in enumerate(MODELS)}
    margins["absent"] = np.full(1_500, np.nan)
    return figures.agreement(compare_models.agreement_matrix(margins, np.arange(1_500), 20))


KINDS = {
    "scores": ["RM-Bench 798/1,327", "a plain set", "longer is better", "another, larger model"],
    "reliability": ["at temperatures 2.", "as trained", "debiased", "1,500 pairs"],
    "best_of": ["oracle", "random", "share right", "length only &lt;&amp;&gt;", "64"],
    "goodhart": ["gold reward", "its peak", "a small model"],
    "style_matrix": ["42.0", "style of the wrong answer", "markdown", "–"],
    "agreement": ["judged alike", "absent", "–", "another, larger model"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_figures(kind, tmp_path) -> None:
    figure = draw(kind)
    paths = drawing.save(figure, tmp_path, kind)
    assert set(paths) == {"svg", "png"} and paths["png"].read_bytes()[:4] == b"\x89PNG"
    text = paths["svg"].read_text()
    for shown in KINDS[kind]:
        assert shown in text, shown
    again = drawing.save(draw(kind), tmp_path / "again", kind)
    assert again["svg"].read_bytes() == paths["svg"].read_bytes()
    assert again["png"].read_bytes() == paths["png"].read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_cut_off_and_no_labels_overlap(kind) -> None:
    figure = draw(kind)
    with drawing.look():
        figure.canvas.draw()
        hidden = {
            tick.label1
            for axes in figure.axes
            for axis in (axes.xaxis, axes.yaxis)
            for tick in axis.get_major_ticks()
            if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
        }
        shown = [text for text in figure.findobj(Text) if isinstance(text, Text) and text not in hidden]
        boxes = [text.get_window_extent() for text in shown if text.get_text() and text.get_visible()]
    assert len(boxes) > 12
    width, height = figure.get_size_inches() * figure.dpi
    for box in boxes:
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1
    if kind == "agreement":
        return  # its slanted names' boxes overlap, the names don't
    for i, one in enumerate(boxes):
        for other in boxes[:i]:
            assert not (
                one.x0 < other.x1 - 1
                and other.x0 < one.x1 - 1
                and one.y0 < other.y1 - 1
                and other.y0 < one.y1 - 1
            )


def test_styles_are_distinct_and_curves_of_other_prompts_are_refused() -> None:
    made = drawing.styles([f"model {i}" for i in range(40)])
    assert len(set(made.values())) == 40
    assert len({style.colour for style in list(made.values())[:7]}) == 7
    assert (
        drawing.short("a-model-of-many-words-1B", 12) == "a-mod…rds-1B" and drawing.short("x\u202ey") == "x�y"
    )
    one = best_of_n.curve(*some_samples(0, 1.0), resamples=10)
    reward, gold = some_samples(0, 1.0)
    with pytest.raises(ValueError, match="different prompts"):
        figures.best_of({"a": one, "b": best_of_n.curve(reward[:50], gold[:50], resamples=10)})
