"""Exit codes have one name and one place, and the table for people has them all."""

import ast
import importlib
import re
from pathlib import Path

import pytest

from rewardscale import exits
from rewardscale.sweeps.executors import jobset, slurm, tpu_vm

ROOT = Path(__file__).parents[1]
CODES = {name: code for name, code in vars(exits).items() if isinstance(code, int)}
COMMANDS = ("build", "curate", "evaluate", "launch", "plan", "score", "serve", "train", "verify")


def test_no_two_names_are_one_code() -> None:
    assert len(set(CODES.values())) == len(CODES) == 7


def test_the_table_has_every_code() -> None:
    text = (ROOT / "launch" / "README.md").read_text()
    table = text[text.index("## Exit codes") :].split("\n## ")[0]
    assert [int(c) for c in re.findall(r"^\| (\d+) \|", table, flags=re.MULTILINE)] == sorted(CODES.values())


def test_the_larger_codes_are_written_nowhere_else() -> None:
    """75, 130 and 143 as numbers of their own in return, exit and assignment."""
    special = {exits.AGAIN, exits.INTERRUPTED, exits.TERMINATED}
    found = []
    for path in (ROOT / "rewardscale").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            value: ast.AST | None = None
            if isinstance(node, ast.Return):
                value = node.value
            elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("exit", "_exit", "leave"):
                value = node.args[0] if node.args else None
            if isinstance(value, ast.Constant) and value.value in special:
                found.append(f"{path.name}:{node.lineno}")  # pyright: ignore[reportAttributeAccessIssue]
    assert not found


def test_there_is_no_other_command() -> None:
    found = {
        path.stem for path in (ROOT / "rewardscale").glob("*.py") if "\nif __name__ ==" in path.read_text()
    }
    assert found == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_s_help_says_when_to_start_it_again(name: str, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        importlib.import_module(f"rewardscale.{name}").main(["--help"])
    assert stop.value.code == 0 and capsys.readouterr().out.endswith(f"\n\n{exits.AGAIN_HELP}\n")


def test_executors_start_again_what_the_table_says(tmp_path: Path) -> None:
    script = slurm.job("x", (("a",),), ["python"], tmp_path).script
    assert re.findall(r"^    (\d+)\)", script, flags=re.MULTILINE) == [
        str(exits.INTERRUPTED),
        str(exits.AGAIN),
    ]
    pod = jobset.Pod("image", "shared", "/shared")
    job = jobset.manifest("x", "/w", ["a"], ["python"], pod)["spec"]["replicatedJobs"][0]["template"]["spec"]
    never = [
        rule["onExitCodes"]["values"] for rule in job["podFailurePolicy"]["rules"] if "onExitCodes" in rule
    ]
    assert never == [[exits.UNUSABLE]]
    assert (tpu_vm.RETRIES, job["backoffLimit"], jobset.RESTARTS, slurm.RESTARTS) == (3, 3, 20, 20)
