"""Imports point down only.

The package is a house (docs/architecture.md): a room may import rooms on lower floors, itself, and the
neighbours named in SIDEWAYS. This test parses every file, executes none, and counts every import: at the
top, inside a function, under TYPE_CHECKING, relative, and through `importlib.import_module("...")`.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]
PACKAGE = "rewardscale"

# The rooms and their floors. A new room is named here and in docs/architecture.md, or the test fails.
FLOORS = {
    **dict.fromkeys(
        ["config", "flops", "best_of_n", "atomic", "hub", "exits", "interrupts", "remote", "platforms"], 0
    ),
    **dict.fromkeys(["data", "stages", "mesh", "web"], 1),
    "models": 2,
    **dict.fromkeys(["training", "evaluation"], 3),
    **dict.fromkeys(["sweeps", "curation", "cli"], 4),
    **dict.fromkeys(
        ["launch", "train", "evaluate", "curate", "build", "score", "serve", "verify", "plan"], 5
    ),
}
# On one floor, who may use whom. Never the other way round.
SIDEWAYS = {
    ("flops", "config"),
    ("remote", "atomic"),
    ("data", "stages"),
    ("training", "evaluation"),
    ("sweeps", "curation"),
}
# Outside the house: reads results tables, is used by the two upper floors.
BESIDE = "scaling"
BESIDE_MAY_IMPORT = {"config", "flops", "best_of_n", BESIDE}
BESIDE_USED_FROM_FLOOR = 4
# Narrower than the floors: room -> rooms it must not import although they lie below.
NEVER = {"models": {"data"}}

# One file alone imports each outside service.
OWNERS = {
    "orbax": f"{PACKAGE}.training.checkpoint",
    "wandb": f"{PACKAGE}.training.tracker",
    "kubernetes": f"{PACKAGE}.sweeps.executors.kubernetes",
    "tensorstore": f"{PACKAGE}.remote.objects",
    "httpx": f"{PACKAGE}.curation.annotators.label_studio",
    "huggingface_hub": f"{PACKAGE}.hub",
    "jinja2": f"{PACKAGE}.data.chat_template",
    "prometheus_client": f"{PACKAGE}.evaluation.metrics",
    "starlette": f"{PACKAGE}.evaluation.server",
    "uvicorn": f"{PACKAGE}.web",
    "fastapi": f"{PACKAGE}.curation.annotators.people.app",
    "markdown_it": f"{PACKAGE}.curation.annotators.people.markup",
}
# Rooms that must be usable without the accelerator stack, directly and through whatever they import:
# data/ is imported again by every pipeline worker, scaling/ by notebooks on a laptop.
WITHOUT_ACCELERATOR = {"data", BESIDE}
ACCELERATOR = {"jax", "jaxlib", "flax", "optax", "orbax"}
# Folders beside the package: they use it, it doesn't know them.
NOT_FOR_IMPORT = {"configs", "experiments", "launch", "notebooks", "benchmarks", "tests"}


@dataclass(frozen=True)
class Module:
    """A parsed file: its dotted name, its path for messages, and (line, dotted target) of each import."""

    name: str
    path: str
    imports: tuple[tuple[int, str], ...]


def room(name: str) -> str:
    """'rewardscale.data.packing' -> 'data'; '' for the package itself."""
    return name.removeprefix(PACKAGE).lstrip(".").partition(".")[0]


def is_ours(name: str) -> bool:
    return name == PACKAGE or name.startswith(PACKAGE + ".")


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def from_targets(node: ast.ImportFrom, name: str, is_package: bool, known: set[str]) -> Iterator[str]:
    """What `from A import B` reaches: A, and A.B as well if B is a module and not a name inside A."""
    base = node.module or ""
    if node.level:
        parents = name.split(".")
        parents = parents[: len(parents) - node.level + is_package]
        base = ".".join([*parents, base] if base else parents)
    yield base
    for alias in node.names:
        target = f"{base}.{alias.name}"
        if target in known:
            yield target


def dynamic_target(node: ast.Call) -> str | None:
    """The constant (beginning of the) name in import_module(...) and __import__(...)."""
    called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if called not in ("import_module", "__import__") or not node.args:
        return None
    argument = node.args[0]
    if isinstance(argument, ast.JoinedStr) and argument.values:
        argument = argument.values[0]
    if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
        return argument.value.rstrip(".")
    return None


def parse(path: Path, root: Path, known: set[str]) -> Module:
    name = module_name(path, root)
    imports: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            imports += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            targets = from_targets(node, name, path.name == "__init__.py", known)
            imports += [(node.lineno, target) for target in targets]
        elif isinstance(node, ast.Call) and (target := dynamic_target(node)):
            imports.append((node.lineno, target))
    return Module(name, str(path.relative_to(root)), tuple(imports))


def parse_tree(root: Path) -> dict[str, Module]:
    paths = sorted((root / PACKAGE).rglob("*.py"))
    known = {module_name(path, root) for path in paths}
    known |= {module_name(path.parent / "__init__.py", root) for path in paths}
    return {module.name: module for module in (parse(path, root, known) for path in paths)}


def why_not(source: str, target: str) -> str | None:
    """Why room `source` must not import room `target`; None if it may. '' is the package itself."""
    if target == source or target == "":
        return None
    if target != BESIDE and target not in FLOORS:
        return f"room {target!r} is on no floor"
    if source == BESIDE:
        return None if target in BESIDE_MAY_IMPORT else f"{BESIDE}/ imports only {sorted(BESIDE_MAY_IMPORT)}"
    floor = FLOORS.get(source, 0)  # the package's own __init__.py: everything imports it, so it lies lowest
    if target == BESIDE:
        return None if floor >= BESIDE_USED_FROM_FLOOR else f"{BESIDE}/ is used from floor 4 upwards only"
    if target in NEVER.get(source, ()):
        return f"{source}/ never imports {target}/"
    if FLOORS[target] > floor:
        return f"upward: floor {floor} to floor {FLOORS[target]}"
    if FLOORS[target] == floor and (source, target) not in SIDEWAYS:
        return f"sideways on floor {floor}"
    return None


def outside_reason(module: Module, target: str) -> str | None:
    """Why `module` must not import `target`, a package that isn't ours; None if it may."""
    top = target.partition(".")[0]
    if top in NOT_FOR_IMPORT:
        return f"the folder {top}/ uses the package, never the reverse"
    if top in OWNERS and module.name != OWNERS[top]:
        return f"{top} is imported by {OWNERS[top]} alone"
    return None


