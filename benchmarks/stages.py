"""What each engine costs a task: stages of tasks that do nothing.

`python -m benchmarks.stages --tasks=400 --engines=inline,process:2,ray`
"""

import argparse
import tempfile
import time
from pathlib import Path

from benchmarks import machine
from rewardscale.stages import Task, run, session


def nothing(folder: Path, *, number: int) -> int:
    """A task: one small file."""
    (folder / "number.txt").write_text(str(number))
    return number


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, default=400, help="of a stage (%(default)s)")
    parser.add_argument("--engines", default="inline,process:2,ray", help="one after another (%(default)s)")
    parser.add_argument("--folder", type=Path, help="where to write (default: the system's temporary folder)")
    options = parser.parse_args()
    tasks = [Task(f"t-{i:06d}", "benchmarks.stages:nothing", {"number": i}) for i in range(options.tasks)]
    print(machine.heading("ray"))
    print(f"{options.tasks} tasks\n")
    print("| engine | start and the first task, s | a task, ms | a task of a finished stage, ms |")
    print("|---|---|---|---|")
    for engine in options.engines.split(","):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            started = time.perf_counter()
            with session(engine):
                run(Path(folder), "first", tasks[:1], engine=engine)
                first = time.perf_counter() - started
                started = time.perf_counter()
                run(Path(folder), "all", tasks, engine=engine)
                every = (time.perf_counter() - started) / len(tasks)
                started = time.perf_counter()
                run(Path(folder), "all", tasks, engine=engine)
                again = (time.perf_counter() - started) / len(tasks)
        print(f"| {engine} | {first:.2f} | {every * 1e3:.1f} | {again * 1e3:.2f} |", flush=True)


if __name__ == "__main__":
    main()
