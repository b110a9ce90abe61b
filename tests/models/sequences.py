"""Batches of plain sequences and of pair trees, for models without a corpus."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from rewardscale import mesh as meshes
from rewardscale.config import ModelConfig
from rewardscale.models import reward


def of_sequences(sequences: Sequence[Sequence[int]]) -> dict[str, np.ndarray]:
    """One sequence a row, causal, read at its last token (as the row's right response)."""
    rows, length = len(sequences), max(map(len, sequences))
    tokens = np.zeros((rows, length), np.int32)
    for row, sequence in enumerate(sequences):
        tokens[row, : len(sequence)] = sequence
    index = np.broadcast_to(np.arange(length, dtype=np.int32), (rows, length))
    last = np.array([[len(sequence) - 1] for sequence in sequences], np.int32)
    zero = np.zeros_like
    return {
        "tokens": tokens, "positions": index, "lo": zero(tokens), "hi": index + 1, "left_at": zero(last),
        "right_at": last,
    }  # fmt: skip


def of_pairs(
    pairs: Sequence[tuple[Sequence[int], Sequence[int], Sequence[int]]],
) -> dict[str, Any]:
    """A tree (prompt, chosen, rejected) a row: [chosen reversed | prompt | rejected]."""
    rows, length = len(pairs), max(sum(map(len, pair)) for pair in pairs)
    out = {name: np.zeros((rows, length), np.int32) for name in ("tokens", "positions", "lo", "hi")}
    out["hi"] += 1
    left_at, right_at = np.zeros((rows, 1), np.int32), np.zeros((rows, 1), np.int32)
    for row, (prompt, chosen, rejected) in enumerate(pairs):
        a, b = len(chosen), len(chosen) + len(prompt)
        end = b + len(rejected)
        k = np.arange(end)
        out["tokens"][row, :end] = [*reversed(chosen), *prompt, *rejected]
        out["positions"][row, :end] = np.where(k < a, b - 1 - k, k - a)
        out["lo"][row, :end] = np.where(k < a, k, a)
        out["hi"][row, :end] = np.where(k < a, b, k + 1)
        right_at[row] = end - 1
    pad = out["positions"].shape[1]
    lengths = np.array([sum(map(len, pair)) for pair in pairs])[:, None]
    index = np.broadcast_to(np.arange(pad, dtype=np.int32), (rows, pad))
    out["lo"] = np.where(index >= lengths, index, out["lo"]).astype(np.int32)
    out["hi"] = np.where(index >= lengths, index + 1, out["hi"]).astype(np.int32)
    return {**out, "left_at": left_at, "right_at": right_at}


def rewards(
    model: ModelConfig, params: reward.Params, sequences: Sequence[Sequence[int]], *, dtype: str = "float32"
) -> np.ndarray:
    """Ours of each sequence, float32 [sequences]."""
    options = reward.Options(dtype=dtype)
    _, right = jax.jit(lambda p, b: reward.rewards(model, p, b, options))(params, of_sequences(sequences))
    return np.asarray(right)[:, 0]


def one_device() -> jax.sharding.Mesh:
    """A mesh of the first device alone."""
    return meshes.make_mesh((1, 1, 1), jax.devices()[:1])
