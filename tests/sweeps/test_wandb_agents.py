"""A wandb sweep of a sweep's cells: its definition, and real `wandb agent` processes that run it.

W&B's server comes as a Docker image alone, so they talk to a stub of it (wandb_stub.py); all else is real.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import polars as pl
import pytest
import yaml
from nbclient import NotebookClient
from wandb.sdk.launch.sweeps import utils as wandb_utils

from rewardscale import launch
from rewardscale.sweeps.executors import command
from rewardscale.sweeps.results import reproducible
from rewardscale.training.tracker import SWEEP_FILES, fetch
from tests.sweeps import wandb_stub
from tests.sweeps.launching import ROOT, TINY, environment, mark_done
from tests.sweeps.launching import launch as launch_process

KEY = "5ec7e75ec7e75ec7e75ec7e75ec7e75ec7e75ec7"
# W&B's own engine of sweeps, which wants numpy 1: `make wandb-sweeps` builds its environment.
ENGINE = Path(os.environ.get("REWARDSCALE_WANDB_SWEEPS") or ROOT / ".venv-wandb-sweeps" / "bin" / "python")
needs_engine = pytest.mark.skipif(
    not ENGINE.exists(), reason="no wandb sweep engine in an environment of its own: make wandb-sweeps"
)
# Three cells that share a trunk.
RECIPE = ("schedule=wsd", "epochs=1", "warmup_steps=3", "cooldown=0.25", "min_steps=1", "pairs_per_step=8")
TRUNK = (
    *TINY,
    *(f"--config.recipe.{setting}" for setting in RECIPE),
    "--config.sweep.pairs=100,250,700",
    "--config.sweep.levels=gold",
    "--config.sweep.trunks=true",
)
# One cell, long enough to be caught in the middle.
LONG = (
    *TINY,
    "--config.sweep.pairs=700",
    "--config.sweep.levels=gold",
    "--config.recipe.epochs=40",
    "--config.runtime.checkpoint_seconds=0.1",
    "--config.runtime.steps_per_dispatch=8",
)


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    code = launch.main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def written(workdir: Path) -> dict:
    """The definition, read as `wandb sweep FILE` reads it."""
    config = wandb_utils.load_sweep_config(str(workdir / "wandb_sweep.yaml"))
    assert config is not None
    return config


@pytest.fixture
def defined(capsys, tmp_path) -> Path:
    """The folder of a sweep of which the definition was written, and nothing run."""
    code, out, _ = run(capsys, *TRUNK, f"--workdir={tmp_path}", "--executor=wandb", "--wandb=offline")
    assert code == 0 and f"wandb sweep --project rewardscale {tmp_path / 'wandb_sweep.yaml'}" in out
    return tmp_path


def test_a_dry_run_prints_exactly_the_definition_and_writes_none(capsys, defined):
    text = (defined / "wandb_sweep.yaml").read_text()
    (defined / "wandb_sweep.yaml").unlink()
    code, out, _ = run(capsys, *TRUNK, f"--workdir={defined}", "--executor=wandb", "--dry_run")
    assert code == 0 and out.endswith(f"of this definition:\n{text}") and "3 cells, 0 done" in out
    assert not (defined / "wandb_sweep.yaml").exists()


def test_whoever_begins_the_trunk_is_first_and_done_cells_are_left_out(capsys, defined):
    pairs = {c["run_id"]: c["pairs"] for c in json.loads((defined / "sweep.json").read_text())["cells"]}
    values = written(defined)["parameters"]["cell"]["values"]
    assert [pairs[value.removeprefix("run-")] for value in values] == [700, 250, 100]
    mark_done(defined / "runs" / values[0].removeprefix("run-"))
    assert run(capsys, *TRUNK, f"--workdir={defined}", "--executor=wandb", "--wandb=offline")[0] == 0
    assert written(defined)["parameters"]["cell"]["values"] == values[1:]


def test_what_an_agent_makes_of_the_definition_is_this_sweep_and_one_cell(defined):
    """By wandb's own functions. The prefix keeps ids like 12e34 from being read as numbers by other YAML readers."""
    config = written(defined)
    first = config["parameters"]["cell"]["values"][0]
    given = wandb_utils.create_sweep_command_args({"args": {"cell": {"value": first}}})["args"]
    line = [
        w
        for c in wandb_utils.create_sweep_command(config["command"])
        for w in (given if c == "${args}" else [c])
    ]
    assert line[:3] == [sys.executable, "-m", config["program"]]
    options, overrides = launch._parse(line[3:])
    assert options.cell == [first] and options.wandb == "online" and options.config == "sweep.py:smoke"
    assert options.workdir == str(defined.resolve())
    assert overrides == launch._parse(list(TRUNK))[1] and first.startswith("run-")


