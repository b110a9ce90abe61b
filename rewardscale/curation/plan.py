"""What a run would ask and cost, before anything is asked.

Sizes of iterations and of stage 2 hang on answers that are not there yet, so they are assumed from the run's own
finished steps or, before those, from the numbers of arXiv 2507.01352 (a third of the pool is asked of in stage 2).
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from rewardscale.config.curation import CurationConfig
from rewardscale.curation import inputs as inputs_
from rewardscale.curation import steps
from rewardscale.curation.annotators.base import Estimate, Example
from rewardscale.curation.inputs import Inputs
from rewardscale.curation.known import held_out, seed_rows
from rewardscale.curation.pipeline import without_people
from rewardscale.curation.workbench import Workbench, workbench

_ASKED = 0.35  # of the pool, by judges in stage 2
_NEIGHBOURS = 3.0  # of a gold pair, at an accuracy of about 3/4 and k_max 8
_SAMPLE = 64  # questions whose prompts stand for all
_PERSON_SECONDS = 60.0  # a verdict, where nobody knows better: the paper says 10 seconds to 5 minutes


@dataclasses.dataclass(frozen=True)
class Line:
    """One step's questions to one annotator. questions: pairs asked about. estimate: of all of them; upper bounds."""

    step: str
    annotator: str
    questions: int
    estimate: Estimate


def plan(config: CurationConfig, workdir: Path, *, data_dir: Path | None = None) -> list[Line]:
    """A line a step and annotator, of both passes; finished steps are left out. Asks nobody.

    Raises ConfigError and DataError as a run does.
    """
    inputs = inputs_.prepare(config, workdir, data_dir)
    found: list[Line] = []
    passes = [(config, workdir, "")]
    if (other := without_people(config, workdir)) is not None:
        passes.append((*other, "no_humans: "))
    for one, directory, label in passes:
        with workbench(one, inputs, directory, workdir / "calls", lambda what, done, total: None) as bench:
            found += _pass(bench, inputs, label)
    return found


def _pass(bench: Workbench, inputs: Inputs, label: str) -> list[Line]:
    config, done = bench.config, steps.read_steps(bench.directory)
    sample = _sample(bench, inputs)
    found = []
    for name, judged, people in _sizes(config, inputs, done):
        if name in done or not judged + people:
            continue
        for judge in bench.judges:
            found.append(
                Line(label + name, judge.name, judged, _scaled(judge.estimate(sample), judged, len(sample)))
            )
        if people and bench.people is not None:
            found.append(Line(label + name, bench.people.name, people, _people(config, people)))
    return found


def _sizes(config: CurationConfig, inputs: Inputs, done: dict[str, Any]) -> list[tuple[str, int, int]]:
    """(step, pairs that judges judge, pairs that people judge)."""
    validation, reserved = held_out(inputs, config)
    seed = seed_rows(inputs, config)
    own = int((~reserved[seed]).sum())
    held = int(validation[seed].sum())
    alone = config.people.kind == "none"
    out = [(steps.step_name(0), own + held if alone else own, held + min(config.seed_people, own))]
    gold, left = min(config.seed_people, own), int(inputs.pool.sum()) - len(seed)
    for iteration in range(1, config.iterations + 1):
        name = steps.step_name(iteration)
        asked = done[name]["pairs"] if name in done else min(left, round(gold * _NEIGHBOURS))
        asked = min(asked, config.selected) if config.selected else asked
        people = min(asked, config.people_per_iteration)
        gold, left = gold + people, left - asked
        out.append((name, asked, people))
    out.append((steps.STAGE_TWO, round(left * _ASKED), 0))
    return out


def _sample(bench: Workbench, inputs: Inputs) -> list:
    """Questions of random pairs, with others as worked examples: as long as real prompts will be."""
    random = np.random.default_rng([0, bench.config.seed])
    rows = random.permutation(np.flatnonzero(inputs.pool))[: _SAMPLE + bench.config.examples]
    questions = bench.questions(rows)
    count = max(1, len(questions) - bench.config.examples)
    shown = tuple(Example(q.comparison, 1, q.attributes) for q in questions[count:])
    return [dataclasses.replace(question, examples=shown) for question in questions[:count]]


def _scaled(estimate: Estimate, questions: int, sample: int) -> Estimate:
    scale = questions / sample
    return Estimate(
        calls=round(estimate.calls * scale),
        tokens_in=round(estimate.tokens_in * scale),
        tokens_out=round(estimate.tokens_out * scale),
        cost=estimate.cost * scale,
        seconds=None if estimate.seconds is None else estimate.seconds * scale,
    )


def _people(config: CurationConfig, pairs: int) -> Estimate:
    people = config.people
    several = people.shared * (people.overlap - 1) if people.kind != "votes" else 0.0
    verdicts = round(pairs * (1 + several))
    known = [person.seconds for person in people.simulated]
    seconds = verdicts * (sum(known) / len(known) if known else _PERSON_SECONDS)
    return Estimate(calls=verdicts, cost=seconds / 3600 * people.money_per_hour, seconds=seconds)


def plan_text(lines: list[Line], config: CurationConfig) -> str:
    """The plan as a table with its sums."""
    out = [_LAYOUT.format("step", "who", "pairs", "calls", "tokens in", "out", "money", "hours")]
    for line in lines:
        out.append(_row(line.step, line.annotator, line.questions, line.estimate))
    known = [line.estimate for line in lines]
    seconds = [e.seconds for e in known if e.seconds is not None]
    total = Estimate(
        calls=sum(e.calls for e in known),
        tokens_in=sum(e.tokens_in for e in known),
        tokens_out=sum(e.tokens_out for e in known),
        cost=sum(e.cost for e in known),
        seconds=sum(seconds) if seconds else None,
    )
    out.append(_row("total", "", sum(line.questions for line in lines), total))
    out.append(
        f"money in {config.cost_unit}; tokens are upper bounds, sizes of later steps are assumed from earlier ones"
    )
    if len(seconds) < len(known):
        out.append("hours: - where no call has been measured yet")
    return "\n".join(out)


_LAYOUT = "{:<20} {:<22} {:>8} {:>9} {:>12} {:>10} {:>10} {:>8}"


def _row(step: str, who: str, pairs: int, e: Estimate) -> str:
    hours = "-" if e.seconds is None else f"{e.seconds / 3600:.2f}"
    counts = (f"{n:,}" for n in (pairs, e.calls, e.tokens_in, e.tokens_out))
    return _LAYOUT.format(step, who, *counts, f"{e.cost:.2f}", hours)
