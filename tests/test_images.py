"""Images, as far as their files tell: no daemon builds them here."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
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


KNOWN = {"FROM", "WORKDIR", "COPY", "RUN", "ENV", "ARG", "USER", "ENTRYPOINT", "CMD", "LABEL", "EXPOSE"}


@pytest.mark.parametrize("path", IMAGES, ids=named)
def test_instructions_are_docker_s_and_scripts_are_shell(path):
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    for line in filter(str.strip, text.splitlines()):
        instruction, _, rest = line.partition(" ")
        assert instruction in KNOWN
        if instruction == "RUN":
            subprocess.run(["sh", "-n"], input=rest, text=True, check=True)


def test_what_is_copied_is_enough_to_plan_a_sweep(tmp_path):
    """The files of the images alone, laid out as their instructions say, by the Python of this environment."""
    image = tmp_path / "image"
    told, other = (instructions(ROOT / "launch" / "docker" / f"Dockerfile.{kind}") for kind in ("tpu", "gpu"))
    assert told[:-1] == other[:-1]  # all but what is installed
    for instruction, arguments in told:
        if instruction == "COPY":
            *sources, target = arguments
            for source in sources:
                place = image / (target if target != "./" else source)
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, place, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    place.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(ROOT / source, place)
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "XLA_FLAGS")} | {
        "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(image),
    }  # fmt: skip
    version = subprocess.run(
        [sys.executable, "setup.py", "--version"], cwd=image, env=clean, capture_output=True, text=True
    )
    assert version.returncode == 0 and re.match(r"\d+\.\d+", version.stdout.splitlines()[-1]), version.stderr
    plan = [
        "--config=paper_curves.py:scaling",
        "--dry_run",
        "--without_data",
        "--config.sweep.models=qwen3-0.6b",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "rewardscale.launch", *plan],
        cwd=tmp_path,
        env=clean,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "20 cells on v5p:4x4x4" in done.stdout, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("path", IMAGES, ids=named)
def test_an_image_s_packages_resolve_to_the_tested_versions(path, tmp_path):
    """By pip, for this machine's Python, from the package index; nothing is installed. Two minutes each."""
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if not line.startswith("#") and "==" in line:
            package, _, version = line.partition("==")
            pins[canonical(package)] = version.strip()
    (extras,) = {
        group
        for instruction, arguments in instructions(path)
        if instruction == "RUN"
        for group in re.findall(r"\.\[([^\]]*)\]", " ".join(arguments))
    }
    report = tmp_path / "report.json"
    flags = ["--quiet", "--dry-run", "--ignore-installed", "--no-build-isolation", "-c", "constraints.txt"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", *flags, f"--report={report}", f".[{extras}]"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
    )
    if any(word in done.stderr for word in ("NewConnectionError", "Failed to establish", "timed out")):
        pytest.skip("no package index")
    assert done.returncode == 0, done.stderr[-2000:]
    found = {
        canonical(one["metadata"]["name"]): one["metadata"]["version"]
        for one in json.loads(report.read_text())["install"]
    }
    assert found.pop("rewardscale") and len(found) > 50
    assert {name: version for name, version in found.items() if pins.get(name) != version} == {}


def canonical(package: str) -> str:
    """As the package index compares names."""
    return re.sub(r"[-_.]+", "-", package).lower()