def test_the_command_finds_its_files_from_any_folder(monkeypatch, tmp_path):
    (tmp_path / "mine.py").write_text("")
    monkeypatch.chdir(tmp_path)
    line = command.cells("./mine.py:small", {"sweep.draws": "2"}, Path("runs/mine"), Path("data"))
    assert line[3:] == [
        f"--config={tmp_path / 'mine.py'}:small", "--config.sweep.draws=2", f"--workdir={tmp_path / 'runs/mine'}",
        f"--data_dir={tmp_path / 'data'}",
    ]  # fmt: skip
    assert command.cells("sweep", {}, Path("w"), None)[3] == "--config=sweep"


@needs_engine
def test_wandb_s_own_engine_takes_the_definition_and_gives_each_cell_once_in_order(defined):
    """The schema that W&B's server checks with, and the grid search that it runs."""
    program = """
import sys, json, yaml, sweeps
from sweeps.config.schema import validator
config = yaml.safe_load(open(sys.argv[1]))
assert not list(validator.iter_errors(config)), list(validator.iter_errors(config))
runs = []
while (run := sweeps.next_run(config, runs, validate=True)) is not None:
    run.state = sweeps.RunState.finished
    runs.append(run)
print(json.dumps([run.config["cell"]["value"] for run in runs]))
"""
    path = defined / "wandb_sweep.yaml"
    found = subprocess.run(
        [str(ENGINE), "-W", "ignore", "-c", program, str(path)], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout) == yaml.safe_load(path.read_text())["parameters"]["cell"]["values"]


