"""The notebooks run on finished sweeps and corpora, and are kept in git without what running them leaves behind."""

import ast
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from rewardscale.training.tracker import SWEEP_FILES, Wandb
from tests.scaling import synthetic

REPO = Path(__file__).parents[1]
NOTEBOOKS = sorted((REPO / "notebooks").glob("*.ipynb"))


@dataclass(frozen=True)
class Shown:
    """What running a notebook printed, and how many figures it drew."""

    text: str
    figures: int


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_stripped_and_nothing_is_defined(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
            defined = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
            assert not any(isinstance(node, defined) for node in ast.walk(ast.parse(cell.source)))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Shown]:
    """Runs a notebook from its folder, as jupyter would, with these environment variables."""

    def execute(name: str, **environment: str) -> Shown:
        path = REPO / "notebooks" / f"{name}.ipynb"
        before = os.environ.get("PYTHONPATH")
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(REPO), before]))
        for variable, value in environment.items():
            monkeypatch.setenv(variable, value)
        notebook = nbformat.read(path, as_version=4)
        where = {"metadata": {"path": str(path.parent)}}
        NotebookClient(notebook, timeout=300, kernel_name="python3", resources=where).execute()
        outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
        assert not any(output["output_type"] == "error" for output in outputs)
        drawn = [
            output["data"]["image/svg+xml"] for output in outputs if "image/svg+xml" in output.get("data", {})
        ]
        assert all("<svg" in figure for figure in drawn)
        return Shown("".join(output.get("text", "") for output in outputs), len(drawn))

    return execute


def test_scaling_curves_runs(smoke_sweep: Path, run: Callable[..., Shown]) -> None:
    shown = run("scaling_curves", REWARDSCALE_SWEEP=str(smoke_sweep.resolve()))
    assert shown.figures >= 5
    assert "32 runs finished, 0 missing" in shown.text
    assert "fewer than 5" in shown.text  # draws: no interval


def test_from_wandb_runs(smoke_sweep: Path, tmp_path: Path, run: Callable[..., Shown]) -> None:
    tracker = Wandb("offline", project="p", name="sweep", run_id="sweep-smoke", directory=tmp_path, config={})
    tracker.files(smoke_sweep / name for name in SWEEP_FILES if (smoke_sweep / name).exists())
    tracker.close()
    shown = run("from_wandb", REWARDSCALE_WANDB=str(tmp_path / "wandb"), TMPDIR=str(tmp_path))
    assert shown.figures == 1
    assert "smoke: 32 runs finished, 0 missing" in shown.text
    assert "fewer than 5" in shown.text


def test_compare_levels_runs_without_intervals(smoke_sweep: Path, run: Callable[..., Shown]) -> None:
    shown = run("compare_levels", REWARDSCALE_SWEEP=str(smoke_sweep.resolve()))
    assert shown.figures >= 1
    assert "2 draws: fewer than 5, no interval" in shown.text


def test_compare_levels_runs_on_a_synthetic_sweep(tmp_path: Path, run: Callable[..., Shown]) -> None:
    """The planted truth has floors and scales of its own at each level, and one exponent."""
    sizes = [300, 600, 1_200, 2_500, 5_000, 10_000, 20_000]
    sweep = synthetic.planted(tmp_path / "sweep", draws=6, sizes=sizes, models=["small"])
    shown = run("compare_levels", REWARDSCALE_SWEEP=str(sweep))
    assert shown.figures == 5
    assert "not drawn" not in shown.text and "fewer than" not in shown.text
    assert "chosen: floor and offset" in shown.text
    assert "one unit of gold is worth" in shown.text


def test_corpus_runs_on_one_of_its_own(run: Callable[..., Shown], tmp_path: Path) -> None:
    shown = run("corpus", TMPDIR=str(tmp_path))
    assert shown.figures == 4
    assert "300 comparisons" in shown.text
    assert "duplicate" in shown.text
