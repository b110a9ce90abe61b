"""What a run would ask and cost, before anything is asked.

Sizes of iterations and of stage 2 hang on answers that are not there yet, so they are assumed from the run's own
finished steps or, before those, from the numbers of arXiv 2507.01352 (a third of the pool is asked of in stage 2).
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rewardscale.config.curation import CurationConfig
from rewardscale.curation import inputs as inputs_
from rewardscale.curation import steps
from rewardscale.curation.annotators.base import Annotator, Estimate, Example, Question
from rewardscale.curation.annotators.llm.attributes import AttributeWriter
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
    """One step's questions to one annotator.

    Attributes:
      questions: pairs asked about. estimate: of all of them, tokens and money as upper bounds.
      most: how many pairs it can become.
    """

    step: str
    annotator: str
    questions: int
    estimate: Estimate
    most: int


@dataclasses.dataclass(frozen=True)
class _Size:
    """Pairs of a step that judges judge (`most`: that they can have to judge), people judge, get attributes."""

    step: str
    judged: int
    people: int
    described: int
    most: int


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
            found += _pass(bench, label)
    return found


def _pass(bench: Workbench, label: str) -> list[Line]:
    if bench.llm is None:
        return _lines(bench, label, bench.judges, None)
    with bench.llm.askers() as (models, writer):
        return _lines(bench, label, [*bench.judges, *models], writer)


def _lines(
    bench: Workbench, label: str, judges: Sequence[Annotator], writer: AttributeWriter | None
) -> list[Line]:
    config, done = bench.config, steps.read_steps(bench.directory)
    sample, found = _sample(bench), []
    for size in _sizes(config, bench.inputs, done, second=bool(label)):
        if size.step in done:
            continue

        def line(who: str, pairs: int, estimate: Estimate, most: int, step: str = label + size.step) -> Line:
            return Line(step, who, pairs, estimate, most)

        if size.described and writer is not None:
            estimate = _scaled(writer.estimate(sample), size.described, len(sample))
            extra = size.most - size.judged
            found.append(
                line(f"{writer.name} (attributes)", size.described, estimate, size.described + extra)
            )
        for judge in judges if size.most else ():
            estimate = _scaled(judge.estimate(sample), size.judged, len(sample))
            found.append(line(judge.name, size.judged, estimate, size.most))
        if size.people and bench.people is not None:
            found.append(line(bench.people.name, size.people, _people(config, size.people), size.people))
    return found


def _sizes(config: CurationConfig, inputs: Inputs, done: dict[str, Any], *, second: bool) -> list[_Size]:
    """Of each step. The `second` pass has its seed, but for the pairs that people judge, from the first."""
    validation, reserved = held_out(inputs, config)
    seed = seed_rows(inputs, config)
    own, held = int((~reserved[seed]).sum()), int(validation[seed].sum())
    gold = min(config.seed_people, own)
    if config.people.kind == "none":
        asked = held if second else own + held
        out = [_Size(steps.step_name(0), asked, 0, 0 if second else len(seed), asked)]
    else:
        out = [_Size(steps.step_name(0), own, held + gold, len(seed), own)]
    left = int(inputs.pool.sum()) - len(seed)
    unasked = (
        0 if config.people.kind == "none" else held
    )  # stage 2 treats people's validation pairs like any other
    for iteration in range(1, config.iterations + 1):
        name = steps.step_name(iteration)
        asked = done[name]["pairs"] if name in done else min(left, round(gold * _NEIGHBOURS))
        asked = min(asked, config.selected) if config.selected else asked
        most = asked if name in done else min(left, config.selected or gold * config.k_max)
        people = min(asked, config.people_per_iteration)
        gold, left = gold + people, left - asked
        out.append(_Size(name, asked, people, asked, most))
    asked = round((left + unasked) * _ASKED)
    return [*out, _Size(steps.STAGE_TWO, asked, 0, asked, left + unasked)]


def _sample(bench: Workbench) -> list[Question]:
    """Questions of random pairs not judged yet, with others as worked examples: as long as real prompts will be."""
    random = np.random.default_rng([0, bench.config.seed])
    unjudged = bench.inputs.pool & bench.known().open
    rows = random.permutation(np.flatnonzero(unjudged if unjudged.any() else bench.inputs.pool))[
        : _SAMPLE + bench.config.examples
    ]
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
    out.append(_row("expected", "", sum(line.questions for line in lines), _sum(known)))
    at_most = [
        _scaled(line.estimate, line.most, line.questions) if line.questions else line.estimate
        for line in lines
    ]
    out.append(_row("at most", "", sum(line.most for line in lines), _sum(at_most)))
    out.append(
        f"money in {config.cost_unit}; tokens, and so money, are upper bounds of so many calls; re-asks of unreadable "
        f"answers come on top. How many pairs retrieval finds and stage 2 asks about ({_ASKED:.0%}) is assumed"
    )
    if any(e.seconds is None for e in known):
        out.append("hours: those of judges of whom no call has been measured yet are missing")
    return "\n".join(out)


def _sum(estimates: Sequence[Estimate]) -> Estimate:
    seconds = [e.seconds for e in estimates if e.seconds is not None]
    return Estimate(
        calls=sum(e.calls for e in estimates),
        tokens_in=sum(e.tokens_in for e in estimates),
        tokens_out=sum(e.tokens_out for e in estimates),
        cost=sum(e.cost for e in estimates),
        seconds=sum(seconds) if seconds else None,
    )


_LAYOUT = "{:<20} {:<26} {:>8} {:>9} {:>12} {:>10} {:>10} {:>8}"


def _row(step: str, who: str, pairs: int, e: Estimate) -> str:
    hours = "-" if e.seconds is None else f"{e.seconds / 3600:.2f}"
    counts = (f"{n:,}" for n in (pairs, e.calls, e.tokens_in, e.tokens_out))
    return _LAYOUT.format(step, who, *counts, f"{e.cost:.2f}", hours)
