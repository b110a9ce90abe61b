"""config.json of Hugging Face's Llama and Qwen3 models, to a ModelConfig and back.

What our decoder does not compute is refused by name, never ignored: biases, sliding windows, other rotary scalings,
quantised weights, code of its own.
"""

import difflib
from collections.abc import Mapping
from typing import Any

from rewardscale.config import ConfigError, ModelConfig, RopeScaling
from rewardscale.models.presets import head_sd

FAMILIES = {"llama": "Llama", "qwen3": "Qwen3"}
CAUSAL, CLASSIFIER = "ForCausalLM", "ForSequenceClassification"
ARCHITECTURES = tuple(name + kind for name in FAMILIES.values() for kind in (CAUSAL, CLASSIFIER))
_THETA = 10_000.0  # what transformers takes where config.json is silent
_CONTEXT = {"llama": 2048, "qwen3": 32_768}


class CheckpointError(ConfigError):
    """A checkpoint that cannot be used; the message names the file or tensor and the mend."""


def read_config(config: Mapping[str, Any], where: str) -> ModelConfig:
    """The decoder that a config.json describes; defaults are those of transformers 5.

    Args:
      config: config.json as read. where: its path, for messages.

    Raises CheckpointError naming the key that stands in the way.
    """
    family = family_of(config, where)
    _refuse_unknown_features(config, where)
    heads, width = _whole(config, "num_attention_heads", where), _whole(config, "hidden_size", where)
    theta, scaling = _rope(config, family, where)
    head_dim = config.get("head_dim") or (width // heads if family == "llama" else 128)
    try:
        return ModelConfig(
            vocab_size=_whole(config, "vocab_size", where),
            width=width,
            layers=_whole(config, "num_hidden_layers", where),
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or (heads if family == "llama" else 32),
            head_dim=head_dim,
            mlp_width=_whole(config, "intermediate_size", where),
            rope_theta=theta,
            norm_epsilon=float(config.get("rms_norm_eps", 1e-6)),
            qk_norm=family == "qwen3",
            embedding_sd=float(config.get("initializer_range", 0.02)),
            head_sd=head_sd(width),
            rope_scaling=scaling,
        )
    except CheckpointError:
        raise
    except ConfigError as error:
        raise CheckpointError(f"{where}: {error}") from error


def family_of(config: Mapping[str, Any], where: str) -> str:
    """ "llama" or "qwen3". Raises CheckpointError on another architecture, or one that brings code of its own."""
    if "auto_map" in config:
        raise CheckpointError(
            f"{where}: 'auto_map' names Python code of the checkpoint's own (trust_remote_code), and code from a "
            f"checkpoint is never run; use a checkpoint of one of {', '.join(ARCHITECTURES)}"
        )
    architecture = architecture_of(config, where)
    family = next(family for family, name in FAMILIES.items() if architecture.startswith(name))
    if config.get("model_type", family) != family:
        raise CheckpointError(
            f"{where}: model_type {config['model_type']!r} does not go with architecture {architecture!r}"
        )
    return family


def architecture_of(config: Mapping[str, Any], where: str) -> str:
    """The one architecture that config.json names. Raises CheckpointError on another one, or none."""
    named = config.get("architectures") or []
    if len(named) == 1 and named[0] in ARCHITECTURES:
        return named[0]
    if not named:
        raise CheckpointError(
            f"{where}: 'architectures' is missing; it must name one of {', '.join(ARCHITECTURES)}"
        )
    near = difflib.get_close_matches(str(named[0]), ARCHITECTURES, n=1)
    hint = f" (nearest: {near[0]})" if near else ""
    raise CheckpointError(
        f"{where}: architecture {', '.join(map(str, named))} is not known{hint}; known are {', '.join(ARCHITECTURES)}"
    )


def write_config(
    model: ModelConfig, *, pad_token_id: int, context: int, dtype: str, tied: bool = False
) -> dict[str, Any]:
    """The config.json of a reward model that was not loaded from one.

    Raises CheckpointError where Hugging Face's class cannot hold the model.
    """
    family = "qwen3" if model.qk_norm else "llama"
    if family == "llama" and model.width % model.heads:
        raise CheckpointError(
            f"transformers refuses a Llama whose width ({model.width}) is not a multiple of its heads ({model.heads})"
        )
    scaling = model.rope_scaling and {
        "rope_type": "llama3",
        "factor": model.rope_scaling.factor,
        "low_freq_factor": model.rope_scaling.low,
        "high_freq_factor": model.rope_scaling.high,
        "original_max_position_embeddings": model.rope_scaling.original,
    }
    config = {
        "model_type": family,
        "vocab_size": model.vocab_size,
        "hidden_size": model.width,
        "intermediate_size": model.mlp_width,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads,
        "head_dim": model.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": context,
        "initializer_range": model.embedding_sd,
        "rms_norm_eps": model.norm_epsilon,
        "rope_theta": model.rope_theta,
        "rope_scaling": scaling,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": tied,
        "use_cache": False,
    }
    if family == "llama":
        config |= {"mlp_bias": False, "pretraining_tp": 1}
    else:
        config |= {"use_sliding_window": False, "sliding_window": None}
    return as_classifier(config, pad_token_id=pad_token_id, dtype=dtype)


def as_classifier(config: Mapping[str, Any], *, pad_token_id: int, dtype: str) -> dict[str, Any]:
    """`config` as that of a reward model: one label, the pad token by which transformers finds the rewarded token."""
    out = dict(config)
    out |= {
        "architectures": [FAMILIES[out["model_type"]] + CLASSIFIER],
        "num_labels": 1,
        "id2label": {"0": "reward"},
        "label2id": {"reward": 0},
        "pad_token_id": pad_token_id,
        "torch_dtype": dtype,
    }
    out.pop("dtype", None)  # transformers 5 writes this one, and 4 reads the other; both read torch_dtype
    return out


def context_of(config: Mapping[str, Any]) -> int:
    """Longest sequence that the model was made for, tokens."""
    return int(config.get("max_position_embeddings") or _CONTEXT[config["model_type"]])


def _refuse_unknown_features(config: Mapping[str, Any], where: str) -> None:
    refused = {
        "attention_bias": "biases in attention",
        "mlp_bias": "biases in the MLP",
        "use_sliding_window": "sliding-window attention",
        "quantization_config": "quantised weights (load the checkpoint it was made from)",
    }
    for key, what in refused.items():
        if config.get(key):
            raise CheckpointError(
                f"{where}: {key}={config[key]!r} asks for {what}, which is not computed here"
            )
    if config.get("hidden_act", "silu") != "silu":
        raise CheckpointError(
            f"{where}: hidden_act={config['hidden_act']!r}, and only 'silu' is computed here"
        )
    other = set(config.get("layer_types") or ()) - {"full_attention"}
    if other:
        raise CheckpointError(
            f"{where}: layer_types holds {sorted(other)}, and only full_attention is computed here"
        )
    labels = config.get("num_labels", len(config.get("id2label") or {"0": ""}))
    if architecture_of(config, where).endswith(CLASSIFIER) and labels != 1:
        raise CheckpointError(
            f"{where}: the classification head has {labels} labels; a reward model has one (num_labels=1)"
        )


def _rope(config: Mapping[str, Any], family: str, where: str) -> tuple[float, RopeScaling | None]:
    """Base and scaling; transformers 4 wrote rope_theta and rope_scaling, transformers 5 writes rope_parameters."""
    found = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    theta = float(found.get("rope_theta") or config.get("rope_theta") or _THETA)
    kind = found.get("rope_type", found.get("type", "default"))
    if found.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0)) != 1.0:
        raise CheckpointError(f"{where}: partial_rotary_factor is not 1; only whole heads are rotated here")
    if kind == "default":
        return theta, None
    if kind != "llama3":
        raise CheckpointError(
            f"{where}: rope type {kind!r} is not computed here; known are 'default' and 'llama3'"
        )
    try:
        scaling = RopeScaling(
            factor=float(found["factor"]),
            low=float(found["low_freq_factor"]),
            high=float(found["high_freq_factor"]),
            original=int(
                found.get("original_max_position_embeddings") or context_of({"model_type": family, **config})
            ),
        )
    except KeyError as error:
        raise CheckpointError(f"{where}: rope scaling 'llama3' lacks {error.args[0]!r}") from error
    return theta, scaling


def _whole(config: Mapping[str, Any], key: str, where: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or value < 1:
        raise CheckpointError(f"{where}: {key}={value!r} must be a positive whole number")
    return value
