"""The test that kernels of attention must pass on a device, once a process, before they are used there.

Kernels are reached by interfaces that are not public, and compilers differ from device to device: small packed trees,
forward and backward, show at once what a training would show late or never. Which kernels, and how they are called, is
the adapters' (splash.py, cudnn.py); the truth they are held against is `attention.dense`.
"""

import concurrent.futures
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Batch = Mapping[str, jax.Array]
Attention = Callable[
    [jax.Array, jax.Array, jax.Array, Batch], jax.Array
]  # q, k, v, of rows of trees -> like q

LENGTH = 384  # tokens a row, of which the sizes below speak
_TREES = (
    ((37, 61, 70), (0, 33, 20), (17, 1, 64)),
    ((90, 130, 1), (1, 7, 129), (9, 0, 14)),
)  # rows of (left, prompt, right); without a prompt, a branch of the one before


def failure(
    name: str,
    attention: Attention,
    truth: Attention,
    device: Any,
    dtype: str,
    heads: tuple[int, int, int],
    *,
    length: int = LENGTH,
    ordered: Callable[[Batch], Batch] = dict,
    branches: bool = False,
    gradients: bool = True,
) -> str:
    """What is wrong with `attention` on `device` by a test with trees in rows of `length` tokens; "" if nothing.

    Outputs and gradients must be those of `truth`, computed in float32; and when one tree is replaced, the other
    trees' outputs may not move at all, nor their gradients beyond the kernels' own noise.

    Args:
      name: of the kernels, for the answer. heads: query heads, key/value heads, numbers a head.
      ordered: puts the batch (data/rows.py) into the order that `attention` wants; `truth` gets what it returns too.
      branches: whether a tree has one. gradients: whether there are any.
    """
    # It may be asked for while a function is traced here, of which another thread knows nothing.
    with concurrent.futures.ThreadPoolExecutor(1) as apart:
        try:
            batch = sample(length, branches=branches)
            arguments = (name, attention, truth, device, dtype, heads, batch, ordered, gradients)
            return apart.submit(_tested, *arguments).result()
        except Exception as error:  # whatever an interface that is not public may raise
            return f"{name} fails its test: {error!r}"


def _tested(
    name: str,
    attention: Attention,
    truth: Attention,
    device: Any,
    dtype: str,
    heads: tuple[int, int, int],
    trees: Mapping[str, np.ndarray],
    ordered: Callable[[Batch], Batch],
    gradients: bool,
) -> str:
    random = np.random.default_rng(0)
    exact = jax.default_matmul_precision("highest")
    with jax.default_device(device):
        batch = ordered({name: jnp.asarray(array) for name, array in trees.items()})
        padding, first = (np.asarray(batch["tokens"] == n)[..., None, None] for n in (0, 1))
        of_queries, of_keys, dim = heads
        shapes = [(*padding.shape[:2], n, dim) for n in (of_queries, of_keys, of_keys, of_queries)]
        plain = [jnp.asarray(random.normal(size=shape) * ~padding, dtype) for shape in shapes]
        # Larger values, but no larger scores: of those rounding q to bfloat16 leaves too little.
        moved = [jnp.where(first, n * x[::-1, ::-1], x) for n, x in zip((1, 1, 4), plain, strict=False)]
        moved.append(plain[3])
        with exact if dtype == "float32" else contextlib.nullcontext():  # as models/reward.py computes
            before, after = map(_both_ways(attention, batch, gradients), (plain, moved))
        with exact:
            wide = ([x.astype(jnp.float32) for x in arrays] for arrays in (plain, moved))
            wanted = list(map(_both_ways(truth, batch, gradients), wide))
    for found, right in zip((before, after), wanted, strict=True):
        for what, a, b in zip(("outputs", *3 * ["gradients"]), found, right, strict=False):
            if not _near(np.where(padding, 0, a), np.where(padding, 0, b)):
                return f"{name} gives wrong {what} in its test"
    others = ~(padding | first)
    if ((before[0] != after[0]) & others).any():
        return f"{name} lets one tree's tokens see another's"
    if not all(_near(a * others, b * others) for a, b in zip(before[1:], after[1:], strict=True)):
        return f"{name} lets one tree's tokens change another's gradients"
    return ""


def sample(length: int, *, branches: bool = False) -> dict[str, np.ndarray]:
    """Two rows of trees, one of them without a left response, and padding; tokens are their tree's number from 1.

    With `branches` one has a branch, and there is "prefix".
    """
    index = np.tile(np.arange(length, dtype=np.int32), (len(_TREES), 1))
    out = {"tokens": 0 * index, "positions": 0 * index, "lo": index.copy(), "hi": index + 1}
    segments, number = np.zeros((len(_TREES), 3, 3, 2), np.int32), 0
    prefix = np.zeros((*index.shape, 2), np.int32)
    for row, trees in enumerate(_TREES):
        at = 0
        for slot, sizes in enumerate(trees):
            left, prompt, right = (n if n <= 1 else n * length // LENGTH for n in sizes)
            if not (prompt or branches):
                continue
            number, p0, p1 = number + (prompt > 0), at + left, at + left + prompt
            out["tokens"][row, at : p1 + right] = number
            if not prompt:
                prefix[row, at : p1 + right] = segments[row, slot - 1, 1].cumsum()
            out["hi"][row, at:p0], out["lo"][row, p0 : p1 + right] = p1, p0
            segments[row, slot] = (at, left), (p0, prompt), (p1, right)
            at = p1 + right
    return out | {"segments": segments} | ({"prefix": prefix} if branches else {})


def _both_ways(
    attention: Attention, batch: Batch, gradients: bool
) -> Callable[[Sequence[jax.Array]], list[np.ndarray]]:
    """Function of q, k, v and weights of the output -> output and any gradients for q, k, v, in float32."""

    def summed(
        q: jax.Array, k: jax.Array, v: jax.Array, weight: jax.Array, batch: Batch
    ) -> tuple[jax.Array, jax.Array]:
        out = attention(q, k, v, batch)
        return (out.astype(jnp.float32) * weight.astype(jnp.float32)).sum(), out

    back = jax.grad(summed, (0, 1, 2), has_aux=True)
    run = jax.jit(back if gradients else lambda *arguments: ((), summed(*arguments)[1]))

    def found(arrays: Sequence[jax.Array]) -> list[np.ndarray]:
        # The batch is an argument, as in training: what follows from it is computed on the device too.
        parts, out = run(*arrays, batch)
        return [np.asarray(x, np.float32) for x in (out, *parts)]

    return found


def _near(found: np.ndarray, wanted: np.ndarray) -> bool:
    """Within what rounding to bfloat16 explains."""
    return bool(np.abs(found - wanted).max() <= 0.03 * max(1.0, np.abs(wanted).max()))
