"""Parameters, floating-point operations and bytes of a reward model: pure arithmetic, no accelerator.

Conventions: a multiply-add is 2 operations; a training step costs 3 forward passes (forward,
gradient of inputs, gradient of weights), of frozen kernels 2; the embedding look-up costs nothing; attention
is counted over the keys that a token may see (causal halving), per tree: response tokens see the prompt and
their own response, never the other response. Layers are whole, unless what the last one leaves out is given.

Two counts of the same pairs go into the two shares of a chip's peak (MFU) that are recorded and printed:
    hardware    what is computed for a pair's own tokens: a shared prompt once, the last layer less what it leaves out
    effective   the same pairs with prompts apart and every layer whole: what a trainer without either would compute
Padding and what is computed again in the backward pass are in neither.
"""

from collections.abc import Sequence
from typing import Any

from rewardscale.config import ModelConfig, Storage

_BYTES = {"float32": 4, "bfloat16": 2}


def kernel_shapes(model: ModelConfig) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of a layer's kernels by name (config.KERNELS)."""
    width, queries, keys = model.width, model.heads * model.head_dim, model.kv_heads * model.head_dim
    attention = {"q": (width, queries), "k": (width, keys), "v": (width, keys), "o": (queries, width)}
    mlp = {"gate": (width, model.mlp_width), "up": (width, model.mlp_width), "down": (model.mlp_width, width)}
    return attention | mlp


def _kernel_parameters(model: ModelConfig) -> int:
    return sum(into * out for into, out in kernel_shapes(model).values())


def layer_parameters(model: ModelConfig) -> int:
    """Parameters of one decoder layer, norms included, adapters not."""
    return _kernel_parameters(model) + 2 * model.width + (2 * model.head_dim if model.qk_norm else 0)


def adapter_parameters(model: ModelConfig) -> int:
    """Parameters of the adapters of all layers."""
    if model.lora is None:
        return 0
    shapes = kernel_shapes(model)
    return model.layers * model.lora.rank * sum(sum(shapes[name]) for name in model.lora.targets)


def parameters(model: ModelConfig, *, embeddings: bool) -> int:
    """Parameters of the reward model (layers, final norm, head), with or without the embedding table.

    The table is counted with the `vocab_size` rows that can be used, not with its padding; adapters are not counted:
    they are merged in the end.
    """
    trunk = model.layers * layer_parameters(model) + 2 * model.width
    return trunk + (model.vocab_size * model.width if embeddings else 0)


def forward_flops(model: ModelConfig, *, tokens: Any, keys: Any, left_out: tuple[Any, Any] = (0, 0)) -> Any:
    """Operations of one forward pass over `tokens` tokens that see `keys` (token, key) pairs in all.

    Takes numbers or arrays of them. `left_out`: the tokens, and the keys that they see, of which the last layer
    computes keys and values alone.
    """
    matmul = 2.0 * (model.layers * _kernel_parameters(model) * tokens - _late(model) * left_out[0])
    attention = 4.0 * model.heads * model.head_dim * (model.layers * keys - left_out[1])
    return (
        matmul + attention + 2.0 * (adapter_parameters(model) * tokens - _late_adapters(model) * left_out[0])
    )


def _late(model: ModelConfig) -> int:
    """Parameters of a layer's kernels that its keys and values do not need."""
    return sum(into * out for name, (into, out) in kernel_shapes(model).items() if name not in ("k", "v"))


def _late_adapters(model: ModelConfig) -> int:
    """The same of its adapters."""
    if model.lora is None:
        return 0
    shapes = kernel_shapes(model)
    return model.lora.rank * sum(sum(shapes[name]) for name in model.lora.targets if name not in ("k", "v"))


def tree_keys(prompt: Any, *responses: Any) -> Any:
    """(token, key) pairs of a tree, a prompt shared by its responses; takes numbers of tokens or arrays of them."""
    total = prompt * (prompt + 1) / 2
    return total + sum(r * prompt + r * (r + 1) / 2 for r in responses)


def comparison_flops(
    model: ModelConfig, prompt: int, responses: Sequence[int], *, shared: bool = True
) -> float:
    """Operations of scoring one comparison: a prompt and its responses, all in tokens.

    The prompt is computed once, or once a response if it is not `shared`.
    """
    if shared:
        tokens, keys = prompt + sum(responses), tree_keys(prompt, *responses)
    else:
        tokens, keys = sum(prompt + r for r in responses), sum(tree_keys(prompt, r) for r in responses)
    return forward_flops(model, tokens=tokens, keys=keys)


