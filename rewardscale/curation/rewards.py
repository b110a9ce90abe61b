"""Reward models on the way: trained on what is known so far, and scored on every pair of the corpus.

    models/<name>/margins.npy     float32 [rows], reward of the first response minus the second's
    models/<name>/record.json     candidates (penalties, epochs), the one that gold validation chose, its accuracy

Candidates are what a training can stop at: points of a convex model's path of penalties, or numbers of epochs of a
transformer. The most accurate on the validation pairs is taken, of equals the one with the lower log-loss.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rewardscale import atomic
from rewardscale.config import ConvexConfig, ModelConfig, RunConfig
from rewardscale.config.curation import CurationConfig
from rewardscale.data import arrays, templates
from rewardscale.data.comparison import DataError
from rewardscale.data.corpus import Corpus
from rewardscale.data.subsets import Subset
from rewardscale.data.tokenised import TokenisedView, build_view
from rewardscale.evaluation import statistics
from rewardscale.models import convex, presets

_TOLERANCE = 1e-7  # nats above the optimum
Score = Callable[[np.ndarray], np.ndarray]  # int64 [n] rows -> float32 [n] margins


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
        self._convex_data: tuple[Any, np.ndarray] | None = None
        self._view: TokenisedView | None = None

    def train(
        self, name: str, train: Labels, validation: Labels, progress: Callable[[str], None] | None = None
    ) -> RewardModel:
        """The model `name`. Raises DataError where there is nothing to train on, or to choose by."""
        final = self._directory / "models" / name
        if not final.exists():
            if len(np.unique(train.preferred)) < 1 or len(train.rows) < 2 or not len(validation.rows):
                raise DataError(
                    f"reward model {name!r}: {len(train.rows)} pairs to train on and {len(validation.rows)} to choose "
                    "by are too few; raise seed_pairs, seed_people or validation"
                )
            if progress:
                progress(f"reward model {name}")
            margins, record = self._best(name, train, validation)
            with atomic.new_directory(final) as folder:
                np.save(folder / "margins.npy", margins)
                atomic.write_json(folder / "record.json", record)
        return RewardModel(np.load(final / "margins.npy"), json.loads((final / "record.json").read_text()))

    def _best(self, name: str, train: Labels, validation: Labels) -> tuple[np.ndarray, dict[str, Any]]:
        """Margins of the whole corpus, which only the chosen candidate scores, and the record."""
        candidates = self._convex if presets.is_convex(self._config.reward_model) else self._transformer
        found: list[dict[str, Any]] = []
        best: tuple[tuple[float, float], int, Score] | None = None
        for label, score in candidates(name, train):
            own = score(validation.rows) * validation.preferred
            accuracy, loss = float((own > 0).mean()), statistics.log_loss(own.astype(np.float64))
            found.append({"candidate": label, "accuracy": accuracy, "loss": loss})
            rank = -accuracy, loss
            if best is None or rank < best[0]:
                best = rank, len(found) - 1, score
        assert best is not None
        record = {
            "model": self._config.reward_model,
            "trained_on": len(train.rows),
            "validation": len(validation.rows),
            "chosen": found[best[1]],
            "candidates": found,
        }
        return best[2](np.arange(len(self._corpus))).astype(np.float32), record

    # --- convex --------------------------------------------------------------------------------------

    def _convex(self, name: str, train: Labels) -> Iterator[tuple[str, Score]]:
        del name
        config = presets.get_model(self._config.reward_model, vocab_size=0, convex=self._config.convex)
        assert isinstance(config, ConvexConfig)
        features, texts = self._features(config)
        first, second = texts[train.rows, 0], texts[train.rows, 1]
        target, start = (train.preferred > 0).astype(np.float64), None
        for l2 in sorted(config.l2_grid, reverse=True):
            fit = convex.fit(features, first, second, l2=l2, target=target, start=start, tolerance=_TOLERANCE)
            start = fit.coordinates
            rewards = convex.rewards(features, fit)[texts]
            yield f"l2={l2:g}", (rewards[:, 0] - rewards[:, 1]).astype(np.float32).__getitem__

    def _features(self, config: ConvexConfig) -> tuple[Any, np.ndarray]:
        """Features of the distinct responses, and which of them each row's two are, int64 [rows, 2]."""
        if self._convex_data is None:
            number: dict[str, int] = {}
            texts = [[number.setdefault(r, len(number)) for r in c.responses[:2]] for c in self._corpus]
            features = convex.fitting_features(list(number), config)
            self._convex_data = features, np.asarray(texts, np.int64)
        return self._convex_data

    # --- transformers --------------------------------------------------------------------------------

    def _transformer(self, name: str, train: Labels) -> Iterator[tuple[str, Score]]:
        from rewardscale.training.subset_run import train_and_score  # jax is imported only where it computes

        view = self._tokens()
        model = presets.get_model(self._config.reward_model, vocab_size=view.vocab_size)
        assert isinstance(model, ModelConfig)
        order = np.random.default_rng([0x7A1, self._config.seed]).permutation(len(train.rows))
        ones = np.ones(len(order), np.float32)
        content = (train.rows[order].astype(np.uint32), train.preferred[order], ones, ones)
        chosen = Subset(*content, raw_pairs=len(order), cost=0.0, fingerprint=arrays.short_hash(*content))

        def score(run: RunConfig, folder: Path, rows: np.ndarray) -> np.ndarray:
            # What is trained is read, so no model but the one that is scoring is in memory.
            runtime = self._config.runtime
            rewards, _ = train_and_score(run, chosen, rows.astype(np.uint32), view, runtime, folder)
            return rewards[:, 0] - rewards[:, 1]

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
            yield f"epochs={epochs:g}", functools.partial(score, run, folder)

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
