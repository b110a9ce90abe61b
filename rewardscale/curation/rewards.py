"""Reward models on the way: trained on what is known so far, and scored on every pair of the corpus.

    models/<name>/margins.npy     float32 [rows], reward of the first response minus the second's
    models/<name>/record.json     candidates (penalties, epochs), the one that gold validation chose, its accuracy

With `scoring.shards` the stage runner scores the corpus (scoring.py), whose features are then never in memory.

Candidates are what a training can stop at: points of a convex model's path of penalties, or numbers of epochs of a
transformer. The most accurate on the validation pairs is taken, of equals the one with the lower log-loss.
"""

import dataclasses
import functools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rewardscale import atomic
from rewardscale.config import ConfigError, ConvexConfig, ModelConfig, RunConfig, VocabularyConfig
from rewardscale.config.curation import CurationConfig
from rewardscale.curation import scoring
from rewardscale.data import arrays, templates
from rewardscale.data.comparison import DataError
from rewardscale.data.corpus import Corpus
from rewardscale.data.subsets import Subset
from rewardscale.data.tokenised import TokenisedView, build_view
from rewardscale.evaluation import statistics
from rewardscale.models import convex, presets

_TOLERANCE = 1e-7  # nats above the optimum


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A trained model.

    Attributes:
      label: its penalty or epochs. score: margins float32 [n] of rows int64 [n].
      save: writes it into a new folder, for the tasks that score the corpus.
    """

    label: str
    score: Callable[[np.ndarray], np.ndarray]
    save: Callable[[Path], scoring.Scorer]


@dataclasses.dataclass(frozen=True)
class Labels:
    """Pairs and which response is the better one: int64 [n] rows, int8 [n] of +1 or -1."""

    rows: np.ndarray
    preferred: np.ndarray

    @classmethod
    def where(cls, mask: np.ndarray, labels: np.ndarray) -> "Labels":
        """The rows of a mask [corpus rows], with their labels [corpus rows]."""
        rows = np.flatnonzero(mask)
        return cls(rows, labels[rows].astype(np.int8))


@dataclasses.dataclass(frozen=True)
class RewardModel:
    """A trained model, by its margins float32 [corpus rows], and its record."""

    margins: np.ndarray
    record: dict[str, Any]


class Trainer:
    """Trains the run's reward model on labels; what is there already is read."""

    def __init__(self, config: CurationConfig, corpus: Corpus, directory: Path):
        self._config, self._corpus, self._directory = config, corpus, directory
        self._convex_data: tuple[np.ndarray, Any, np.ndarray] | None = None
        self._view: TokenisedView | None = None

    def train(
        self,
        name: str,
        train: Labels,
        validation: Labels,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> RewardModel:
        """The model `name`. Raises DataError where there is nothing to train on, or to choose by.

        StageError where a task that scores fails.
        """
        final = self._directory / "models" / name
        if not final.exists():
            if len(np.unique(train.preferred)) < 1 or len(train.rows) < 2 or not len(validation.rows):
                raise DataError(
                    f"reward model {name!r}: {len(train.rows)} pairs to train on and {len(validation.rows)} to choose "
                    "by are too few; raise seed_pairs, seed_people or validation"
                )
            show = progress or (lambda what, done, of: None)
            show(f"reward model {name}", 0, 1)
            whole = self._by_shards if self._config.scoring.shards else self._in_memory
            margins, record = whole(name, train, validation, show)
            with atomic.new_directory(final) as folder:
                np.save(folder / "margins.npy", margins)
                atomic.write_json(folder / "record.json", record)
            shutil.rmtree(self._directory / "scoring" / name, ignore_errors=True)
        return RewardModel(np.load(final / "margins.npy"), json.loads((final / "record.json").read_text()))

    def _in_memory(
        self, name: str, train: Labels, validation: Labels, show: Callable[[str, int, int], None]
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Margins of the whole corpus, which only the chosen candidate scores, and the record."""
        del show
        best, record = self._best(name, train, validation)
        return best.score(np.arange(len(self._corpus))).astype(np.float32), record

    def _by_shards(
        self, name: str, train: Labels, validation: Labels, show: Callable[[str, int, int], None]
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """The same by the stage runner; a model that is trained, and its shards that are scored, are not redone."""
        place = self._directory / "scoring" / name
        if not (place / "model").exists():
            best, record = self._best(name, train, validation)
            with atomic.new_directory(place / "model") as folder:
                scorer = best.save(folder)
                atomic.write_json(folder / "record.json", record)
                atomic.write_json(folder / "scorer.json", dataclasses.asdict(scorer))
        record, scorer = (
            json.loads((place / "model" / f"{of}.json").read_text()) for of in ("record", "scorer")
        )
        found = scoring.margins(
            place,
            scoring.Scorer(**scorer),
            len(self._corpus),
            self._config.scoring,
            {"model": str((place / "model").absolute()), **self._read_by_tasks()},
            lambda done, of: show(f"scoring by {name}", done, of),
        )
        return found, record

    def _read_by_tasks(self) -> dict[str, Any]:
        if presets.is_convex(self._config.reward_model):
            return {"corpus": str(self._corpus.directory.absolute())}
        runtime = dataclasses.asdict(self._config.runtime)
        return {"view": str(self._tokens().directory.absolute()), "runtime": runtime}

    def _best(self, name: str, train: Labels, validation: Labels) -> tuple[Candidate, dict[str, Any]]:
        """The candidate that validation chooses, and the record."""
        candidates = self._convex if presets.is_convex(self._config.reward_model) else self._transformer
        found: list[dict[str, Any]] = []
        best: tuple[tuple[float, float], int, Candidate] | None = None
        for candidate in candidates(name, train, validation):
            own = candidate.score(validation.rows) * validation.preferred
            accuracy, loss = float((own > 0).mean()), statistics.log_loss(own.astype(np.float64))
            found.append({"candidate": candidate.label, "accuracy": accuracy, "loss": loss})
            rank = -accuracy, loss
            if best is None or rank < best[0]:
                best = rank, len(found) - 1, candidate
        assert best is not None
        record = {
            "model": self._config.reward_model,
            "trained_on": len(train.rows),
            "validation": len(validation.rows),
            "chosen": found[best[1]],
            "candidates": found,
        }
        return best[2], record

    # --- convex --------------------------------------------------------------------------------------

    def _convex(self, name: str, train: Labels, validation: Labels) -> Iterator[Candidate]:
        del name
        config = presets.get_model(self._config.reward_model, vocab_size=0, convex=self._config.convex)
        assert isinstance(config, ConvexConfig)
        rows, features, texts = self._features(config, train, validation)
        first, second = texts[np.searchsorted(rows, train.rows)].T
        target, start = (train.preferred > 0).astype(np.float64), None
        for l2 in sorted(config.l2_grid, reverse=True):
            fit = convex.fit(features, first, second, l2=l2, target=target, start=start, tolerance=_TOLERANCE)
            start = fit.coordinates
            rewards = convex.rewards(features, fit)[texts]
            margins = (rewards[:, 0] - rewards[:, 1]).astype(np.float32)
            save = functools.partial(
                scoring.save_convex,
                config=config,
                weights=fit.coordinates,
                pairs=self._corpus.fingerprint,
            )
            yield Candidate(f"l2={l2:g}", functools.partial(_looked_up, rows, margins), save)

    def _features(
        self, config: ConvexConfig, train: Labels, validation: Labels
    ) -> tuple[np.ndarray, Any, np.ndarray]:
        """Rows, features of their distinct responses, and which of these each row's two are, int64 [rows, 2].

        Of all rows; by shards of those with labels, in the basis that other texts' features have too.
        """
        if self._convex_data is not None:
            return self._convex_data
        whole, number = not self._config.scoring.shards, dict[str, int]()
        if isinstance(config, VocabularyConfig) and not whole:
            raise ConfigError(
                f"reward_model={self._config.reward_model!r} reads all texts to choose its words, which shards do not: "
                "take scoring.shards=0, or a model like 'hash4096'"
            )
        rows = np.arange(len(self._corpus)) if whole else np.union1d(train.rows, validation.rows)
        pairs = self._corpus if whole else self._corpus.take(rows)
        texts = [[number.setdefault(r, len(number)) for r in pair.responses[:2]] for pair in pairs]
        make = convex.fitting_features if whole else convex.featurize
        made = rows, make(list(number), config), np.asarray(texts, np.int64)
        if whole:
            self._convex_data = made
        return made

    # --- transformers --------------------------------------------------------------------------------

    def _transformer(self, name: str, train: Labels, validation: Labels) -> Iterator[Candidate]:
        # jax is imported only where it computes
        from rewardscale.evaluation import scorer
        from rewardscale.training import subset_run

        del validation
        view = self._tokens()
        model = presets.get_model(self._config.reward_model, vocab_size=view.vocab_size)
        assert isinstance(model, ModelConfig)
        order = np.random.default_rng([0x7A1, self._config.seed]).permutation(len(train.rows))
        ones = np.ones(len(order), np.float32)
        content = (train.rows[order].astype(np.uint32), train.preferred[order], ones, ones)
        chosen = Subset(*content, raw_pairs=len(order), cost=0.0, fingerprint=arrays.short_hash(*content))

        runtime = self._config.runtime

        def score(run: RunConfig, folder: Path, rows: np.ndarray) -> np.ndarray:
            # What is trained is read, so no model but the one that is scoring is in memory.
            rows = rows.astype(np.uint32)
            rewards, _ = subset_run.train_and_score(run, chosen, rows, view, runtime, folder)
            return rewards[:, 0] - rewards[:, 1]

        def save(run: RunConfig, folder: Path, to: Path) -> scoring.Scorer:
            assert run.recipe is not None
            subset_run.save_trained(run, chosen, view, runtime, folder, to / "parameters")
            everything = np.arange(len(view), dtype=np.uint32)
            length = runtime.row_length or scorer.row_length(view, everything, run.recipe.max_length)
            inputs = (run.run_id, chosen.fingerprint, self._corpus.fingerprint)
            arguments = {
                "preset": run.model_name,
                "recipe": dataclasses.asdict(run.recipe),
                "row_length": length,
            }
            return scoring.Scorer("score_transformer", arguments, inputs)

        for epochs in self._config.epochs:
            run = RunConfig(
                model_name=self._config.reward_model,
                model=model,
                recipe=dataclasses.replace(self._config.recipe, epochs=epochs),
                level=name,
                pairs=len(order),
                draw=0,
                fold=-1,
                seed=self._config.seed,
                learning_rate_scale=1.0,
                data={"corpus": self._corpus.fingerprint},
                evaluations={},
            )
            folder = self._directory / "training" / f"{name}-epochs{epochs:g}"
            parts = functools.partial(score, run, folder), functools.partial(save, run, folder)
            yield Candidate(f"epochs={epochs:g}", *parts)

    def _tokens(self) -> TokenisedView:
        if self._view is None:
            if self._config.source == "planted":
                from rewardscale.data import planted

                tokenizer, template = planted.tokenizer(self._config.planted.world), "words"
            else:
                texts = {
                    t: None for c in self._corpus for t in (*(m.content for m in c.prompt), *c.responses)
                }
                tokenizer, template = templates.train_bpe(list(texts), 2048), "chat"
            self._view = build_view(self._corpus, tokenizer, template)
        return self._view


def _looked_up(rows: np.ndarray, margins: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    return margins[np.searchsorted(rows, wanted)]
