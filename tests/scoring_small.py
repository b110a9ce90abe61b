"""A small random reward model as a Hugging Face directory, for tests of scoring and serving."""

from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from rewardscale.config import ModelConfig
from rewardscale.data.chat import load_chat_tokenizer
from rewardscale.mesh import make_mesh
from rewardscale.models import hf, hf_config, reward
from tests.models import plain
from tests.tokenizers_small import llama3_directory, qwen3_directory

CONTEXT = 256
WORDS = [
    "tea",
    "warms",
    "and",
    "calms",
    "they",
    "say",
    "but",
    "coffee",
    "wakes",
    "the",
    "house",
    "before",
    "dogs",
    "do",
]


def model_directory(
    path: Path,
    *,
    family: str = "llama",
    seed: int = 0,
    width: int = 64,
    layers: int = 2,
    context: int = CONTEXT,
) -> Path:
    """Writes a model with tokenizer and template to `path`."""
    tokenizer = (llama3_directory if family == "llama" else qwen3_directory)(
        path.with_name(f"{path.name}-tokenizer")
    )
    chat = load_chat_tokenizer(tokenizer)
    model = ModelConfig(
        vocab_size=chat.vocab_size, width=width, layers=layers, heads=4, kv_heads=2, head_dim=width // 4,
        mlp_width=2 * width, norm_epsilon=1e-5, qk_norm=family == "qwen3", embedding_sd=0.5, head_sd=0.5,
    )  # fmt: skip
    config = hf_config.write_config(model, context=context, pad_token_id=chat.pad_token_id, dtype="float32")
    hf.export(path, reward.init(model, (seed,)), model, config, files=chat.files)
    return path


def one_device() -> Mesh:
    """A mesh of the first device."""
    return make_mesh((1, 1, 1), jax.devices()[:1])


def text(random: np.random.Generator, shortest: int, longest: int) -> str:
    """Random words."""
    return " ".join(random.choice(WORDS, random.integers(shortest, longest + 1)))


def comparisons(
    count: int, *, seed: int = 0, responses: tuple[int, int] = (1, 4)
) -> list[tuple[list, list[str]]]:
    """(prompt messages, responses) of varied numbers and lengths, within CONTEXT."""
    random = np.random.default_rng(seed)
    out = []
    for _ in range(count):
        prompt = [{"role": "user", "content": text(random, 1, 20)}]
        many = int(random.integers(responses[0], responses[1] + 1))
        out.append((prompt, [text(random, 1, 25) for _ in range(many)]))
    return out


def plain_rewards(directory: Path, conversations: list[list[int]]) -> list[float]:
    """Each conversation of token ids alone, from the exported weights, by the plain NumPy decoder."""
    checkpoint = hf.open_checkpoint(directory)
    params = jax.device_get(hf.load(checkpoint, make_mesh((1, 1, 1), jax.devices()[:1])))
    return [plain.reward(checkpoint.model, params, np.asarray(ids)) for ids in conversations]
