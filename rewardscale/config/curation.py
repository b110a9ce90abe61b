"""What a curation run is made of: its pairs, its annotators, its rules and what may be spent."""

import dataclasses
import math
import re
from collections.abc import Mapping

from rewardscale.config.base import ConfigError, choice, positive
from rewardscale.config.data import PlantedConfig
from rewardscale.config.judges import BudgetConfig, JudgeConfig, JudgingConfig, ScoringConfig
from rewardscale.config.model import ConvexConfig
from rewardscale.config.training import Recipe, Runtime

SOURCES = ("planted", "votes", "corpus")
PEOPLE = ("simulated", "votes", "page", "label_studio", "none")
LEVELS = (
    "raw",
    "filtered",
    "corrected",
    "gold",
    "no_humans",
    "shuffled_scores",
    "random_matched",
    "matched",
    "selection_only",
)
PARTS = ("best_only", "gold_only")  # rule 2 with one reward model alone
# What stage 1 had gathered by each iteration, as snapshots alone: the points of the paper's figure 7, left.
GATHERED = ("gathered_raw", "gathered_filtered", "gathered_corrected", "gathered_no_humans")


@dataclasses.dataclass(frozen=True)
class Rates:
    """How a simulated annotator errs (curation/annotators/simulated.py).

    Attributes:
      lapse: probability of an error at the largest margin, below 1/2. noise: margin, in Bradley-Terry units, at which
        errors have become rare; 0 for none that hang on the margin.
      consistency: share of pairs on which all its votes are one vote. shared: share of pairs on which it errs where
        every other such annotator errs. longer, shown_first: share of votes that go to the longer response, to the one
        shown first, whatever they say. skips: share of pairs of which it cannot say.
    """

    lapse: float = 0.0
    noise: float = 0.0
    consistency: float = 0.0
    shared: float = 0.0
    longer: float = 0.0
    shown_first: float = 0.0
    skips: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.lapse < 0.5 or self.noise < 0:
            raise ConfigError("rates: lapse must lie in [0, 0.5) and noise must not be negative")
        for name in ("consistency", "shared", "longer", "shown_first", "skips"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"rates: {name} must lie in [0, 1]")
        if self.longer + self.shown_first > 1:
            raise ConfigError("rates: longer + shown_first must not exceed 1")

    def error(self, margin: float) -> float:
        """Probability of an error of judgement on a pair of this gold margin."""
        if not self.noise:
            return self.lapse
        hard = 1 / (1 + math.exp(min(abs(margin) / self.noise, 700.0)))
        return self.lapse + (1 - 2 * self.lapse) * hard


@dataclasses.dataclass(frozen=True)
class SimulatedConfig:
    """A simulated judge or person. Its verdicts are named "simulated-<name>".

    Attributes:
      votes: a pair, in both orders in turn. cost: money a vote; seconds: a vote.
    """

    name: str = "judge"
    rates: Rates = Rates()
    votes: int = 1
    cost: float = 0.0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.-]+", self.name):
            raise ConfigError(f"simulated annotator {self.name!r}: use letters, digits, `_`, `.` and `-`")
        if self.votes < 1 or min(self.cost, self.seconds) < 0:
            raise ConfigError(
                f"simulated annotator {self.name!r}: votes must be at least 1, cost and seconds not negative"
            )

    @property
    def called(self) -> str:
        """Its name in the ledger."""
        return f"simulated-{self.name}"


@dataclasses.dataclass(frozen=True)
class LabelStudioConfig:
    """A team's Label Studio server.

    Attributes:
      token_env: environment variable that holds a token of a user who may make projects.
      name: starts the projects' titles, at most 20 characters; "" takes the curation's name.
    """

    url: str = ""
    token_env: str = "LABEL_STUDIO_TOKEN"
    name: str = ""


