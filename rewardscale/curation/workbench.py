"""What the stages of one pass work with, and how they ask: judges, people, attributes, embeddings, models.

A pass is the pipeline from stage 0 to stage 2 in one folder, with people or without. Whatever it asks ends in the
ledger; what was answered is not asked again.
"""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from rewardscale import atomic
from rewardscale import mesh as meshes
from rewardscale.config import ConfigError
from rewardscale.config.curation import CurationConfig, SimulatedConfig
from rewardscale.curation.annotators.backend import AnnotationBackend, make_tasks
from rewardscale.curation.annotators.base import Annotator, Example, Question
from rewardscale.curation.annotators.label_studio import LabelStudio
from rewardscale.curation.annotators.people.backend import PageBackend
from rewardscale.curation.annotators.recorded import Recorded
from rewardscale.curation.annotators.simulated import SimulatedAnnotator
from rewardscale.curation.annotators.stand_ins import PastVotes, SimulatedPeople
from rewardscale.curation.inputs import Inputs
from rewardscale.curation.judging import AT_ONCE, Judging, judging, writer_of
from rewardscale.curation.known import STAND_IN, Known, is_person, known
from rewardscale.curation.retrieval.embed import Embedder, embedder, text_of
from rewardscale.curation.retrieval.select import worked_examples
from rewardscale.curation.rewards import Trainer
from rewardscale.data.ledger.checks import to_frame
from rewardscale.data.ledger.ledger import Ledger
from rewardscale.data.ledger.schema import CATEGORIES, Attributes, Verdict

Progress = Callable[[str, int, int], None]  # (what, done, total)


class Waiting(Exception):
    """People have not judged all pairs yet; the message says how many, and what to do."""


