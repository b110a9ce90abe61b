"""What a training would take: against sums over single pairs, and as the commands print it."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardscale import flops, mesh, train
from rewardscale.config import Assumed, ConfigError, Recipe, TrainConfig
from rewardscale.data import rows as tree_rows
from rewardscale.data.tokenised import TokenisedView
from rewardscale.models import presets
from rewardscale.sweeps import configfile
from rewardscale.training import dry_run

FINAL = list(presets.BACKBONES)
DEVELOPMENT = [f"{name}-dev" for name in FINAL if not name.endswith("40m")]


def load(spec: str) -> TrainConfig:
    return configfile.load(spec, kind=TrainConfig)[0]


@pytest.mark.parametrize("variant", [*FINAL, *DEVELOPMENT])
def test_every_recipe_is_that_of_the_paper_and_can_be_laid_out(variant: str) -> None:
    """Learning rates, batches, data: section 3 of the paper's appendix; steps are a division."""
    config, name = load(f"skywork_v2.py:{variant}"), variant.removesuffix("-dev")
    found, recipe = dry_run.estimate(config), config.recipe
    if variant in DEVELOPMENT:
        rate = 1e-6 if "8b" in name else 4e-6
        wanted = (rate, "linear", 256, 16_000_000, 62_500)
    else:
        pairs, steps = (40_000_000, 3_907) if name.endswith("40m") else (26_000_000, 2_540)
        wanted = (3e-6, "constant", 10_240, pairs, steps)
    assert (recipe.learning_rate, recipe.schedule, found.batch, found.pairs, found.steps) == wanted
    assert (recipe.epochs, recipe.max_length) == (1.0, 16_384) and config.runtime.row_length == 32_768
    assert found.model == presets.BACKBONES[name].model
    assert 0.5 < found.filled <= 1 and found.hours > 0
    job = dry_run.step_job(config)
    assert np.prod(job.mesh) == found.chips and job.rows == 1 and job.length == 32_768
    assert job.storage == recipe.storage and job.remat == "full"
    assert job.mesh[0] * job.mesh[1] == config.runtime.rows_per_microbatch


def test_the_recipes_are_those_of_train_py() -> None:
    assert load("skywork_v2.py:qwen3-4b").recipe == load("train.py").recipe
    assert load("skywork_v2.py:qwen3-4b-dev").recipe == load("train.py:ablation").recipe


def test_flops_and_hours_by_hand() -> None:
    config = load("skywork_v2.py:llama3.2-3b")
    found, model = dry_run.estimate(config), presets.BACKBONES["llama3.2-3b"].model
    assert found.flops == pytest.approx(3 * 26e6 * flops.comparison_flops(model, 150, [480, 480]))
    apart = flops.comparison_flops(model, 150, [480, 480], shared=False)
    assert found.flops_apart == pytest.approx(3 * 26e6 * apart)
    # 10,240 trees of 1,110 tokens are 346.9 rows of 32,768, in six microbatches of 64.
    assert (found.rows, found.microbatches) == (347, 6)
    assert found.filled == pytest.approx(10_240 * 1110 / (384 * 32_768))
    seconds = found.flops / (64 * 459e12 * 0.4) / found.filled
    assert found.hours == pytest.approx(seconds / 3600)
    assert mesh.bf16_peak("TPU v5p") == 459e12 and mesh.bf16_peak("H800") == mesh.bf16_peak(
        "NVIDIA H100 80GB"
    )


LENGTHS = st.lists(
    st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=8
)


@settings(max_examples=50, deadline=None)
@given(LENGTHS, st.sampled_from(["drop", "truncate_left_of_prompt"]), st.integers(2, 80))
def test_sizes_are_means_over_the_pairs_that_fit(
    table: list[tuple[int, int, int]], too_long: str, longest: int
) -> None:
    recipe = Recipe(max_length=longest, too_long=too_long, epochs=1.0, min_steps=1)
    config = TrainConfig(model="qwen3-0.6b", recipe=recipe, assumed=Assumed(pairs=1000))
    model, trees = presets.BACKBONES["qwen3-0.6b"].model, []
    for prompt, left, right in table:
        over = max(0, prompt + max(left, right) - longest)
        if over == 0 or (too_long != "drop" and over < prompt):
            trees.append((prompt - over, left, right))
    if not trees:
        with pytest.raises(ConfigError, match=r"longer than recipe\.max_length"):
            dry_run.sizes_of(config, np.array(table), source="")
        return
    sizes = dry_run.sizes_of(config, np.array(table), source="")
    found = dry_run.estimate(config, sizes)
    assert found.pairs == round(1000 * len(trees) / len(table))
    for shared, mine in ((True, found.flops), (False, found.flops_apart)):
        own = [flops.comparison_flops(model, p, [a, b], shared=shared) for p, a, b in trees]
        assert mine == pytest.approx(3 * found.pairs * np.mean(own))


