"""docs/curation.md: its config is one, its commands exist, its levels are those that there are."""

import re
from pathlib import Path

from rewardscale.config.curation import LEVELS, PARTS, CurationConfig
from rewardscale.config.judges import ScoringConfig
from rewardscale.curate import _parse
from rewardscale.sweeps import configfile

PAGE = (Path(__file__).parents[2] / "docs" / "curation.md").read_text()


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, flags=re.DOTALL)


def test_the_config_on_the_page_loads(tmp_path: Path) -> None:
    whole, scoring = blocks("python")
    path = tmp_path / "mine.py"
    path.write_text(whole.replace("    return config", f"    {scoring}    return config"))
    config, _ = configfile.load(str(path), kind=CurationConfig)
    assert config.scoring == ScoringConfig(1000, "process:8")
    assert config.people.kind == "page" and config.judge_names == ("judge",)
    assert config.budget.price("some-model").output == 0.6


def test_every_curate_command_on_the_page_is_one() -> None:
    lines = [line.split("#")[0].split("&")[0] for block in blocks("sh") for line in block.splitlines()]
    commands = [line.split()[3:] for line in lines if line.startswith("python -m rewardscale.curate")]
    assert len(commands) == 7
    assert {_parse(command)[0].command for command in commands} == {"run", "plan", "status", "people"}


def test_every_level_is_explained() -> None:
    for name in (*LEVELS, *PARTS):
        assert f"`{name}`" in PAGE
