"""Products of activations with kernels, in the form that each platform is quick at.

XLA's CPU backend has matrix units (AMX) work on bfloat16 only where the axis that a product sums over lies last in its
first operand, and on batches of products only with a float32 result; others it does in float32, after casts.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.layout import Layout, with_layout_constraint

from rewardscale.config import ConfigError

# (x [..., *in], kernel [*in, *out], number of axes `in`) -> [..., *out] in x's type
Multiply = Callable[[jax.Array, jax.Array, int], jax.Array]


def multiply(x: jax.Array, kernel: jax.Array, axes: int = 1) -> jax.Array:
    """The product as XLA takes it: right for TPUs and GPUs, and for float32 anywhere."""
    return jnp.tensordot(x, kernel.astype(x.dtype), axes)


def narrow_on_cpu(x: jax.Array, kernel: jax.Array, axes: int = 1) -> jax.Array:
    """The same for bfloat16 on CPUs: summed in float32, forward and backward, then rounded to x's type.

    The kernel's gradient is not rounded where the kernel is float32.
    """
    inputs = math.prod(kernel.shape[:axes])
    out = _matrix(x.reshape(-1, inputs), kernel.reshape(inputs, -1))
    return out.reshape(*x.shape[: x.ndim - axes], *kernel.shape[axes:])


def choose(platform: str, dtype: str) -> Multiply:
    """How products are computed in `dtype` on devices of `platform`."""
    return narrow_on_cpu if platform == "cpu" and dtype == "bfloat16" else multiply


def transposed(x: jax.Array) -> jax.Array:
    """x with its last two axes exchanged in memory too: a view would keep the matrix units from the product."""
    return with_layout_constraint(x.swapaxes(-1, -2), Layout(tuple(range(x.ndim))))


def summed(x: jax.Array, y: jax.Array, axes: tuple[int, int], batch: int = 0) -> jax.Array:
    """x times y over one axis of each, the first `batch` axes going along; float32."""
    along = tuple(range(batch))
    dimensions = (((axes[0],), (axes[1],)), (along, along))
    return jax.lax.dot_general(x, y, dimensions, preferred_element_type=jnp.float32)


def rounded(x: jax.Array, y: jax.Array, axes: tuple[int, int], batch: int = 0) -> jax.Array:
    """`summed` and then rounded to x's type, without a float32 result in memory."""
    along = tuple(range(batch))
    return jax.lax.dot_general(x, y, (((axes[0],), (axes[1],)), (along, along)))


@jax.custom_vjp
def _matrix(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return rounded(x, kernel.astype(x.dtype), (1, 0))


def _matrix_forward(x: jax.Array, kernel: jax.Array) -> Any:
    return _matrix(x, kernel), (x, kernel)


def _matrix_backward(kept: tuple[jax.Array, jax.Array], cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = kept
    back = rounded(cotangent, kernel.astype(x.dtype), (1, 1))
    return back, summed(transposed(x), cotangent, (1, 0)).astype(kernel.dtype)


_matrix.defvjp(_matrix_forward, _matrix_backward)


def check(dtype: str) -> None:
    """Raises ConfigError if products in `dtype` are bfloat16's on this process's CPU, and wrong there."""
    if choose(jax.default_backend(), dtype) is narrow_on_cpu:
        check_bfloat16_on_cpu()


@functools.cache
def check_bfloat16_on_cpu() -> None:
    """A product, its gradients and a batch of attention's against float32, once a process.

    XLA was seen to lack these products in some versions, as an error at run time. Raises ConfigError if this CPU gets
    them wrong.
    """
    random = np.random.default_rng(0)
    x, kernel, out = (
        jnp.asarray(random.standard_normal(shape), jnp.bfloat16) for shape in ((64, 128), (128, 96), (64, 96))
    )

    def of(multiply: Multiply, dtype: Any) -> list[np.ndarray]:
        def product(x: jax.Array, kernel: jax.Array) -> Any:
            value, by_head = multiply(x, kernel, 1), x.reshape(4, 16, -1)
            scores = summed(by_head, by_head, (2, 2), batch=1)
            return jnp.sum(value * out.astype(dtype), dtype=jnp.float32), (value, scores)

        gradients, values = jax.jit(jax.grad(product, (0, 1), has_aux=True))(
            x.astype(dtype), kernel.astype(dtype)
        )
        return [np.asarray(array, np.float32) for array in (*values, *gradients)]

    try:
        pairs = zip(of(narrow_on_cpu, jnp.bfloat16), of(multiply, jnp.float32), strict=True)
        wrong = max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)
    except jax.errors.JaxRuntimeError as error:
        raise ConfigError(
            f'dtype="bfloat16": this CPU cannot ({error}); set recipe.dtype (or --dtype) to "float32"'
        ) from error
    if not wrong < 0.02:
        raise ConfigError(
            f'dtype="bfloat16": products on this CPU are off by {wrong:.0%}; set recipe.dtype (or --dtype) to "float32"'
        )