@dataclasses.dataclass
class Workbench:
    """Attributes: see the module. `directory`: the pass's folder. `progress`: told (what, done, total).

    judges: those that are simulated. llm: all others, None without any.
    """

    config: CurationConfig
    inputs: Inputs
    directory: Path
    ledger: Ledger
    judges: list[Annotator]
    llm: Judging | None
    people: AnnotationBackend | None
    embedder: Embedder
    trainer: Trainer
    progress: Progress

    # --- what is known -------------------------------------------------------------------------------

    def known(self, *, before: int | None = None) -> Known:
        """What the verdicts of iterations `before` that one say."""
        return known(self.inputs, self.config, self.ledger.read(), before=before)

    def questions(self, rows: Sequence[int] | np.ndarray) -> list[Question]:
        """A question a row, with its attributes, without examples."""
        return self._questions(np.asarray(rows).tolist(), self.ledger.attributes_by_row())

    def _questions(self, rows: Sequence[int], attributes: dict[int, Attributes]) -> list[Question]:
        comparisons = self.inputs.corpus.take(rows)
        return [Question(r, c, attributes.get(r)) for r, c in zip(rows, comparisons, strict=True)]

    # --- embeddings ----------------------------------------------------------------------------------

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """float32 [rows, d] of the conversations alone, as the pool has no attributes. Kept on disk, one a prompt."""
        path = self.directory / "embeddings" / f"{self.embedder.fingerprint}.npy"
        prompts, first, inverse = np.unique(self.inputs.prompts, return_index=True, return_inverse=True)
        if not path.exists():
            with atomic.new_file(path) as file:
                texts = [text_of(c) for c in self.inputs.corpus.take(first)]
                np.save(file, self._embed(texts))
        held = np.load(path, mmap_mode="r")
        assert len(held) == len(prompts)
        return np.asarray(held[inverse[rows]])

    def vectors_with_attributes(self, questions: Sequence[Question]) -> np.ndarray:
        """float32 [questions, d] of conversation and attributes."""
        return self.embedder.embed([text_of(q.comparison, q.attributes) for q in questions])

    @functools.cached_property
    def search(self) -> dict[str, Any]:
        """How `nearest.top_k` looks for neighbours: over all devices, exactly or not."""
        return {"mesh": meshes.make_mesh((-1, 1, 1)), "approximate": self.config.nearest == "approximate"}

    def _embed(self, texts: Sequence[str]) -> np.ndarray:
        pieces = []
        for at in range(0, len(texts), AT_ONCE):
            pieces.append(self.embedder.embed(texts[at : at + AT_ONCE]))
            self.progress("embeddings", min(at + AT_ONCE, len(texts)), len(texts))
        return np.concatenate(pieces)

    # --- asking --------------------------------------------------------------------------------------

    def describe(self, rows: np.ndarray, iteration: int) -> None:
        """Has attributes written of pairs that have none. Raises as `Judging`."""
        there = self.ledger.attributes_by_row()
        missing = [row for row in np.asarray(rows).tolist() if row not in there]
        if not missing or not self.config.attributes:
            return
        with self.ledger.log("attributes") as log:
            if self.llm is None or writer_of(self.config) is None:
                for row, comparison in zip(missing, self.inputs.corpus.take(missing), strict=True):
                    log.add_attributes(
                        row, comparison.id, simulated_attributes(comparison.id, comparison.category)
                    )
                return
            asked, show = self.asked_about(missing), functools.partial(self.progress, "attributes")
            for one in self.llm.attributes(f"{iteration:03d}", asked, len(missing), show):
                log.add_attributes(one.row, one.comparison, one.attributes)

    def ask_judges(self, rows: np.ndarray, iteration: int, state: Known | None = None) -> None:
        """A verdict a row and judge who has none on it, into the ledger. Raises as `Judging`.

        With worked examples of what `state` knows, without any if it is None.
        """
        there = self.ledger.read().select("row", "annotator").unique()
        show = functools.partial(self.progress, f"judges, iteration {iteration}")
        if self.judges:
            open_ = self._without(rows, [judge.name for judge in self.judges], there)
            for at, some in enumerate(itertools.batched(self.asked_about(open_, state), AT_ONCE)):
                found = [
                    verdict for judge in self.judges for verdict in judge.judge(some, iteration=iteration)
                ]
                self._add(to_frame(found).sort("row", "annotator"), there)
                show(min((at + 1) * AT_ONCE, len(open_)), len(open_))
        if self.llm is not None:
            # By shards the whole step is named, so that what is finished is known again.
            names = [judge.name for judge in self.config.llm_judges]
            left = self._without(rows, names, there)
            asked = left if len(left) == 0 or not self.config.judging.shards else rows
            step = f"{iteration:03d}"
            for found in self.llm.verdicts(step, self.asked_about(asked, state), len(asked), show, iteration):
                self._add(found, there)

    def _without(self, rows: np.ndarray, names: Sequence[str], there: pl.DataFrame) -> np.ndarray:
        """Those of the rows on which one of these judges has no verdict, in their order."""
        mine = there.filter(pl.col("annotator").is_in(list(names)))
        given = np.bincount(mine["row"].to_numpy(), minlength=len(self.inputs))
        rows = np.asarray(rows, np.int64)
        return rows[given[rows] < len(names)]

    def _add(self, verdicts: pl.DataFrame, there: pl.DataFrame) -> None:
        """A judge has one verdict on a pair, whatever it is asked later with other attributes or examples."""
        self.ledger.append(verdicts.join(there, on=["row", "annotator"], how="anti", maintain_order="left"))

    def ask_people(self, questions: Sequence[tuple[Question, float]], iteration: int) -> None:
        """People's verdicts on questions, each with how informative it is, into the ledger.

        Where there are no people the judges' merged verdicts stand in for them. Raises Waiting until people are done.
        """
        if not questions:
            return
        if self.people is None:
            self._stand_in([question for question, _ in questions], iteration)
            return
        people, status = self.config.people, self.people.status(iteration)
        if not status.closed:
            tasks = make_tasks(questions, overlap=people.overlap, shared=people.shared, seed=self.config.seed)
            self.people.push_tasks(iteration, tasks)
            status = self.people.status(iteration)
        if not status.done:
            raise Waiting(
                f"iteration {iteration}: people have judged {status.complete:,} of {status.tasks:,} pairs "
                f"({status.given:,} of {status.wanted:,} verdicts)"
            )
        self.people.close(iteration)
        verdicts = self.people.pull_verdicts(iteration)
        self.ledger.append(sorted(verdicts, key=lambda v: (v.row, v.round, v.annotator)))

    def _stand_in(self, questions: Sequence[Question], iteration: int) -> None:
        silver = self.known().silver
        self.ledger.append(
            [
                Verdict(
                    row=q.row,
                    comparison=q.comparison.id,
                    annotator=STAND_IN,
                    kind="llm_judge",
                    preferred=int(silver[q.row]) or None,
                    iteration=iteration,
                    key=f"{STAND_IN}:{q.comparison.id}:{q.row}",
                )
                for q in questions
            ]
        )

    def asked_about(self, rows: Sequence[int] | np.ndarray, state: Known | None = None) -> Iterator[Question]:
        """Questions, some at a time in memory, with the nearest gold pairs of `state` as worked examples, as far as
        they may be shown; without any if it is None."""
        rows = np.asarray(rows, np.int64)
        gold = np.zeros(0, np.int64) if state is None else np.flatnonzero(state.gold_training)
        attributes, labels = self.ledger.attributes_by_row(), None if state is None else self.known().gold
        if labels is None or not self.config.examples or not len(gold) or not len(rows):
            for some in itertools.batched(rows.tolist(), AT_ONCE):
                yield from self._questions(some, attributes)
            return
        shown = dict(zip(gold.tolist(), self._questions(gold.tolist(), attributes), strict=True))
        examples = {row: Example(q.comparison, int(labels[row]), q.attributes) for row, q in shown.items()}
        vectors = self.vectors_with_attributes(list(shown.values()))
        for at in range(0, len(rows), AT_ONCE):
            some = rows[at : at + AT_ONCE]
            plain = self._questions(some.tolist(), attributes)
            nearest = worked_examples(
                self.vectors_with_attributes(plain),
                self.inputs.prompts[some],
                vectors,
                self.inputs.prompts[gold],
                k=min(self.config.examples, len(gold)),
                **self.search,
            )
            for question, own in zip(plain, nearest.tolist(), strict=True):
                found = tuple(examples[int(gold[number])] for number in own if number >= 0)
                yield dataclasses.replace(question, examples=found)


