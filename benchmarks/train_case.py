"""The pairs that benchmarks/train_step.py and benchmarks/score.py give to both sides, and the operations they cost.

A case is a folder: `case.npz` (lengths, tokens, where pairs lie in rows), `model.json` (a config.json of Hugging
Face) and `settings.json` (`Settings`, as JSON). Weights are not in it: each side draws its own, so a large model
costs no disk.
"""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.input import drawn
from rewardscale import flops
from rewardscale.config import ModelConfig
from rewardscale.data import packing, tokenised
from rewardscale.models import hf_config, presets

# Mean tokens of a prompt and of a response, pairs, tokens a row; lognormal (benchmarks/input.py).
MIXES = {
    "short chat": (60, 120, 128, 1024),
    "long prompt": (400, 60, 64, 2048),
    "long both": (250, 250, 64, 2048),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all arms of a table have in common.

    Attributes:
      device: "cpu" or "gpu". model: a preset's name. vocabulary: tokens of presets that have none of their own.
      step: pairs an optimizer step. rows: rows a microbatch of ours and of PyTorch's packed arms.
      parameters, moments, gradients: the types of `config.Storage` for ours. Where `parameters` is bfloat16 so are
        PyTorch's weights and moments, without a master copy: it then moves and holds less than ours.
      remat: of ours. attention: of ours on a GPU ("auto" or "cudnn").
      peer_pairs: pairs a microbatch of PyTorch's padded arms. peer_checkpointing: gradient checkpointing in its loops.
    """

    device: str = "cpu"
    model: str = "d4"
    vocabulary: int = 2048
    step: int = 64
    rows: int = 4
    parameters: str = "float32"
    moments: str = "float32"
    gradients: str = "float32"
    remat: str = "none"
    attention: str = "auto"
    peer_pairs: int = 8
    peer_checkpointing: bool = False


def model_of(settings: Settings) -> ModelConfig:
    """The decoder that both sides train. Raises ConfigError for a name of none."""
    model = presets.get_model(settings.model, vocab_size=settings.vocabulary)
    if not isinstance(model, ModelConfig):
        raise presets.ConfigError(f"--model={settings.model}: a decoder is wanted, e.g. d4 or qwen3-0.6b")
    return model


def check(parser: argparse.ArgumentParser, settings: Settings) -> None:
    """Says that --model names no decoder, before anything runs, as `parser` says what else is wrong."""
    try:
        model_of(settings)
    except presets.ConfigError as error:
        parser.error(str(error))


def lengths(mix: str, *, pairs: int = 0, row: int = 0) -> tuple[np.ndarray, int]:
    """int64 [pairs, 3] of prompt, chosen and rejected that fit a row with the prompt twice, and the row's length.

    `pairs` and `row` stand for the mix's own where they are not 0.
    """
    prompt, response, own_pairs, own_row = MIXES[mix]
    pairs, row = pairs or own_pairs, row or own_row
    table = drawn((prompt, response, response), 8 * pairs)
    return table[(table * [2, 1, 1]).sum(1) <= row][:pairs], row


def of_view(folder: Path, *, pairs: int = 0, row: int = 0) -> tuple[np.ndarray, int]:
    """The same of a tokenised view: pairs evenly spread over those that fit (64 in rows of 2,048 by default).

    Raises DataError if `folder` is no view, ValueError if none of its pairs fits.
    """
    pairs, row = pairs or 64, row or 2048
    table = np.asarray(tokenised.open_view(folder).lengths[:, :3], np.int64)
    table = table[(table > 0).all(1) & ((table * [2, 1, 1]).sum(1) <= row)]
    if not len(table):
        raise ValueError(f"{folder}: no pair fits a row of {row} tokens; give a larger --row_length")
    return table[np.linspace(0, len(table) - 1, min(pairs, len(table))).astype(np.int64)], row


def write(folder: Path, table: np.ndarray, row: int, settings: Settings) -> dict[str, float]:
    """Writes a case of training; returns how full rows are, by layout."""
    case: dict[str, Any] = {}
    filled = {}
    for layout, sizes in (("separate", (table * [2, 1, 1]).sum(1)), ("shared", table.sum(1))):
        plan = packing.make_plan(
            sizes, batch=settings.step, row_length=row, rows_per_microbatch=settings.rows
        )
        case |= {f"{layout}_step": np.repeat(np.arange(plan.steps), np.diff(plan.starts))}
        case |= {f"{layout}_row": plan.row, f"{layout}_offset": plan.offset, f"{layout}_slot": plan.slot}
        case |= {f"{layout}_shape": (settings.rows, row)}
        filled[layout] = plan.efficiency
    write_tokens(folder, table, settings, **case)
    return filled


def write_tokens(folder: Path, table: np.ndarray, settings: Settings, **more: Any) -> None:
    """Writes a case of comparisons [n, 1 + K] of random tokens, and `more` arrays."""
    model = model_of(settings)
    tokens = np.random.default_rng(1).integers(2, model.vocab_size, int(table.sum()))
    np.savez(folder / "case.npz", lengths=table, tokens=tokens, **more)
    theirs = hf_config.write_config(model, pad_token_id=0, context=1 << 15, dtype="float32")
    (folder / "model.json").write_text(json.dumps(theirs))
    (folder / "settings.json").write_text(json.dumps(dataclasses.asdict(settings)))


def read_settings(folder: Path) -> Settings:
    """The settings of a case."""
    return Settings(**json.loads((folder / "settings.json").read_text()))


def operations(model: ModelConfig, table: np.ndarray, *, shared: bool, pruned: bool) -> float:
    """Of training on all pairs of a table once, forward and backward, as rewardscale/flops.py counts."""
    return float(flops.pair_flops(model, *table.T.astype(float), shared=shared, pruned=pruned).sum())
