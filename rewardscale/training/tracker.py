"""Where metrics go: a JSONL file always, Weights & Biases if asked. No other file imports wandb."""

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rewardscale import atomic

MODES = ("off", "offline", "online")
PROJECT = "rewardscale"  # where runs and sweeps go on the wandb server
# What of a sweep's folder its own wandb run carries: all that the analysis reads. The last two may be absent.
SWEEP_FILES = ("results.parquet", "sweep.json", "results_by_cluster.parquet", "missing.json")
_NEEDED = SWEEP_FILES[:2]


class FetchError(RuntimeError):
    """A sweep that cannot be had from wandb; the message names the run and the mend."""


class MetricsFile:
    """metrics.jsonl: one line a record with its step, appended; a resumed run first drops what it will redo.

    Args:
      path: the file. resume_at: records from this step on are removed (they will be written again).
    """

    def __init__(self, path: Path, *, resume_at: int = 0):
        self.path = Path(path)
        kept = [line for line, record in read_metrics(self.path) if record["step"] < resume_at]
        atomic.write_bytes(self.path, "".join(kept).encode())
        self._file = self.path.open("a", encoding="utf-8")

    def write(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Appends records; each needs an integer "step". Raises OSError (full disk), which names the file."""
        try:
            self._file.writelines(json.dumps(record, sort_keys=True) + "\n" for record in records)
            self._file.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def sync(self) -> None:
        """Returns once all lines are on the disk: a checkpoint that survives a crash must not be ahead of them."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def read_metrics(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """The whole lines of a metrics file with their records; a torn last line (a killed process) is left out."""
    if not path.exists():
        return []
    out = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            out.append((line, json.loads(line)))
    return out


class Wandb:
    """One wandb run, or nothing at all when `mode` is "off". Several may be open at once.

    Under a `wandb agent` the run is the one that the agent was given, whatever project and id say.
    """

    def __init__(
        self,
        mode: str,
        *,
        project: str,
        name: str,
        run_id: str,
        directory: Path,
        config: Mapping[str, Any],
        group: str = "",
    ):
        self._run: Any = None
        if mode == "off":
            return
        import wandb  # slow to import: only when asked for

        os.environ.setdefault("WANDB_SILENT", "true")
        directory.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            mode="offline" if mode == "offline" else "online",
            project=project,
            name=name,
            group=group or None,
            id=run_id,
            dir=str(directory),
            config=dict(config),
            resume="allow",
            reinit="create_new",
            # Hard links or copies of saved files: a link to a folder that moves would leave an empty run.
            settings=wandb.Settings(console="off", x_disable_stats=True, symlink=False),
        )

    def log(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Logs records, each under its "step"."""
        if self._run:
            for record in records:
                self._run.log({k: v for k, v in record.items() if k != "step"}, step=int(record["step"]))

    def summary(self, values: Mapping[str, Any]) -> None:
        """Sets summary values of the run."""
        if self._run:
            self._run.summary.update(dict(values))

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Logs a table."""
        if self._run:
            import wandb

            self._run.log({name: wandb.Table(columns=list(columns), data=[list(row) for row in rows])})

    def images(self, paths: Mapping[str, Path]) -> None:
        """Logs pictures (PNG) by name."""
        if self._run:
            import wandb

            self._run.log({name: wandb.Image(str(path)) for name, path in paths.items()})

    def files(self, paths: Iterable[Path]) -> None:
        """Sends files as they are now; ``fetch`` reads them back. Raises FileNotFoundError for one that isn't there."""
        if self._run:
            for path in map(Path, paths):
                if not path.is_file():  # wandb itself would only warn
                    raise FileNotFoundError(f"no file {path} to send to wandb")
                self._run.save(path, base_path=path.parent, policy="now", glob=False)

    def close(self, exit_code: int = 0) -> None:
        """Finishes the run; a code other than 0 marks it as failed."""
        if self._run:
            self._run.finish(exit_code=exit_code)

    def preempted(self, exit_code: int) -> None:
        """Finishes a run that was stopped in the middle: if a sweep's agent ran it, wandb gives it out again."""
        if self._run:
            self._run.mark_preempting()
            self.close(exit_code)


def create_sweep(definition: Mapping[str, Any], project: str = PROJECT) -> str:
    """Makes a sweep on the wandb server: its path, entity/project/sweep, for `wandb agent`.

    The key comes from WANDB_API_KEY or from an earlier `wandb login`; nobody is asked for it. Raises ConnectionError:
    no key, or a server that does not answer or refuses.
    """
    import wandb

    try:
        if not wandb.login(prompt=False):
            raise ConnectionError("no key for wandb: set WANDB_API_KEY, or run `wandb login` once")
        sweep_id = wandb.sweep(dict(definition), project=project)
        entity = os.environ.get("WANDB_ENTITY") or wandb.Api().default_entity
    except (wandb.Error, ValueError) as error:
        raise ConnectionError(f"wandb at {os.environ.get('WANDB_BASE_URL', 'wandb.ai')}: {error}") from error
    return f"{entity}/{project}/{sweep_id}"


def fetch(source: str | os.PathLike[str], directory: str | os.PathLike[str]) -> Path:
    """Makes a sweep directory of what a sweep's wandb run carries; `scaling.collect.load_sweep` reads it.

    Args:
      source: the folder of an offline run, a folder of such runs (`wandb/` in a sweep's folder; its newest run that has
        results is taken), or "entity/project/run" on the wandb server.
      directory: where to; made, and must be empty or not there yet.

    Returns `directory`. Raises FetchError, and then leaves nothing: no such run, no results in it, wandb not reachable,
    or a `directory` that holds something.
    """
    target = Path(directory)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FetchError(f"{target} holds something already: fetch into a folder that is not there yet")
    with atomic.new_directory(target) as made:
        if Path(source).is_dir():
            _copy_offline(Path(source), made)
        else:
            _download(os.fspath(source), made)
    return target


def _copy_offline(source: Path, to: Path) -> None:
    single = (source / "files").is_dir()
    runs = [source] if single else sorted((p.parent for p in source.glob("*run-*/files")), key=_started)
    if not runs:
        raise FetchError(
            f"no wandb run in {source}: name an offline-run-... folder, or the wandb folder that holds it"
        )
    for run in reversed(runs):
        if all((run / "files" / name).is_file() for name in _NEEDED):
            break
    else:
        raise FetchError(
            _without_results(f"the run {source}" if single else f"all {len(runs)} runs in {source}")
        )
    for name in SWEEP_FILES:
        if (run / "files" / name).is_file():
            shutil.copyfile(run / "files" / name, to / name)


def _started(run: Path) -> tuple[str, float]:
    """When a run folder was begun: by its name, which copying keeps, then by its time on disk."""
    stamp = run.name.partition("run-")[2].partition("-")[0]
    return stamp, run.stat().st_mtime


def _download(path: str, to: Path) -> None:
    if len([part for part in path.split("/") if part]) != 3 or path.startswith(("/", ".")):
        raise FetchError(f"no run folder {path}, and not the path of an online run, entity/project/run")
    import wandb

    try:
        # A file that a run lacks is listed too, without content.
        found = [file for file in wandb.Api().run(path).files(names=list(SWEEP_FILES)) if file.size]
        if not {file.name for file in found} >= set(_NEEDED):
            raise FetchError(_without_results(f"the run {path}"))
        for file in found:
            file.download(root=str(to)).close()
    except (wandb.Error, ValueError, OSError) as error:
        raise FetchError(
            f"cannot read the run {path} from wandb ({error}); it is no folder here either. Is the path right, is the "
            "server reachable, and are you logged in (`wandb login`)?"
        ) from error


def _without_results(what: str) -> str:
    return (
        f"no {' and '.join(_NEEDED)} in {what}: a sweep's own run (sweep-NAME, made when the sweep ends, "
        "if launched with --wandb) carries them; the runs of its cells do not"
    )