class Place:
    """A stub server, a home and a working folder, and what processes there printed."""

    def __init__(self, stub: wandb_stub.StubWandb, folder: Path):
        self.stub, self.folder, self.workdir = stub, folder, folder / "sweep"
        self.printed = ""
        (folder / "home").mkdir()
        own = {
            "WANDB_BASE_URL": stub.url,
            "WANDB_API_KEY": KEY,
            "WANDB_DIR": str(folder),
            "PYTHONPATH": str(ROOT),
        }
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")  # of compiled code
        self.environment = environment(**own, HOME=str(folder / "home"), XDG_CACHE_HOME=str(cache))

    def make(self, *arguments: str) -> str:
        """Makes the sweep; its path."""
        line = [
            sys.executable,
            "-m",
            "rewardscale.launch",
            f"--workdir={self.workdir}",
            "--executor=wandb",
            *arguments,
        ]
        made = subprocess.run(
            line, env=self.environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
        )
        self.printed += made.stdout + made.stderr
        assert made.returncode == 0, made.stderr
        (line,) = [text for text in made.stdout.splitlines() if "wandb agent" in text]
        return line.split()[-1]

    def agent(self, path: str) -> subprocess.Popen[str]:
        """Starts `wandb agent`."""
        return subprocess.Popen(
            [str(Path(sys.executable).parent / "wandb"), "agent", "--forward-signals", path],
            env=self.environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def ended(self, agent: subprocess.Popen[str]) -> None:
        """Waits for an agent to end by itself."""
        out, _ = agent.communicate(timeout=400)
        self.printed += out
        assert agent.returncode == 0, out

    def secrets(self) -> list[Path]:
        """Files that hold the key, in the working folder, the agents' and the home."""
        files = [p for p in self.folder.rglob("*") if p.is_file()]
        return [p for p in files if KEY.encode() in p.read_bytes()]


@pytest.fixture
def place(tmp_path):
    with wandb_stub.serving() as stub:
        yield Place(stub, tmp_path)
        assert stub.unknown == []


def table(workdir: Path) -> pl.DataFrame:
    return reproducible(pl.read_parquet(workdir / "results.parquet"))


def drawn(source: Path, monkeypatch) -> str:
    """What notebooks/from_wandb.ipynb prints of a sweep, once it has drawn its curves."""
    monkeypatch.setenv("REWARDSCALE_WANDB", str(source))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(ROOT / "notebooks" / "from_wandb.ipynb", as_version=4)
    where = {"metadata": {"path": str(ROOT / "notebooks")}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=where).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/svg+xml" in output.get("data", {}) for output in outputs)
    return "".join(output.get("text", "") for output in outputs)


@pytest.mark.slow
def test_two_agents_give_the_table_of_a_launch_and_the_key_is_nowhere(place, tmp_path, monkeypatch):
    """Three cells with one trunk: the second agent's cell waits for, or begins after, what the first one trains."""
    code, _, error = launch_process(tmp_path / "alone", *TRUNK)
    assert code == 0, error
    path = place.make(*TRUNK)
    assert path == "team/rewardscale/sweep001" and place.stub.sweep["project"] == "rewardscale"
    assert place.stub.sweep["config"] == yaml.safe_load((place.workdir / "wandb_sweep.yaml").read_text())
    agents = [place.agent(path) for _ in range(2)]
    for agent in agents:
        place.ended(agent)
    assert [c["type"] for c in place.stub.told] == ["run"] * 3 + ["exit"] * 2

    code, out, error = launch_process(place.workdir, *TRUNK, "--executor=wandb", "--wandb=offline")
    assert code == 0 and "3 of 3 cells done" in out, error  # nothing left to give out: it collects
    assert table(place.workdir).equals(table(tmp_path / "alone"))
    again = fetch(place.workdir / "wandb", tmp_path / "again")
    assert all((again / n).read_bytes() == (place.workdir / n).read_bytes() for n in SWEEP_FILES)
    assert "smoke: 3 runs finished, 0 missing" in drawn(place.workdir / "wandb", monkeypatch)

    for run in place.stub.runs.values():
        result = json.loads(
            (place.workdir / "runs" / run.config["run_id"]["value"] / "result.json").read_text()
        )
        assert run.sweep == "sweep001" and run.ends == [0] and run.name.startswith("w8/gold/")
        assert run.config["cell"]["value"] == f"run-{result['run_id']}"
        assert [r["_step"] for r in run.history] == list(range(result["record"]["steps"]))
        assert run.summary["gold/loss_recalibrated"] == result["scores"]["gold"]["loss_recalibrated"]
    assert KEY not in place.printed + out + error and place.secrets() == []
    assert any(key for key in place.stub.keys)  # it was used


@pytest.mark.slow
def test_a_stopped_agent_s_cell_is_given_out_again_and_goes_on_where_it_was(place, tmp_path):
    code, _, error = launch_process(tmp_path / "alone", *LONG)
    assert code == 0, error
    path = place.make(*LONG)
    agent = place.agent(path)
    until = time.monotonic() + 120
    while not list(place.workdir.glob("runs/*/checkpoints/*/commit_success.txt")):
        assert agent.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    agent.send_signal(signal.SIGTERM)  # the agent hands it on and waits
    out, _ = agent.communicate(timeout=120)
    assert [c["type"] for c in place.stub.told] == ["run"], out
    assert not list(place.workdir.glob("runs/*/DONE"))
    place.ended(place.agent(path))
    assert [c["type"] for c in place.stub.told] == ["run", "resume", "exit"]
    (run,) = place.stub.runs.values()
    assert run.ends == [130, 0]
    (result,) = place.workdir.glob("runs/*/result.json")
    record = json.loads(result.read_text())["record"]
    assert record["resumed_at"] > 0
    assert sorted({r["_step"] for r in run.history}) == list(range(record["steps"]))
    code, _, error = launch_process(place.workdir, *LONG)
    assert code == 0, error
    assert table(place.workdir).equals(table(tmp_path / "alone"))


@pytest.mark.slow
def test_without_a_key_or_a_server_the_definition_is_written_and_one_error_says_so(tmp_path):
    (tmp_path / "home").mkdir()
    own = {"HOME": str(tmp_path / "home"), "WANDB_API_KEY": ""}
    code, _, error = launch_process(tmp_path / "sweep", *TINY, "--executor=wandb", **own)
    assert code == 2 and "WANDB_API_KEY" in error and "Traceback" not in error, error
    assert len(written(tmp_path / "sweep")["parameters"]["cell"]["values"]) == 4
    own |= {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": "http://127.0.0.1:9"}  # nothing listens there
    code, out, error = launch_process(tmp_path / "sweep", *TINY, "--executor=wandb", **own)
    assert code == 2 and "127.0.0.1:9" in error and "Traceback" not in error and KEY not in out + error, error