def reach(start: str, modules: dict[str, Module]) -> Iterator[tuple[Module, int, str]]:
    """Every import that importing `start` can cause inside the package, parents' __init__.py included."""
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if parent := name.rpartition(".")[0]:
            waiting.append(parent)
        if name in modules:
            for line, target in modules[name].imports:
                yield modules[name], line, target
                if is_ours(target):
                    waiting.append(target)


def accelerator_violations(module: Module, modules: dict[str, Module]) -> Iterator[str]:
    for through, line, target in reach(module.name, modules):
        if target.partition(".")[0] in ACCELERATOR:
            way = "" if through is module else f" ({through.path}:{line})"
            yield f"{module.path}: {room(module.name)}/ must work without {target}{way}"


def violations(root: Path) -> list[str]:
    """One line for each import under root/rewardscale that the house's plan forbids."""
    modules = parse_tree(root)
    found: list[str] = []
    for module in modules.values():
        here = room(module.name)
        if here and here != BESIDE and here not in FLOORS:
            found.append(
                f"{module.path}: room {here!r} is on no floor: name it in FLOORS (tests/test_imports.py)"
            )
            continue
        for line, target in module.imports:
            reason = why_not(here, room(target)) if is_ours(target) else outside_reason(module, target)
            if reason:
                found.append(f"{module.path}:{line} imports {target}: {reason}")
        if here in WITHOUT_ACCELERATOR:
            found.extend(accelerator_violations(module, modules))
    return sorted(set(found))


def test_imports_point_down():
    found = violations(REPO)
    assert not found, "\n".join(["forbidden imports:", *found])


def test_every_folder_of_modules_is_a_package():
    """Without __init__.py a folder works in a clone and is missing from a wheel."""
    folders = {path.parent for path in (REPO / PACKAGE).rglob("*.py")}
    missing = [str(f.relative_to(REPO)) for f in sorted(folders) if not (f / "__init__.py").exists()]
    assert not missing, f"add __init__.py to {missing}"