def training_flops(model: ModelConfig, *, tokens: Any, keys: Any, left_out: tuple[Any, Any] = (0, 0)) -> Any:
    """Operations of forward and backward passes over trees of `tokens` tokens and `keys` (token, key) pairs.

    `left_out` as of `forward_flops`.
    """
    forward = forward_flops(model, tokens=tokens, keys=keys, left_out=left_out)
    if model.lora is None:
        return 3.0 * forward
    frozen = model.layers * _kernel_parameters(model) * tokens - _late(model) * left_out[0]
    return 3.0 * forward - 2.0 * frozen  # no gradient of frozen kernels


def pair_flops(
    model: ModelConfig,
    prompt: Any,
    chosen: Any,
    rejected: Any,
    *,
    shared: bool = True,
    pruned: bool = False,
) -> Any:
    """Operations of training on a pair, forward and backward; takes numbers of tokens or arrays of them.

    The prompt is computed once, or once a response if it is not `shared`; the last layer at the reward tokens alone
    if `pruned`.
    """
    if shared:
        tokens, keys = prompt + chosen + rejected, tree_keys(prompt, chosen, rejected)
    else:
        tokens = 2 * prompt + chosen + rejected
        keys = tree_keys(prompt, chosen) + tree_keys(prompt, rejected)
    read = 2, 2 * prompt + chosen + rejected  # the reward tokens, and the keys that they see
    left_out = (tokens - read[0], keys - read[1]) if pruned else (0, 0)
    return training_flops(model, tokens=tokens, keys=keys, left_out=left_out)


def state_bytes(model: ModelConfig, storage: Storage) -> dict[str, int]:
    """Bytes of what training keeps, all devices together, by kind; padding of the vocabulary included.

    "parameters" (adapters too), "master" (float32 copies of trained parameters that are stored in bfloat16),
    "moments" (two a trained parameter), "gradients" (their sum; the gradient of the microbatch that is being added
    comes on top while a step runs). The first three are what a checkpoint holds.
    """
    matrices = model.padded_vocab_size * model.width + model.layers * _kernel_parameters(model)
    whole = parameters(model, embeddings=False) + model.padded_vocab_size * model.width
    adapters = adapter_parameters(model)
    trained = adapters + model.width if model.lora else whole
    narrow = storage.parameters != "float32"
    return {
        "parameters": matrices * _BYTES[storage.parameters] + 4 * (whole - matrices + adapters),
        "master": 4 * trained if narrow and model.lora is None else 0,
        "moments": 2 * trained * _BYTES[storage.moments],
        "gradients": trained * _BYTES[storage.gradients],
    }


def layer_activation_bytes(model: ModelConfig, *, tokens: float) -> float:
    """Bytes of what one layer computes for `tokens` tokens in bfloat16, attention's scores left out.

    Inputs and outputs of both norms and both halves, projections before and after rotation, SwiGLU's four vectors.
    """
    queries, keys = model.heads * model.head_dim, model.kv_heads * model.head_dim
    return 2.0 * tokens * (4 * model.width + 3 * queries + 4 * keys + 4 * model.mlp_width)


def activation_bytes(model: ModelConfig, *, tokens: float, remat: str) -> float:
    """Bytes that a training step holds for `tokens` tokens in bfloat16: what each layer saves, and one layer at work.

    `remat` is a name of config.REMAT; where nothing is recomputed, norms keep what they got and what they made of it in
    float32. Attention's scores are left out.
    """
    queries, keys = model.heads * model.head_dim, model.kv_heads * model.head_dim
    norms = 2 * model.width + (queries + keys if model.qk_norm else 0)
    products = 3 * model.width + queries + 2 * keys + 2 * model.mlp_width
    saved = {"full": model.width, "attention": model.width + queries, "dots": products}
    whole = layer_activation_bytes(model, tokens=tokens)
    layer = whole + 2 * 4.0 * tokens * norms if remat == "none" else 2.0 * tokens * saved[remat]
    return model.layers * layer + whole


def device_bytes(
    model: ModelConfig, storage: Storage, *, devices: int, rows: int, length: int, remat: str, queries: int
) -> dict[str, float]:
    """Bytes of one of `devices` devices that share the state (FSDP), by kind: arithmetic, nothing measured.

    On top of `state_bytes`: the gradient of one microbatch, two gathered layers (with more than one device), the
    activations of `rows` rows, and the scores of `queries` queries a row with their weights and both cotangents.
    """
    kept = {name: value / devices for name, value in state_bytes(model, storage).items()}
    kept["microbatch"] = kept["gradients"] * _BYTES[storage.parameters] / _BYTES[storage.gradients]
    kept["gathered"] = 2.0 * 2 * layer_parameters(model) if devices > 1 else 0.0
    kept["activations"] = activation_bytes(model, tokens=rows * length, remat=remat)
    kept["scores"] = 12.0 * rows * model.heads * queries * length
    return kept
