"""One run on several hosts: real processes of this machine, told of one another as hosts are, gloo between them."""

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

REPO = Path(__file__).parents[2]
PATIENCE = 240.0  # seconds until a process that hangs is a failure


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def flags(process: int, processes: int, port: int) -> list[str]:
    return [f"--coordinator=127.0.0.1:{port}", f"--num_processes={processes}", f"--process_id={process}"]


@contextlib.contextmanager
def started(
    program: Sequence[str],
    processes: int,
    *,
    devices: int,
    logs: Path,
    named: bool = True,
    each: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """`program` on `processes` hosts of `devices` / `processes` devices each; none outlives the block.

    They are told of one another by flags if `named`; the variables of `each` say which a process is.
    """
    port, running = free_port(), []
    logs.mkdir(parents=True, exist_ok=True)
    others = [f for f in os.environ["XLA_FLAGS"].split() if "device_count" not in f]
    count = f"--xla_force_host_platform_device_count={devices // processes}"
    try:
        for process in range(processes):
            with (logs / f"{process}.txt").open("wb") as log:
                running.append(
                    subprocess.Popen(
                        [*program, *(flags(process, processes, port) if named and processes > 1 else [])],
                        cwd=REPO,
                        env={**os.environ, "XLA_FLAGS": " ".join([count, *others])}
                        | dict(environment or {})
                        | dict.fromkeys(each, str(process)),
                        stdout=log,
                        stderr=subprocess.STDOUT,
                    )
                )
        yield running
    finally:
        for process in running:
            process.kill()
            process.wait()


def finished(running: Sequence[subprocess.Popen[bytes]], logs: Path) -> list[int]:
    """Exit codes, when all have ended by themselves."""
    try:
        return [process.wait(PATIENCE) for process in running]
    except subprocess.TimeoutExpired as error:
        raise AssertionError(f"a host hangs\n{said(logs)}") from error


def said(logs: Path) -> str:
    return "\n".join(f"--- {path.name}\n{path.read_text()[-3000:]}" for path in sorted(logs.glob("*.txt")))


def command(view: Path, directory: Path, **spec: Any) -> list[str]:
    """One host's of a run of the ten steps of running.case (main, below)."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "spec.json"
    path.write_text(json.dumps({"view": str(view), "directory": str(directory), **spec}))
    return [sys.executable, "-m", "tests.training.hosts", str(path)]


def train_on(processes: int, view: Path, directory: Path, *, devices: int = 4, **spec: Any) -> list[int]:
    """Runs `command` on several hosts; their exit codes."""
    with started(
        command(view, directory, **spec), processes, devices=devices, logs=directory / "logs"
    ) as running:
        return finished(running, directory / "logs")


# --- in a host's process -----------------------------------------------------------------------------


def main() -> int:
    from rewardscale import cli

    parser = argparse.ArgumentParser()
    parser.add_argument("spec", type=Path)
    cli.add_host_flags(parser)
    options = parser.parse_args()
    return cli.on_hosts(options, lambda: _train(json.loads(options.spec.read_text())))


def _train(spec: dict[str, Any]) -> int:
    import jax

    from rewardscale import atomic, mesh
    from rewardscale.data.tokenised import open_view
    from rewardscale.training.checkpoint import Interrupted
    from tests.training import running

    if not mesh.host_zero():  # only orbax writes there
        atomic.new_file = atomic.new_directory = _forbidden
    run, data = running.case(open_view(Path(spec["view"])), rows=spec.get("rows", 8))
    directory = Path(spec["directory"])
    try:
        trained = running.train(
            run, data, directory, device_mesh=mesh.make_mesh(spec["mesh"]), **spec.get("runtime", {}),
            on_progress=_signal(spec, jax.process_index()),
        )  # fmt: skip
    except Interrupted as reason:
        print(reason, flush=True)
        return 130
    if mesh.host_zero():
        atomic.write_json(directory / "record.json", trained.record)
    return 0


def _signal(spec: dict[str, Any], process: int) -> Callable[[int, int], None] | None:
    """Sends the process that the spec names the signal that it names, while the step that it names is computed."""
    if spec.get("process") != process:
        return None

    def progress(done: int, steps: int) -> None:
        del steps
        if done >= spec["step"]:
            os.kill(os.getpid(), getattr(signal, spec["signal"]))

    return progress


def _forbidden(path: Path, *_: Any, **__: Any) -> Any:
    raise AssertionError(f"a host that is not host 0 writes {path}")


if __name__ == "__main__":
    sys.exit(main())