def plant(root: Path, files: dict[str, str]) -> Path:
    for name, text in {f"{PACKAGE}/__init__.py": "", **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


GOOD = {
    "rewardscale/config.py": "import dataclasses\n",
    "rewardscale/flops.py": "from . import config\n",
    "rewardscale/mesh.py": "import jax\n",
    "rewardscale/stages.py": "from rewardscale import __version__, config\n",
    "rewardscale/data/__init__.py": "",
    "rewardscale/data/pipeline.py": "import grain\nfrom ..stages import run\n",
    "rewardscale/models/reward.py": "import jax\nfrom rewardscale.mesh import make\n",
    "rewardscale/evaluation/scorer.py": "import rewardscale.models.reward\n",
    "rewardscale/training/checkpoint.py": "from orbax.checkpoint import v1 as ocp\n",
    "rewardscale/training/loop.py": "from rewardscale.evaluation import scorer\n",
    "rewardscale/scaling/fit.py": "import scipy\nfrom rewardscale import flops\n",
    "rewardscale/curation/levels.py": "from rewardscale.data import pipeline\n",
    "rewardscale/sweeps/run.py": "from ..curation import levels\nfrom ..scaling import fit\n",
    "rewardscale/launch.py": "from rewardscale.sweeps import run\n",
}

# (file, its text, a part of the message)
BAD = {
    "upward": ("data/a.py", "from rewardscale.training import loop", "upward: floor 1 to floor 3"),
    "upward, in a function": ("models/a.py", "def f():\n    import rewardscale.training.loop", "upward"),
    "upward, relative": ("evaluation/a.py", "from ..sweeps import run", "upward: floor 3 to floor 4"),
    "upward, from the package": ("models/a.py", "from rewardscale import sweeps", "upward"),
    "upward, by name": (
        "models/a.py",
        'import importlib as i\ni.import_module("rewardscale.launch")',
        "upward",
    ),
    "upward, for types": (
        "config.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from rewardscale.mesh import make",
        "upward: floor 0 to floor 1",
    ),
    "upward, from __init__": ("__init__.py", "from rewardscale.data import pipeline", "upward"),
    "sideways": ("launch.py", "from rewardscale import train", "sideways on floor 5"),
    "evaluation to training": ("evaluation/a.py", "from rewardscale.training import loop", "sideways"),
    "curation to sweeps": ("curation/a.py", "from rewardscale.sweeps import run", "sideways"),
    "models to data": (
        "models/a.py",
        "from rewardscale.data.pipeline import x",
        "models/ never imports data/",
    ),
    "data to jax": (
        "data/a.py",
        "def f():\n    import jax.numpy as jnp",
        "data/ must work without jax.numpy",
    ),
    "data to jax, through another room": (
        "stages.py",
        "import jax",
        "pipeline.py: data/ must work without jax",
    ),
    "scaling to models": ("scaling/a.py", "from rewardscale.models import reward", "scaling/ imports only"),
    "scaling to jax": ("scaling/a.py", "from flax import nnx", "scaling/ must work without flax"),
    "scaling from below": ("models/a.py", "from rewardscale.scaling import fit", "used from floor 4 upwards"),
    "orbax elsewhere": ("training/a.py", "import orbax.checkpoint", "rewardscale.training.checkpoint alone"),
    "wandb elsewhere": ("sweeps/a.py", "def f():\n    import wandb", "rewardscale.training.tracker alone"),
    "a config": ("sweeps/a.py", "import configs.sweep", "the folder configs/"),
    "an unknown room": ("utils/a.py", "import os", "room 'utils' is on no floor"),
    "an unknown file": ("helpers.py", "import os", "room 'helpers' is on no floor"),
    "a room that isn't there": ("launch.py", "import rewardscale.utils", "room 'utils' is on no floor"),
}


def test_the_plan_itself_is_allowed(tmp_path):
    assert violations(plant(tmp_path, GOOD)) == []


@pytest.mark.parametrize("case", BAD)
def test_a_planted_violation_is_found(tmp_path, case):
    name, text, message = BAD[case]
    extra = {"rewardscale/train.py": ""} if case == "sideways" else {}
    found = violations(plant(tmp_path, {**GOOD, **extra, f"rewardscale/{name}": text}))
    assert any(message in line for line in found), found
