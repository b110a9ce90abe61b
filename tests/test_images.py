"""Images, as far as their files tell: no daemon builds them here."""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
IMAGES = sorted((ROOT / "launch").rglob("Dockerfile*"))


def instructions(path: Path) -> list[tuple[str, list[str]]]:
    """(instruction, arguments) in order, continued lines joined, comments left out."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(words[0], words[1:]) for line in text.splitlines() if (words := shlex.split(line))]


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_there_are_images():
    assert {"Dockerfile.tpu", "Dockerfile.gpu"} <= {path.name for path in IMAGES}


@pytest.mark.parametrize("path", IMAGES, ids=named)
def test_what_is_copied_is_there_and_not_ignored(path):
    ignored = (ROOT / ".dockerignore").read_text().split()
    for instruction, arguments in instructions(path):
        if instruction == "COPY":
            sources = [a for a in arguments if not a.startswith("--")][:-1]
            assert sources
            for source in sources:
                assert (ROOT / source).exists(), source
                assert source not in ignored


@pytest.mark.parametrize("path", IMAGES, ids=named)
def test_python_and_versions_are_those_of_the_repository(path):
    found = instructions(path)
    assert found[0][0] == "FROM"
    python = re.search(r"py(?:thon:)?3\.?(\d+)", found[0][1][0])
    needed = re.search(r'python_requires=">=3\.(\d+)"', (ROOT / "setup.py").read_text())
    assert python and needed and int(python.group(1)) == int(needed.group(1))
    installs = [" ".join(a) for i, a in found if i == "RUN" and "pip install" in " ".join(a)]
    assert installs and all(
        "-c constraints.txt" in part for line in installs for part in line.split("pip install")[1:]
    )
    extras = [
        e for line in installs for group in re.findall(r"\.\[([^\]]*)\]", line) for e in group.split(",")
    ]
    known = re.findall(r'^    "(\w+)":', (ROOT / "setup.py").read_text(), flags=re.MULTILINE)
    assert extras and set(extras) <= set(known)


def test_setup_finds_what_it_reads_in_an_image():
    """setup.py reads files beside it, and so does the package."""
    for name in ("Dockerfile.tpu", "Dockerfile.gpu"):
        copied = {
            source
            for instruction, arguments in instructions(ROOT / "launch" / "docker" / name)
            if instruction == "COPY"
            for source in arguments[:-1]
        }
        assert {
            "setup.py",
            "pyproject.toml",
            "constraints.txt",
            "LICENSE",
            "rewardscale",
            "configs",
        } <= copied
