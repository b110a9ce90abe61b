"""One label an item out of many annotators': majority, Dawid-Skene, and a competence model like MACE.

Both models are fitted by EM from the shares of votes, so a fit is deterministic and its labels keep their meaning. With
`smoothing` 0 what rises is the likelihood; otherwise the likelihood times a Dirichlet prior of `smoothing` pseudo-votes
a cell, which keeps annotators of few votes from being taken for infallible.
"""

import dataclasses

import numpy as np
from scipy.special import logsumexp, xlogy

from rewardscale.curation.judgements import Judgements

_FLOOR = 1e-300  # a probability that is a logarithm's argument
_UNDECIDED = 1e-9


@dataclasses.dataclass(frozen=True)
class Aggregate:
    """Labels and what was learnt of the annotators.

    Attributes:
      posterior: float64 [items, classes], rows sum to 1. label: int64 [items], the likeliest, -1 where several are.
      competence: float64 [annotators]: Dawid-Skene: probability of the true label; MACE: of not answering at random.
      confusion: float64 [annotators, true, given], Dawid-Skene's. prior: float64 [classes], of the true labels.
      objective: what EM raises, in nats, before each step and after the last. converged: whether it stood still.
    """

    posterior: np.ndarray
    label: np.ndarray
    competence: np.ndarray
    confusion: np.ndarray
    prior: np.ndarray
    objective: np.ndarray
    converged: bool


def majority(judgements: Judgements) -> tuple[np.ndarray, np.ndarray]:
    """The most frequent label of each item, int64 [items] (-1 where several are), and shares [items, classes].

    An item without judgements has equal shares.
    """
    shares = _shares(judgements)
    return _likeliest(shares), shares


def dawid_skene(
    judgements: Judgements, *, smoothing: float = 0.0, iterations: int = 1000, tolerance: float = 1e-7
) -> Aggregate:
    """Each annotator has a confusion matrix of their own (Dawid and Skene, 1979, Applied Statistics 28, 20-28).

    Args:
      smoothing: pseudo-votes in each cell of each confusion matrix.
      iterations: at the most. tolerance: EM stops at a smaller rise, in nats a judgement.
    """
    j, classes = judgements, judgements.classes
    cell = j.annotator * classes + j.label
    posterior, objective = _shares(j), []
    while True:
        prior = posterior.mean(0)
        given = [np.bincount(cell, posterior[j.item, k], len(j.annotators) * classes) for k in range(classes)]
        votes = np.stack([g.reshape(-1, classes) for g in given], 1) + smoothing
        confusion = _normalised(votes)
        likelihood = _by_item(j, np.log(np.maximum(confusion, _FLOOR))[j.annotator, :, j.label])
        posterior, value = _posterior(likelihood, prior)
        objective.append(value + float(xlogy(smoothing, confusion).sum()))
        converged = _stands_still(objective, tolerance * max(len(j.item), 1))
        if converged or len(objective) > iterations:
            competence = np.einsum("k,akk->a", prior, confusion)
            return _aggregate(posterior, competence, confusion, prior, objective, converged)


def mace(
    judgements: Judgements, *, smoothing: float = 0.01, iterations: int = 1000, tolerance: float = 1e-7
) -> Aggregate:
    """An annotator gives the true label with probability `competence` and else one of their own favourites.

    The model of Hovy, Berg-Kirkpatrick, Vaswani and Hovy (2013, Learning Whom to Trust with MACE), all true labels
    being equally likely beforehand; fitted by EM with pseudo-votes where they use variational Bayes.

    Args:
      smoothing: pseudo-votes for knowing, for guessing, and for each label guessed.
      iterations, tolerance: as for `dawid_skene`.
    """
    j, classes = judgements, judgements.classes
    prior = np.full(classes, 1 / classes)
    competence = np.full(len(j.annotators), 0.5)
    guess = np.full((len(j.annotators), classes), 1 / classes)
    objective: list[float] = []
    while True:
        blind = (1 - competence[j.annotator]) * guess[j.annotator, j.label]
        knowing = competence[j.annotator] + blind
        chance = np.repeat(blind[:, None], classes, 1)
        chance[np.arange(len(j.label)), j.label] = knowing
        posterior, value = _posterior(_by_item(j, np.log(np.maximum(chance, _FLOOR))), prior)
        penalty = (
            xlogy(smoothing, competence) + xlogy(smoothing, 1 - competence) + xlogy(smoothing, guess).sum(1)
        )
        objective.append(value + float(penalty.sum()))
        converged = _stands_still(objective, tolerance * max(len(j.item), 1))
        if converged or len(objective) > iterations:
            confusion = (
                competence[:, None, None] * np.eye(classes) + ((1 - competence)[:, None] * guess)[:, None]
            )
            return _aggregate(posterior, competence, confusion, prior, objective, converged)
        knew = posterior[j.item, j.label] * competence[j.annotator] / np.maximum(knowing, _FLOOR)
        known = np.bincount(j.annotator, knew, len(j.annotators))
        guessed = np.bincount(j.annotator * classes + j.label, 1 - knew, len(j.annotators) * classes)
        guessed = guessed.reshape(-1, classes)
        competence = _normalised(np.stack([known, guessed.sum(1)], 1) + smoothing)[:, 0]
        guess = _normalised(guessed + smoothing)


def _shares(judgements: Judgements) -> np.ndarray:
    return _normalised(judgements.counts())


def _normalised(counts: np.ndarray) -> np.ndarray:
    """Counts divided by their sum along the last axis, equal shares where there are none."""
    total = counts.sum(-1, keepdims=True)
    return np.where(total > 0, counts / np.where(total > 0, total, 1), 1 / counts.shape[-1])


def _by_item(judgements: Judgements, values: np.ndarray) -> np.ndarray:
    """Sums [items, classes] of `values` [judgements, classes]."""
    columns = [np.bincount(judgements.item, column, len(judgements.items)) for column in values.T]
    return np.stack(columns, 1)


def _posterior(likelihood: np.ndarray, prior: np.ndarray) -> tuple[np.ndarray, float]:
    """Posteriors [items, classes] from log-likelihoods, and the log-likelihood of everything."""
    joint = likelihood + np.log(np.maximum(prior, _FLOOR))
    evidence = logsumexp(joint, axis=1, keepdims=True)
    return np.exp(joint - evidence), float(evidence.sum())


def _stands_still(objective: list[float], tolerance: float) -> bool:
    return len(objective) > 1 and objective[-1] - objective[-2] <= tolerance


def _likeliest(posterior: np.ndarray) -> np.ndarray:
    ordered = np.sort(posterior, axis=1)
    decided = ordered[:, -1] - ordered[:, -2] > _UNDECIDED
    return np.where(decided, posterior.argmax(1), -1)


def _aggregate(
    posterior: np.ndarray,
    competence: np.ndarray,
    confusion: np.ndarray,
    prior: np.ndarray,
    objective: list[float],
    converged: bool,
) -> Aggregate:
    label = _likeliest(posterior)
    return Aggregate(posterior, label, competence, confusion, prior, np.array(objective), converged)
