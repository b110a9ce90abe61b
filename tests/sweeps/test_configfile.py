"""Config files: found, overridden, checked; mistakes are named with the nearest right key."""

import pytest

from rewardscale.config import ConfigError, Grid, SweepConfig, TrainConfig, to_mapping
from rewardscale.config.build import BuildConfig
from rewardscale.config.curation import CurationConfig
from rewardscale.sweeps import configfile
from rewardscale.sweeps.configfile import from_mapping

CONFIGS = sorted(p.name for p in configfile.CONFIGS.glob("*.py"))
VARIANTS = ["sweep.py", "sweep.py:smoke", "sweep.py:full", "sweep.py:votes", "sweep.py:tune"]


NEEDS_A_VARIANT = ["skywork_v2.py"]
TRAININGS = [
    "train.py",
    "train.py:ablation",
    "train.py:lora",
    "skywork_v2.py:qwen3-0.6b",
]  # of rewardscale.train


@pytest.mark.parametrize("spec", TRAININGS)
def test_every_config_of_one_training_loads_and_says_how_to_run_it(spec):
    config, docstring = configfile.load(spec, kind=TrainConfig)
    assert config.recipe.learning_rate > 0
    assert "python -m rewardscale.train" in docstring


BUILDS = ["build.py", "build.py:local", "build.py:bare"]  # of rewardscale.build


@pytest.mark.parametrize("spec", BUILDS)
def test_every_config_of_a_corpus_loads_and_says_how_to_run_it(spec):
    config, docstring = configfile.load(spec, kind=BuildConfig)
    assert bool(config.sources) == (spec != "build.py:bare")
    assert "python -m rewardscale.build" in docstring


CURATIONS = [
    f"curate.py{v}" for v in ("", ":tiny", ":paper", ":votes", ":paper_votes")
]  # of rewardscale.curate


@pytest.mark.parametrize("spec", CURATIONS)
def test_every_config_of_a_curation_loads_and_says_how_to_run_it(spec):
    config, docstring = configfile.load(spec, kind=CurationConfig)
    assert config.judge_names
    assert "python -m rewardscale.curate" in docstring


@pytest.mark.parametrize(
    "spec", sorted({*CONFIGS, *VARIANTS} - {*TRAININGS, *NEEDS_A_VARIANT, *BUILDS, *CURATIONS})
)
def test_every_config_loads_and_says_how_to_run_it(spec):
    config, docstring = configfile.load(spec)
    assert config.sweep.models and config.sweep.pairs and config.sweep.levels
    assert "python -m rewardscale.launch" in docstring


def test_a_bare_name_needs_neither_folder_nor_ending():
    assert configfile.find("sweep") == configfile.find("sweep.py") == configfile.CONFIGS / "sweep.py"


def test_an_unknown_file_is_answered_with_what_there_is():
    with pytest.raises(ConfigError, match=r"no config file 'sweeep.py'.*sweep\.py"):
        configfile.load("sweeep.py")


def test_an_unknown_variant_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match=r"did you mean 'sweep\.py:smoke'"):
        configfile.load("sweep.py:smke")


def test_a_models_name_may_hold_dots():
    config, _ = configfile.load(
        "paper_curves.py:scaling",
        {"learning_rates.llama3.1-8b": "2e-6", "learning_rates.llama3.2-1b": "5e-6"},
    )
    assert config.learning_rates["llama3.1-8b"] == 2e-6 and config.learning_rates["llama3.2-1b"] == 5e-6
    assert config.learning_rates["llama3.1-8b-40m"] == config.learning_rates["qwen3-8b"] == 1e-6


def test_overrides_take_the_type_of_what_they_replace():
    overrides = {
        "sweep.draws": "5",
        "sweep.pairs": "(300, 3e3)",
        "sweep.levels": "raw,gold",
        "recipe.epochs": "3",
        "runtime.scan_layers": "true",
        "learning_rates.w24": "1e-3",
        "runtime.mesh": "2,-1,1",
    }
    config, _ = configfile.load("sweep.py:smoke", overrides)
    assert config.sweep.draws == 5 and config.sweep.pairs == (300, 3000)
    assert config.sweep.levels == ("raw", "gold") and config.recipe.epochs == 3.0
    assert config.runtime.scan_layers is True and config.runtime.mesh == (2, -1, 1)
    assert config.learning_rates["w24"] == 1e-3


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("sweep.drws", "5", r"'config\.sweep\.drws'; did you mean 'config\.sweep\.draws'"),
        ("recipe.epoch", "5", r"did you mean 'config\.recipe\.epochs'"),
        ("swep.draws", "5", r"did you mean 'config\.sweep\.draws'"),
        ("sweep.draws", "many", r"config\.sweep\.draws='many' must be int"),
        ("sweep.draws", "2.5", r"config\.sweep\.draws='2\.5' must be int"),
        ("runtime.scan_layers", "maybe", r"must be true or false"),
        ("sweep", "3", r"config\.sweep holds keys"),
        ("recipe.schedule", "cosin", r"did you mean 'cosine'"),
        ("data.planted.corruption", "flip", r"did you mean 'flips'"),
        ("runtime.mesh", "0,1,1", r"runtime\.mesh"),
        ("recipe.learning_rate", "0", r"recipe\.learning_rate=0\.0 must be greater than 0"),
    ],
)
def test_a_wrong_override_is_named_with_its_mend(key, value, message):
    with pytest.raises(ConfigError, match=message):
        configfile.load("sweep.py", {key: value})


def test_a_config_file_with_a_typo_is_refused(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from rewardscale.sweeps.configfile import defaults\n"
        "def get_config(variant=''):\n    c = defaults()\n    c.sweep.drws = 3\n    return c\n"
    )
    with pytest.raises(ConfigError, match=r"mine\.py.*drws"):
        configfile.load(str(path))


def test_a_config_file_that_cannot_run_is_named(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("import nowhere_to_be_found\n")
    with pytest.raises(ConfigError, match=r"broken\.py cannot be run: ModuleNotFoundError"):
        configfile.load(str(path))


def test_mappings_become_dataclasses_and_back():
    config, _ = configfile.load("sweep.py:votes")
    assert from_mapping(SweepConfig, to_mapping(config)) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"draw": 3}, r"unknown key 'config\.draw'; did you mean 'config\.draws'"),
        ({"draws": "3"}, r"config\.draws='3' must be int, not str"),
        ({"draws": True}, r"must be int, not bool"),
        ({"pairs": 100}, r"config\.pairs=100 must be a sequence"),
        ({"pairs": [100, "x"]}, r"config\.pairs\[1\]='x' must be int"),
    ],
)
def test_from_mapping_names_the_key(values, message):
    with pytest.raises(ConfigError, match=message):
        from_mapping(Grid, values)
