"""Small corpora, models and runs that tests of several folders build on. No jax is imported here."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rewardscale.config import ModelConfig, Recipe, RunConfig
from rewardscale.data import pipeline, templates
from rewardscale.data import rows as tree_rows
from rewardscale.data.comparison import Comparison, Message
from rewardscale.data.corpus import write_corpus
from rewardscale.data.packing import make_plan
from rewardscale.data.subsets import Subset
from rewardscale.data.tokenised import TokenisedView, build_view, token_store

WORDS = [f"w{i}" for i in range(40)]
MODEL = ModelConfig(
    vocab_size=43,
    width=16,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=4,
    mlp_width=24,
    embedding_sd=0.5,
    head_sd=1.0,
)
RECIPE = Recipe(pairs_per_step=16, learning_rate=1e-2, epochs=1.0, max_length=64, schedule="cosine")


def random_comparisons(
    count: int,
    *,
    responses: Sequence[int] = (2,),
    prompt: tuple[int, int] = (1, 9),
    response: tuple[int, int] = (1, 12),
    seed: int = 0,
) -> list[Comparison]:
    """Comparisons of random words; `prompt` and `response` are the shortest and longest numbers of words."""
    random = np.random.default_rng(seed)

    def text(shortest: int, longest: int) -> str:
        return " ".join(random.choice(WORDS, random.integers(shortest, longest + 1)))

    return [
        Comparison(
            (Message("user", text(*prompt)),),
            tuple(text(*response) for _ in range(responses[i % len(responses)])),
            source="test",
        )
        for i in range(count)
    ]


def make_view(directory: Path, comparisons: Sequence[Comparison]) -> TokenisedView:
    """Writes and tokenises a corpus, one id a word."""
    corpus = write_corpus(directory, comparisons, about={"generator": "tests"})
    return build_view(corpus, templates.word_tokenizer(WORDS), "words")


def pack(
    view: TokenisedView,
    trees: tree_rows.Trees,
    *,
    row_length: int = 64,
    rows_per_microbatch: int = 1,
    shared: bool = True,
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Trees packed into one batch [rows, row_length]; also the row and the slot of each tree."""
    sizes = trees.tokens(view.lengths, shared=shared)
    plan = make_plan(sizes, batch=len(sizes), row_length=row_length, rows_per_microbatch=rows_per_microbatch)
    batch = tree_rows.assemble(
        token_store(view.directory),
        view.lengths,
        trees,
        plan.row,
        plan.offset,
        plan.slot,
        shape=(int(plan.microbatches[0]) * rows_per_microbatch, row_length),
        slots=plan.trees_per_row,
        shared=shared,
    )
    return batch, plan.row, plan.slot


def responses_alone(
    view: TokenisedView, rows: np.ndarray, response: int | np.ndarray, skip: np.ndarray | int = 0
) -> tree_rows.Trees:
    """The reference layout: prompt and one response, one tree a response."""
    rows = np.asarray(rows, np.int64)
    full = np.ones(len(rows), np.int64)
    return tree_rows.Trees(rows, full * tree_rows.ABSENT, full * response, full * skip)


def whole_subset(view: TokenisedView, pairs: int, *, seed: int = 0) -> Subset:
    """The first `pairs` rows of the view with random orientations, weights and targets."""
    random = np.random.default_rng(seed)
    return Subset(
        rows=np.arange(pairs, dtype=np.uint32),
        orientation=random.choice(np.array([-1, 1], np.int8), pairs),
        weight=random.uniform(0.5, 2.0, pairs).astype(np.float32),
        target=random.uniform(0.6, 1.0, pairs).astype(np.float32),
        raw_pairs=pairs,
        cost=float(pairs),
        fingerprint=f"test-{pairs}-{seed}",
    )


def training_data(
    view: TokenisedView,
    subset: Subset,
    *,
    batch: int = 16,
    epochs: float = 1.0,
    row_length: int = 64,
    rows_per_microbatch: int = 8,
    draw: int = 0,
    shared: bool = True,
) -> pipeline.TrainingData:
    """The batches of a run on `subset`."""
    return pipeline.prepare(
        view,
        subset,
        positions=round(len(subset) * epochs),
        batch=batch,
        seed=0,
        draw=draw,
        max_length=64,
        too_long="drop",
        row_length=row_length,
        rows_per_microbatch=rows_per_microbatch,
        shared=shared,
    )


def run_config(
    model: ModelConfig = MODEL, recipe: Recipe = RECIPE, *, pairs: int, draw: int = 0
) -> RunConfig:
    """A run of `model` by `recipe` on some subset of `pairs` pairs."""
    return RunConfig(
        model_name="test",
        model=model,
        recipe=recipe,
        level="raw",
        pairs=pairs,
        draw=draw,
        fold=-1,
        seed=0,
        learning_rate_scale=1.0,
        data={"subset": "test"},
        evaluations={},
    )


def varied(model: ModelConfig, **changes: object) -> ModelConfig:
    """`model` with some fields changed."""
    return dataclasses.replace(model, **changes)  # pyright: ignore[reportArgumentType]
