"""docs/people.md: its commands are ones that the command line knows."""

import re

from rewardscale.curate import _parse
from tests.reference import REPO

PAGE = (REPO / "docs" / "people.md").read_text()


def test_every_command_on_the_page_is_one() -> None:
    (block,) = re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL)
    commands = [line.split("#")[0].split("&")[0].split()[3:] for line in block.splitlines()]
    assert len(commands) == 7
    assert [_parse(command)[0].command for command in commands].count("people") == 6
