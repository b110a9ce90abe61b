"""The whole pipeline in one folder: stage 0, stage 1, stage 2, levels, report. Kill it anywhere and start it again.

<workdir>/config.json                       what the run is: another config in the same folder is refused
          corpus/ ledger/ iterations/ models/ embeddings/     of the pass with people
          calls/                            every paid answer, of both passes
          judging/                          questions and verdicts by shard, where judges are asked so
          scoring/                          a model and its margins by shard, while it scores so
          no_humans/                        the pass without people: its own ledger, iterations, models
          levels/<name>/                    what a sweep trains on
          evaluation/gold_validation/       people's labels that nothing was trained on
          corpus.json                       where the corpus lies
          report.html report.json
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from rewardscale import atomic
from rewardscale.config import to_mapping
from rewardscale.config.curation import CurationConfig, PeopleConfig
from rewardscale.curation import inputs as inputs_
from rewardscale.curation import outcomes, steps
from rewardscale.curation.inputs import Inputs
from rewardscale.curation.report import write_report
from rewardscale.curation.stage_one import stage_one
from rewardscale.curation.stage_two import stage_two
from rewardscale.curation.stage_zero import stage_zero
from rewardscale.curation.workbench import Progress, Workbench, workbench
from rewardscale.data.comparison import DataError
from rewardscale.data.levels import read_level, write_level
from rewardscale.stages import Engine

_NOT_SCIENCE = ("name", "budget", "runtime", "judging", "scoring", "levels")  # may change in a folder,
_OF_A_SERVER = ("endpoints", "retry")  # and these of an LLM judge


def run(
    config: CurationConfig, workdir: Path, *, data_dir: Path | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Runs what is not done yet and returns the report.

    Raises:
      ConfigError, DataError: what cannot be used, with the mend.
      Waiting: people have not judged all that they were asked; the same call goes on from there.
      BudgetSpent, EndpointError: of LLM judges; StageError says either where they are asked by shards.
    """
    show = progress or (lambda what, done, total: None)
    for place in (config.judging, config.scoring):
        Engine.parse(place.engine)  # before anything is written
    with atomic.locked(workdir / "lock", wait=False) as mine:
        if not mine:
            raise DataError(f"another process works in {workdir}; wait for it, or choose another --workdir")
        _check(config, workdir)
        inputs = inputs_.prepare(config, workdir, data_dir, progress=lambda done: show("corpus", done, 0))
        _pass(config, inputs, workdir, workdir / "calls", show)
        other = without_people(config, workdir)
        if other is not None:
            _pass(other[0], inputs, other[1], workdir / "calls", show)
        where = {
            "directory": str(inputs.corpus.directory.resolve()),
            "fingerprint": inputs.corpus.fingerprint,
        }
        atomic.write_json(workdir / "corpus.json", where)
        write_level(workdir / "evaluation", outcomes.gold_validation(inputs, config, workdir))
        made = [
            write_level(workdir / "levels", one)
            for one in outcomes.make_levels(inputs, config, workdir, other)
        ]
        return write_report(config, inputs, workdir, [read_level(path) for path in made], other)


def without_people(config: CurationConfig, workdir: Path) -> tuple[CurationConfig, Path] | None:
    """Config and folder of the pass in which judges stand in for people; None where it is not wanted."""
    if not config.no_humans or config.people.kind == "none":
        return None
    return dataclasses.replace(
        config, people=PeopleConfig(kind="none"), no_humans=False
    ), workdir / "no_humans"


def _pass(config: CurationConfig, inputs: Inputs, directory: Path, calls: Path, show: Progress) -> None:
    with workbench(config, inputs, directory, calls, show) as bench:
        inputs_.add_source_verdicts(inputs, bench.ledger)
        stage_zero(bench)
        for iteration in range(1, config.iterations + 1):
            stage_one(bench, iteration)
            show("stage 1", iteration, config.iterations)
        _snapshots(bench)
        stage_two(bench)


def _snapshots(bench: Workbench) -> None:
    """Both reward models after each iteration, as snapshots of levels want them."""
    for iteration in range(bench.config.iterations + 1):
        state = bench.known(before=iteration + 1)
        steps.train_best(bench, state, iteration)
        steps.train_gold(bench, state, iteration)


def _check(config: CurationConfig, workdir: Path) -> None:
    """Raises DataError if the folder holds a run of another config."""
    record = {k: v for k, v in to_mapping(config).items() if k not in _NOT_SCIENCE}
    record["llm_judges"] = [
        {k: v for k, v in judge.items() if k not in _OF_A_SERVER} for judge in record["llm_judges"]
    ]
    path = workdir / "config.json"
    asked = json.loads(json.dumps(record))
    if not path.exists():
        atomic.write_json(path, asked)
        return
    there = json.loads(path.read_text())
    if there != asked:
        other = sorted(key for key in asked.keys() | there.keys() if asked.get(key) != there.get(key))
        raise DataError(
            f"{workdir} holds another run (differs in {', '.join(other)}); choose another --workdir"
        )
