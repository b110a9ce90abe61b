"""Run ids: fields that joined later leave the ids of finished runs alone, and every one of them counts once set."""

import dataclasses

import pytest

from rewardscale.config import ConfigError, Lora, Recipe, Runtime, Storage
from tests import small


def test_ids_of_finished_runs_stay() -> None:
    """As they were before recipes had types of storage and adapters."""
    assert small.run_config(pairs=160).run_id == "5b144fef3c003ead79d9"
    assert small.run_config(recipe=Recipe(), pairs=5).run_id == "5b354be619465c1a9781"
    other = Recipe(dtype="bfloat16", schedule="wsd")
    assert small.run_config(recipe=other, pairs=5, draw=3).run_id == "5b1306d282b13f876e43"


def test_what_changes_numbers_changes_the_id() -> None:
    variants = [
        {"parameters": "bfloat16"}, {"moments": "bfloat16"}, {"gradients": "bfloat16"}, {"lora_rank": 4},
        {"lora_rank": 8}, {"lora_rank": 4, "lora_alpha": 8.0}, {"lora_rank": 4, "lora_targets": ("q",)}, {},
        {"warmup_steps": 5},
    ]  # fmt: skip
    ids = {small.run_config(recipe=Recipe(**values), pairs=5).run_id for values in variants}
    assert len(ids) == len(variants)


def test_a_recipe_says_what_is_kept_and_what_is_trained() -> None:
    assert Recipe().storage == Storage() and Recipe().adapt(small.MODEL) is small.MODEL
    assert Recipe(parameters="bfloat16", gradients="bfloat16").storage == Storage(
        "bfloat16", "float32", "bfloat16"
    )
    recipe = Recipe(lora_rank=4, lora_alpha=8.0, lora_targets=("q", "up"))
    assert recipe.adapt(small.MODEL) == dataclasses.replace(small.MODEL, lora=Lora(4, 8.0, ("q", "up")))
    assert Lora(4, 8.0).scale == 2.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"parameters": "bf16"}, r"recipe\.parameters='bf16' must be one of .*did you mean 'bfloat16'"),
        ({"moments": "float16"}, r"recipe\.moments"),
        ({"lora_rank": -1}, r"lora_rank=-1 must be 0"),
        ({"lora_rank": 4, "lora_alpha": 0.0}, r"lora_alpha=0\.0 greater than 0"),
        ({"lora_targets": ()}, r"lora_targets=\(\) must name"),
        ({"warmup_steps": -1}, r"recipe\.warmup_steps=-1 must be 0 .* or more"),
        ({"lora_targets": ("q", "q")}, r"each once"),
        ({"lora_targets": ("query",)}, r"recipe\.lora_targets='query' must be one of q, k"),
    ],
)
def test_recipes_that_cannot_be_used(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Recipe(**values)


def test_remat_goes_by_name() -> None:
    with pytest.raises(
        ConfigError, match=r"runtime\.remat='dot' must be one of none, dots.*did you mean 'dots'"
    ):
        Runtime(remat="dot")