def simulated_attributes(identity: str, category: str) -> Attributes:
    """Attributes that hang on the pair's id alone, in the shares that the paper reports (appendix D.2)."""

    def number(what: str) -> float:
        return int.from_bytes(hashlib.blake2b(f"{what}:{identity}".encode(), digest_size=8).digest()) / 2**64

    where = hashlib.blake2b(category.encode(), digest_size=4).digest()
    u = number("controversiality")
    return Attributes(
        category=CATEGORIES[int.from_bytes(where) % len(CATEGORIES)],
        objectivity="objective" if number("objectivity") < 0.75 else "subjective",
        controversiality="low" if u < 0.74 else "medium" if u < 0.94 else "high",
        desired="what the simulated user wants",
        guideline="prefer the response with the higher reward",
        author="simulated-attributes",
    )


@contextlib.contextmanager
def workbench(
    config: CurationConfig, inputs: Inputs, directory: Path, calls: Path, progress: Progress
) -> Iterator[Workbench]:
    """Opens a pass's folder and its annotators, whose paid answers lie in `calls`, and closes them."""
    with contextlib.ExitStack() as resources:

        def recorded(one: SimulatedConfig) -> Recorded:
            assert inputs.margin is not None
            annotator = SimulatedAnnotator(
                one.called,
                one.rates,
                lambda row: float(inputs.margin[row]),  # type: ignore[index]
                votes=one.votes,
                ties="tie" if config.tie == "tie" else "cannot_say",
                cost=one.cost,
                seconds=one.seconds,
                seed=config.seed,
            )
            kept = Recorded(annotator, calls)
            resources.callback(kept.close)
            return kept

        judges: list[Annotator] = []
        judges += [recorded(judge) for judge in config.judges]
        llm = None
        if config.llm_judges:
            llm = resources.enter_context(judging(config, directory, calls / "llm"))
        people: AnnotationBackend | None = None
        if config.people.kind == "simulated":
            people = SimulatedPeople([recorded(person) for person in config.people.simulated])
        elif config.people.kind == "votes":
            assert inputs.votes is not None
            people = PastVotes(inputs.votes)
        elif config.people.kind == "page":
            people = resources.enter_context(PageBackend(directory / "ledger"))
        elif config.people.kind == "label_studio":
            people = label_studio(config)
        yield Workbench(
            config=config,
            inputs=inputs,
            directory=directory,
            ledger=Ledger(directory / "ledger"),
            judges=judges,
            llm=llm,
            people=people,
            embedder=embedder(config.embedder),
            trainer=Trainer(config, inputs.corpus, directory),
            progress=progress,
        )


def label_studio(config: CurationConfig) -> LabelStudio:
    """The team's server. Raises ConfigError without its token, LabelStudioError if it cannot be reached."""
    place = config.people.label_studio
    token = os.environ.get(place.token_env, "").strip()
    if not token:
        raise ConfigError(
            f"people.label_studio: set the environment variable {place.token_env} to a token of {place.url}"
        )
    return LabelStudio(place.url, token, name=place.name or config.name[:20], seed=config.seed)


def paid_hours(config: CurationConfig) -> pl.Expr:
    """What the time of a verdict costs, float64: people's by the hour, nobody else's."""
    hours = pl.when(is_person(config)).then(pl.col("seconds").cast(pl.Float64)).otherwise(0.0) / 3600
    return hours * config.people.money_per_hour


def bill(verdicts: pl.DataFrame, config: CurationConfig, iteration: int | None = None) -> list[dict]:
    """What verdicts took: a line a judge, and one of all people, their time paid for.

    Of a judge's calls those that led to no verdict are in the call log's bill alone.
    """
    if iteration is not None:
        verdicts = verdicts.filter(pl.col("iteration") == iteration)
    asked = verdicts.filter((pl.col("kind") != "source") & (pl.col("annotator") != STAND_IN))
    money = pl.col("cost").cast(pl.Float64) + paid_hours(config)
    return (
        asked.group_by(who=pl.when(is_person(config)).then(pl.lit("people")).otherwise("annotator"))
        .agg(
            annotators=pl.col("annotator").n_unique(),
            verdicts=pl.len(),
            tokens_in=pl.col("tokens_in").cast(pl.Int64).sum(),
            tokens_out=pl.col("tokens_out").cast(pl.Int64).sum(),
            money=money.sum().round(9),
            minutes=(pl.col("seconds").cast(pl.Float64).sum() / 60).round(6),
        )
        .sort("who")
        .to_dicts()
    )