@dataclasses.dataclass(frozen=True)
class PeopleConfig:
    """Who judges for gold.

    Attributes:
      kind: "simulated" (`simulated` lists them), "votes" (a vote that ukpconvarg1 holds), "page" (real people on the
        built-in page), "label_studio" (on a server of the team) or "none": judges' votes stand in for people wherever
        people are asked.
      overlap, shared: about this share of the pairs is judged by `overlap` people, the others by one.
      money_per_hour: what an hour of a person costs.
    """

    kind: str = "simulated"
    simulated: tuple[SimulatedConfig, ...] = ()
    overlap: int = 3
    shared: float = 0.1
    money_per_hour: float = 0.0
    label_studio: LabelStudioConfig = LabelStudioConfig()

    def __post_init__(self) -> None:
        choice("people.kind", self.kind, PEOPLE)
        if self.kind == "label_studio" and not self.label_studio.url:
            raise ConfigError("people.kind is 'label_studio': give its address in people.label_studio.url")
        if self.kind == "simulated" and not self.simulated:
            raise ConfigError("people.kind is 'simulated', but people.simulated lists nobody")
        if self.overlap < 1 or not 0 <= self.shared <= 1 or self.money_per_hour < 0:
            raise ConfigError(
                "people: overlap must be at least 1, shared in [0, 1], money_per_hour not negative"
            )


@dataclasses.dataclass(frozen=True)
class VotesSourceConfig:
    """ukpconvarg1 as a pool: one vote a pair is its raw label, one a person's verdict, the others the truth.

    Attributes:
      test_groups, validation_groups: debates that no stage sees, for evaluating reward models.
      margin: Bradley-Terry units that a unanimous truth counts, for simulated judges.
    """

    test_groups: int = 4
    validation_groups: int = 2
    margin: float = 4.0


