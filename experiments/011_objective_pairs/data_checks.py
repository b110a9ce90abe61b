"""Are style and contamination what the README says: python data_checks.py SWEEP_DIR

Reads the corpus of `sweep.py:objective`. Prints what its build measured, how often the longer answer is right among
pairs of like lengths (balance on average might hide a cue that changes its sign), how many pairs an answer is in, and
what the answers themselves share across the split.
"""

import sys
from collections import Counter
from pathlib import Path

import numpy as np

from rewardscale.data.corpus import Corpus
from rewardscale.data.overlap import ngrams
from rewardscale.sweeps import configfile, datasets


def shares(right: np.ndarray, cells: np.ndarray) -> str:
    """Share of `right` (bool [pairs]) in each cell (int [pairs]), with two standard errors of independent pairs."""
    out = []
    for cell in np.unique(cells):
        own = right[cells == cell]
        out.append(f"{own.mean():.3f} ± {2 * np.sqrt(0.25 / len(own)):.3f}")
    return ", ".join(out)


def lengths(corpus: Corpus, orientation: np.ndarray) -> np.ndarray:
    """int64 [rows, 2]: characters of the right and of the wrong answer."""
    pairs = np.array([[len(r) for r in c.responses[:2]] for c in corpus])
    return np.where(orientation[:, None] > 0, pairs, pairs[:, ::-1])


def answers(corpus: Corpus, split: np.ndarray) -> dict[str, dict[str, int]]:
    """split -> text -> how many of the split's pairs it is in."""
    found: dict[str, Counter[str]] = {name: Counter() for name in np.unique(split)}
    for where, comparison in zip(split, corpus, strict=True):
        found[where].update(comparison.responses[:2])
    return dict(found)


def main(workdir: Path) -> None:
    dataset = datasets.prepare(configfile.load("sweep.py:objective", {})[0].data, workdir, None)
    corpus, manifest = dataset.corpus, dataset.corpus.manifest()
    for name in ("counts", "matching", "contamination"):
        print(f"{name}: {corpus.about[name]}")
    split = manifest["split"].to_numpy()
    size = lengths(corpus, manifest["right"].to_numpy())
    test = (split == "test") & (size[:, 0] != size[:, 1])
    longer = (size[:, 0] > size[:, 1])[test]
    for what, values in (
        ("ratio of lengths", np.abs(np.log(size[test, 0] / size[test, 1]))),
        ("mean length", size[test].mean(1)),
    ):
        quarter = np.searchsorted(np.quantile(values, (0.25, 0.5, 0.75)), values)
        print(f"the longer answer is right, by quarter of the {what}: {shares(longer, quarter)}")
    found = answers(corpus, split)
    for name, own in found.items():
        uses = list(own.values())
        print(f"{name}: {len(own):,} answers, in {np.mean(uses):.1f} pairs each, at most {max(uses)}")
    verbatim = sum(text in found["train"] for text in found["test"])
    print(f"test answers word for word among training answers: {verbatim}")
    grams = {hash(gram) for text in found["train"] for gram in ngrams(text)}
    shared = [{gram for gram in ngrams(text) if hash(gram) in grams} for text in found["test"]]
    print(
        f"test answers that share some 13-gram with a training answer: {np.mean([bool(own) for own in shared]):.3f}"
    )
    for gram, count in Counter(gram for own in shared for gram in own).most_common(8):
        print(f"  in {count} test answers: {' '.join(gram)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