def test_lengths_of_a_tokenised_corpus_take_the_place_of_assumed_ones(
    pairs_view: TokenisedView, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load("skywork_v2.py:qwen3-0.6b")
    sizes = dry_run.measured_sizes(config, pairs_view.directory)
    lengths = np.asarray(pairs_view.lengths)
    assert sizes.kept == 1 and sizes.tokens == pytest.approx(lengths.sum(1).mean())
    keep, _ = tree_rows.fit_to(lengths, np.arange(len(lengths)), max_length=20, too_long="drop")
    short = dataclasses.replace(config, recipe=dataclasses.replace(config.recipe, max_length=20))
    assert 0 < keep.mean() < 1 and dry_run.measured_sizes(short, pairs_view.directory).kept == keep.mean()
    flags = [
        "--config=skywork_v2.py:qwen3-0.6b",
        "--config.recipe.max_length=20",
        f"--workdir={tmp_path / 'run'}",
    ]
    assert train.main([*flags, "--dry_run", f"--lengths={pairs_view.directory}"]) == 0
    said = capsys.readouterr().out
    assert "too long" in said and f"of {len(lengths):,} pairs that fit 20 tokens" in said
    assert not (tmp_path / "run").exists()


def test_the_command_prints_what_it_rests_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["--config=skywork_v2.py:qwen3-8b", "--dry_run", "--config.assumed.mfu=0.5"]) == 0
    said = capsys.readouterr().out
    for words in (
        "26,000,000 pairs",
        "2,540 of 10,240 pairs",
        "50% (assumed) of 459 TFLOP/s",
        "64 chips of v5p:4x4x4",
    ):
        assert words in said
    assert "a multiply-add is 2" in said and "--config=skywork_v2.py:qwen3-8b\n" in said


BAD = {
    "no variant": (["--config=skywork_v2.py", "--dry_run"], "needs a variant"),
    "another variant": (["--config=skywork_v2.py:qwen3-7b", "--dry_run"], "skywork_v2.py:qwen3-8b"),
    "no pairs": (["--config=train.py", "--config.model=qwen3-8b", "--dry_run"], "say how many pairs"),
    "no model": (["--config=train.py", "--config.assumed.pairs=9", "--dry_run"], "config.model is empty"),
    "another hub id": (
        ["--config=train.py", "--config.model=a/b", "--config.assumed.pairs=9", "--dry_run"],
        "no preset's hub id",
    ),
    "no tokenizer": (
        ["--config=train.py", "--config.model=d6", "--config.assumed.pairs=9", "--dry_run"],
        "name config.tokenizer",
    ),
    "a convex model": (
        ["--config=train.py", "--config.model=hash64", "--config.assumed.pairs=9", "--dry_run"],
        "is a convex model",
    ),
    "lengths and no dry run": (["--config=skywork_v2.py:qwen3-8b", "--lengths=."], "is for --dry_run"),
    "no view": (["--config=skywork_v2.py:qwen3-8b", "--dry_run", "--lengths=docs"], "no tokenised views"),
    "no such slice": (
        ["--config=skywork_v2.py:qwen3-8b", "--dry_run", "--config.assumed.topology=v5p:9x9"],
        "slices of v5p are",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_line(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    flags, message = BAD[case]
    assert train.main(flags) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and message in said and said.count("\n") == 1


def test_a_step_is_compiled_for_what_is_said() -> None:
    config = load("train.py")
    with pytest.raises(ConfigError, match="rows of a stated length"):
        dry_run.step_job(config)
    config = load("skywork_v2.py:qwen3-0.6b-dev")
    assert dry_run.step_job(config, topology="v5e:4x4").mesh == (1, 4, 4)
    few = dataclasses.replace(config, runtime=dataclasses.replace(config.runtime, rows_per_microbatch=5))
    assert (
        dry_run.step_job(few).rows == 2 and dry_run.estimate(few).together == 8
    )  # as training makes it whole
    assert dry_run.step_job(config, slots=8).slots == 8 and dry_run.step_job(config).slots == 64