@dataclasses.dataclass(frozen=True)
class CurationConfig:
    """A curation run (Skywork-Reward-V2, arXiv 2507.01352, section 3).

    Attributes:
      source: "planted" (a planted world), "votes" (ukpconvarg1), "corpus" (the finished corpus in the folder `corpus`).
      seed_pairs: pairs of stage 0, drawn at random. seed_people: of these, how many people judge beside the validation
        split. validation: share of the seed's groups that people judge and that is never trained on, never shown as an
        example and never asked for neighbours; `validation_by` "pairs" splits by pair instead of by "group".
      iterations: of stage 1. k_max: neighbours of a gold pair that the best reward model gets wrong. examples: worked
        examples a question. selected: most pairs an iteration judges (0: no limit). people_per_iteration: pairs of
        these that people judge. category_weight: added to a pair's informativeness (0 to 1) by its category.
      retrieval: "adaptive" (error-driven) or "random" (as many pairs, drawn at random). embedder: "hashed" n-grams,
        "minilm" (constraints-encoder.txt) or a sentence encoder's folder (curation/retrieval/embed.py). nearest:
        "exact", or "approximate" by the search that TPUs have (recall 0.95; elsewhere it is exact).
      silver: what becomes of a judged pair whose label the judges turn round: "flip" (trained on as they say) or
        "remove" (not trained on).
      ask_below: the probability, in [0.5, 1), above which the best reward model agrees with a label; stage 2 asks
        judges about the other pairs. recycling: whether discarded pairs whose flipped label passes are kept, flipped,
        at `corrected`.
      reward_model: a preset's name: convex ("hash4096", `convex`) or a transformer ("w16"), trained by `recipe` for
        each of `epochs`; of the trained candidates (penalties, epochs) gold validation chooses.
      judges, llm_judges: simulated ones, and models behind endpoints. budget: of the latter. judging: where they are
        asked from. attributes: who writes them: "simulated", "" for nobody, or the name of an llm_judge whose endpoint
        and model are used.
      scoring: where reward models score the corpus.
      tie: what as many votes for one as for the other make of a judge's verdict ("tie" or "cannot_say").
      levels: which are written, of LEVELS, PARTS and GATHERED. no_humans: whether the second pass, without people, is
        made.
      raw_price: of a raw pair, in `cost_unit`.
    """

    name: str = "curation"
    seed: int = 0
    source: str = "planted"
    planted: PlantedConfig = dataclasses.field(default_factory=PlantedConfig)
    votes: VotesSourceConfig = VotesSourceConfig()
    corpus: str = ""
    seed_pairs: int = 400
    seed_people: int = 100
    validation: float = 0.5
    validation_by: str = "group"
    iterations: int = 8
    k_max: int = 8
    examples: int = 8
    selected: int = 0
    people_per_iteration: int = 60
    category_weight: Mapping[str, float] = dataclasses.field(default_factory=dict)
    retrieval: str = "adaptive"
    embedder: str = "hashed"
    nearest: str = "exact"
    silver: str = "flip"
    ask_below: float = 0.5
    recycling: bool = True
    reward_model: str = "hash4096"
    convex: ConvexConfig = ConvexConfig(l2_grid=(1e-1, 1e-2, 1e-3, 1e-4))
    recipe: Recipe = Recipe()
    epochs: tuple[float, ...] = (1.0, 2.0)
    runtime: Runtime = Runtime()
    judges: tuple[SimulatedConfig, ...] = ()
    llm_judges: tuple[JudgeConfig, ...] = ()
    attributes: str = "simulated"
    tie: str = "tie"
    people: PeopleConfig = PeopleConfig(kind="none")
    budget: BudgetConfig = dataclasses.field(default_factory=BudgetConfig)
    judging: JudgingConfig = dataclasses.field(default_factory=JudgingConfig)
    scoring: ScoringConfig = dataclasses.field(default_factory=ScoringConfig)
    levels: tuple[str, ...] = LEVELS
    no_humans: bool = True
    raw_price: float = 0.0
    cost_unit: str = "USD"

    def __post_init__(self) -> None:
        choice("source", self.source, SOURCES)
        choice("validation_by", self.validation_by, ("group", "pairs"))
        choice("retrieval", self.retrieval, ("adaptive", "random"))
        choice("nearest", self.nearest, ("exact", "approximate"))
        choice("silver", self.silver, ("flip", "remove"))
        choice("tie", self.tie, ("tie", "cannot_say"))
        positive("config", self, "seed_pairs", "k_max")
        if (
            min(self.iterations, self.examples, self.selected, self.people_per_iteration, self.seed_people)
            < 0
        ):
            raise ConfigError("iterations, examples, selected and people's numbers must not be negative")
        if not 0 < self.validation < 1:
            raise ConfigError(f"validation={self.validation} must lie in (0, 1)")
        if not 0.5 <= self.ask_below < 1:
            raise ConfigError(f"ask_below={self.ask_below} must lie in [0.5, 1)")
        if self.source == "corpus" and not self.corpus:
            raise ConfigError("source is 'corpus': name the folder of a finished corpus in `corpus`")
        if self.people.kind == "votes" and self.source != "votes":
            raise ConfigError("people.kind is 'votes': only source 'votes' holds people's votes")
        if self.people.kind == "simulated" and self.source == "corpus":
            raise ConfigError("simulated people need a source whose truth is known: planted or votes")
        if self.attributes == "simulated" and self.source == "corpus":
            raise ConfigError(
                "simulated attributes say nothing of real pairs, and people would read them: set attributes to "
                "the name of an llm_judge, or to '' for none"
            )
        if not re.fullmatch(r"[\w.-]+", self.name):
            raise ConfigError(f"name={self.name!r} must do as a folder's name")
        self._check_judges()
        for name in self.levels:
            choice("levels", name, LEVELS + PARTS + GATHERED)

    def _check_judges(self) -> None:
        names = [judge.called for judge in self.judges] + [judge.name for judge in self.llm_judges]
        names += [person.called for person in self.people.simulated]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(
                f"judges and people: {', '.join(twice)} is there twice; each needs its own name"
            )
        if self.judges and self.source == "corpus":
            raise ConfigError("simulated judges need a source whose truth is known: planted or votes")
        known = ("", "simulated", *(judge.name for judge in self.llm_judges))
        choice("attributes", self.attributes, known)

    @property
    def judge_names(self) -> tuple[str, ...]:
        """Of all judges, as the ledger has them."""
        return tuple([judge.called for judge in self.judges] + [judge.name for judge in self.llm_judges])
