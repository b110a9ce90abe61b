"""Presets: a name stands for one shape, a wrong name is answered with an example."""

import pytest

from rewardscale.config import ConfigError, ConvexConfig, ModelConfig, VocabularyConfig
from rewardscale.models import presets


@pytest.mark.parametrize(
    ("name", "width", "layers", "mlp"),
    [("w8", 8, 2, 24), ("w16", 16, 2, 48), ("w40", 40, 2, 112), ("w64x4", 64, 4, 176)],
)
def test_ladder(name: str, width: int, layers: int, mlp: int) -> None:
    model = presets.get_model(name, vocab_size=50)
    assert isinstance(model, ModelConfig)
    assert (model.width, model.layers, model.mlp_width, model.vocab_size) == (width, layers, mlp, 50)
    assert model.heads * model.head_dim == width
    assert model.mlp_width >= 8 * width / 3 and model.mlp_width % 8 == 0
    assert not presets.is_convex(name)


def test_convex_keeps_the_other_settings_and_salts_the_hash_by_the_draw() -> None:
    model = presets.get_model("hash4096", vocab_size=50, convex=ConvexConfig(ngram=3), draw=7)
    assert model == ConvexConfig(width=4096, ngram=3, seed=7)
    assert presets.is_convex("hash4096")


def test_vocabularies_are_the_same_in_all_draws() -> None:
    settings = ConvexConfig(ngram=3, length_feature=False, l2_grid=(0.5,), folds=3)
    models = [presets.get_model("vocab64", vocab_size=50, convex=settings, draw=draw) for draw in (0, 7)]
    assert models[0] == models[1]
    assert models[0] == VocabularyConfig(width=64, ngram=1, length_feature=False, l2_grid=(0.5,), folds=3)
    assert models[0] != ConvexConfig(**vars(models[0]))
    assert presets.is_convex("vocab64")


@pytest.mark.parametrize("name", ["", "w", "16", "W16", "w16x", "hash", "w16 ", "llama"])
def test_unknown_name(name: str) -> None:
    with pytest.raises(ConfigError, match=r"unknown model .*use e\.g\. 'w16'"):
        presets.get_model(name, vocab_size=50)


@pytest.mark.parametrize("name", ["w4", "w12", "w20"])
def test_width_that_the_heads_do_not_divide(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: the width must be a multiple of 8"):
        presets.get_model(name, vocab_size=50)


def test_convex_width_must_be_a_power_of_two() -> None:
    with pytest.raises(ConfigError, match="power of two"):
        presets.get_model("hash1000", vocab_size=50)
