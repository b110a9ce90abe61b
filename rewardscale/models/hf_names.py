"""Where each tensor of a Hugging Face checkpoint lies in our parameter tree."""

import math
import re

import jax

from rewardscale.config import ModelConfig
from rewardscale.models import reward

EMBEDDING, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "score.weight"
Path = tuple[str, ...]

# Our path -> (their name, how many of our axes after the layer axis are inputs). Their matrices are [outputs, inputs].
_LAYER = {
    ("attention", "q"): ("self_attn.q_proj", 1),  # [D, H, d]
    ("attention", "k"): ("self_attn.k_proj", 1),
    ("attention", "v"): ("self_attn.v_proj", 1),
    ("attention", "o"): ("self_attn.o_proj", 2),  # [H, d, D]
    ("attention", "q_norm", "scale"): ("self_attn.q_norm", 0),
    ("attention", "k_norm", "scale"): ("self_attn.k_norm", 0),
    ("mlp", "gate"): ("mlp.gate_proj", 1),  # [D, F]
    ("mlp", "up"): ("mlp.up_proj", 1),
    ("mlp", "down"): ("mlp.down_proj", 1),  # [F, D]
    ("attention_norm", "scale"): ("input_layernorm", 0),
    ("mlp_norm", "scale"): ("post_attention_layernorm", 0),
}


_OTHERS = {("embedding",): EMBEDDING, ("norm", "scale"): NORM, ("head",): HEAD}


def expected(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Their tensors of a reward model, and the shape of each."""
    out: dict[str, tuple[int, ...]] = {}
    for entries, leaf in jax.tree_util.tree_leaves_with_path(reward.abstract(model)):
        path = tuple(entry.key for entry in entries)
        names, inputs = theirs(path, model)
        shape = leaf.shape[1:] if path[0] == "blocks" else leaf.shape
        if path[0] == "embedding":
            shape = (model.vocab_size, model.width)  # without our padding
        elif path[0] == "head":
            shape = (1, model.width)
        elif inputs:
            shape = (math.prod(shape[inputs:]), math.prod(shape[:inputs]))
        out |= dict.fromkeys(names, shape)
    return out


def theirs(path: Path, model: ModelConfig) -> tuple[list[str], int]:
    """Their names of our array at `path` (one a layer, if it is stacked), and how many of its axes are inputs.

    0 inputs: no matrix, or one that lies the same way round (the embedding).
    """
    if path[0] != "blocks":
        return [_OTHERS[path]], 0
    name, inputs = _LAYER[path[1:]]
    return [f"model.layers.{layer}.{name}.weight" for layer in range(model.layers)], inputs


def ours(name: str) -> tuple[Path, int | None, int]:
    """The inverse: our path, the layer (None where there is none), and how many axes after it are inputs."""
    layered = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.weight", name)
    if layered:
        path, inputs = next((p, i) for p, (theirs, i) in _LAYER.items() if theirs == layered[2])
        return ("blocks", *path), int(layered[1]), inputs
    return next(path for path, theirs in _OTHERS.items() if theirs == name), None, 0
