"""What a training would take, from its config alone: pairs, tokens, steps, FLOPs, rows, hours. Arithmetic.

No weights, data or accelerator are needed, and nothing is measured: sizes and the share of peak that chips reach are
taken from `config.assumed` (config:Assumed), and the page says so. `step_job` is the same training's optimizer step
as the TPU compiler is asked about it (training/planning.py).
"""

import dataclasses
import math
from pathlib import Path

import numpy as np

from rewardscale import flops, mesh
from rewardscale.config import ConfigError, ModelConfig, TrainConfig
from rewardscale.data import pipeline
from rewardscale.data import rows as tree_rows
from rewardscale.data.chat import load_chat_tokenizer
from rewardscale.data.tokenised import open_view
from rewardscale.models import hf, presets
from rewardscale.training import planning

PAPER = ("H800", 64)  # what arXiv 2507.01352 trained on


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Trees of the data, per pair.

    Attributes:
      tokens, keys: mean tokens of a tree and (token, key) pairs in it. apart: both where a prompt is computed once a
        response. kept: share of the pairs that are not too long. slots: trees that a row must have room for.
      source: where they come from, for people.
    """

    tokens: float
    keys: float
    apart: tuple[float, float]
    kept: float
    slots: int
    source: str


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What a training takes.

    Attributes:
      model, sizes: what is trained, on what. pairs: trained on, a pass. steps, batch: of how many pairs.
      tokens: of the whole training. flops: of it, `flops_apart` with each prompt computed once a response.
      rows: full rows that a step's tokens need. together: rows of a microbatch. microbatches: that hold them.
      filled: share of their tokens in trees.
      chips: of the slice. peak: bfloat16 operations a second of one. hours: of the slice; 0 without a slice.
    """

    model: ModelConfig
    sizes: Sizes
    pairs: int
    steps: int
    batch: int
    tokens: float
    flops: float
    flops_apart: float
    rows: int
    together: int
    microbatches: int
    filled: float
    chips: int
    peak: float
    hours: float


def model_of(config: TrainConfig) -> ModelConfig:
    """The decoder that a config trains, its weights left where they are.

    Raises ConfigError for a name that only the hub knows, or for none, and what a checkpoint's folder raises.
    """
    name = config.model
    if not name:
        raise ConfigError("config.model is empty: name a Hugging Face folder or a preset ('qwen3-0.6b')")
    published = {backbone.hub: backbone for backbone in presets.BACKBONES.values()} | presets.BACKBONES
    if name in published:
        found = published[name].model
    elif Path(name).is_dir():
        found = hf.open_checkpoint(name).model
    elif "/" in name:
        raise ConfigError(
            f"config.model={name!r} is no folder, and no preset's hub id ({', '.join(sorted(published))})"
        )
    elif not config.tokenizer and not presets.is_convex(name):
        raise ConfigError(f"config.model={name!r} has its tokenizer's vocabulary: name config.tokenizer")
    else:
        vocabulary = 0 if presets.is_convex(name) else load_chat_tokenizer(Path(config.tokenizer)).vocab_size
        found = presets.get_model(name, vocab_size=vocabulary)
    if not isinstance(found, ModelConfig):
        raise ConfigError(f"config.model={name!r} is a convex model, which a sweep fits; name a transformer")
    return config.recipe.adapt(found)


def step_job(
    config: TrainConfig,
    *,
    topology: str = "",
    slots: int = 0,
    effort: str = "O0",
    model: ModelConfig | None = None,
) -> planning.Job:
    """One optimizer step as it is compiled, or reckoned of GPUs: the recipe's types, the runtime's mesh and rows.

    Args:
      topology: instead of config.assumed's. slots: trees a row; 0 takes what assumed lengths need.
      model: what config.model stands for, if known.

    Raises ConfigError where something of it is not said.
    """
    topology, runtime = topology or config.assumed.topology, config.runtime
    if not topology or not runtime.row_length:
        raise ConfigError(
            f"topology={topology!r}, config.runtime.row_length={runtime.row_length}: a step is planned for a slice "
            "(--topology, or config.assumed.topology) and rows of a stated length"
        )
    model = model or model_of(config)
    shape = planning.mesh_over(topology, runtime.mesh, model=model)
    return planning.Job(
        "train",
        model,
        topology,
        shape,
        rows=_rows(config, shape) // (shape[0] * shape[1]),
        length=runtime.row_length,
        slots=slots or assumed_sizes(config).slots,
        storage=config.recipe.storage,
        remat=runtime.remat,
        attention=runtime.attention,
        effort=effort,
    )


def _rows(config: TrainConfig, shape: tuple[int, int, int]) -> int:
    """Rows of a microbatch: as many as asked for, and no fewer than are dealt evenly over data x fsdp."""
    parts = shape[0] * shape[1]
    return -(-config.runtime.rows_per_microbatch // parts) * parts


def assumed_sizes(config: TrainConfig) -> Sizes:
    """Of pairs that all have the assumed lengths. A row has room for twice as many of them as fit, a power of two."""
    prompt, response = config.assumed.prompt, config.assumed.response
    tokens = prompt + 2 * response
    fit = max(1, int(2 * config.runtime.row_length / tokens))
    return Sizes(
        tokens=tokens,
        keys=flops.tree_keys(prompt, response, response),
        apart=(2 * (prompt + response), 2 * flops.tree_keys(prompt, response)),
        kept=1.0,
        slots=1 << (fit - 1).bit_length(),
        source=f"assumed: prompts {prompt:g}, responses {response:g} tokens, all alike",
    )


def measured_sizes(config: TrainConfig, folder: Path) -> Sizes:
    """Of the pairs of a tokenised view, or of a corpus that has one.

    Raises ConfigError for a folder that holds no view or several, or whose pairs are all too long.
    """
    found = [folder] if (folder / "view.json").is_file() else sorted(folder.glob("views/[!.]*/"))
    if len(found) != 1:
        raise ConfigError(
            f"--lengths={folder}: {len(found) or 'no'} tokenised views there; name a folder of corpus/views/"
        )
    try:
        return sizes_of(config, np.asarray(open_view(found[0]).lengths), source=f"of {folder}")
    except ConfigError as error:
        raise ConfigError(f"--lengths={folder}: {error}") from error


def sizes_of(config: TrainConfig, lengths: np.ndarray, *, source: str) -> Sizes:
    """Of pairs with these tokens of prompt and responses, [pairs, 1 + K], fitted to the recipe's longest length.

    Raises ConfigError if none fits.
    """
    recipe, runtime, table = config.recipe, config.runtime, lengths[:, :3].astype(np.int64)
    keep, skip = tree_rows.fit_to(
        table, np.arange(len(table)), max_length=recipe.max_length, too_long=recipe.too_long
    )
    if not keep.any():
        raise ConfigError(f"all {len(table)} pairs are longer than recipe.max_length={recipe.max_length}")
    prompt, left, right = (table - skip[:, None] * [1, 0, 0])[keep].astype(np.float64).T
    keys = flops.tree_keys(prompt, left, right)
    sizes = pipeline.capacity(
        table,
        pairs_per_step=recipe.pairs_per_step,
        row_length=runtime.row_length or int(table.sum(1).max()),
        rows_per_microbatch=runtime.rows_per_microbatch,
    )
    again = prompt * (prompt + 1) / 2  # a prompt's own keys, paid twice
    return Sizes(
        tokens=float((prompt + left + right).mean()),
        keys=float(keys.mean()),
        apart=(float((2 * prompt + left + right).mean()), float((keys + again).mean())),
        kept=float(keep.mean()),
        slots=sizes.slots,
        source=f"{source}: means of the {int(keep.sum()):,} of {len(keep):,} pairs that fit {recipe.max_length:,} "
        "tokens",
    )


def estimate(
    config: TrainConfig, sizes: Sizes | None = None, *, model: ModelConfig | None = None
) -> Estimate:
    """What the training of a config takes, on pairs of these sizes or of the assumed ones.

    `model` is what config.model stands for, if known. Rows are taken to be packed without gaps, and the padding of the
    last microbatch is paid for. Raises ConfigError.
    """
    sizes, recipe, assumed = sizes or assumed_sizes(config), config.recipe, config.assumed
    if not assumed.pairs:
        raise ConfigError("config.assumed.pairs is 0: say how many pairs there are")
    model, pairs = model or model_of(config), round(assumed.pairs * sizes.kept)
    batch, positions = recipe.batch_size(pairs), recipe.positions(pairs)
    tokens = positions * sizes.tokens
    operations, apart = (
        flops.training_flops(model, tokens=positions * each, keys=positions * keys)
        for each, keys in ((sizes.tokens, sizes.keys), sizes.apart)
    )
    chips = planning.chips(assumed.topology) if assumed.topology else 0
    shape = planning.mesh_over(assumed.topology, config.runtime.mesh, model=model) if chips else (1, 1, 1)
    length, together = config.runtime.row_length or round(sizes.tokens), _rows(config, shape)
    rows = math.ceil(batch * sizes.tokens / length)
    microbatches = -(-rows // together)
    filled = batch * sizes.tokens / (microbatches * together * length)
    kind = assumed.topology.partition(":")[0]
    peak = mesh.bf16_peak(kind if planning.is_gpu(assumed.topology) else f"tpu {kind}") or 0.0
    seconds = operations / (chips * peak * assumed.mfu * filled) if chips else 0.0
    return Estimate(
        model=model,
        sizes=sizes,
        pairs=pairs,
        steps=recipe.steps(pairs),
        batch=batch,
        tokens=tokens,
        flops=operations,
        flops_apart=apart,
        rows=rows,
        together=together,
        microbatches=microbatches,
        filled=filled,
        chips=chips,
        peak=peak,
        hours=seconds / 3600,
    )


def page(config: TrainConfig, found: Estimate, *, spec: str) -> str:
    """For people: every number with what it rests on. `spec` names the config file."""
    recipe, runtime, assumed, sizes = config.recipe, config.runtime, config.assumed, found.sizes
    whole, trunk = (flops.parameters(found.model, embeddings=e) for e in (True, False))
    lost = assumed.pairs - found.pairs
    passes = "1 epoch" if recipe.epochs == 1 else f"{recipe.epochs:g} epochs"
    lines = [
        f"model    {config.model}: {whole / 1e9:.2f}B parameters, {trunk / 1e9:.2f}B without embeddings; "
        f"{recipe.dtype} compute, {recipe.parameters} parameters, {recipe.moments} moments",
        f"data     {found.pairs:,} pairs x {passes} x {sizes.tokens:,.0f} tokens = {found.tokens / 1e9:,.2f}G tokens"
        + (f"; {lost:,} of {assumed.pairs:,} pairs too long" if lost else ""),
        f"         lengths {sizes.source}",
        f"steps    {found.steps:,} of {found.batch:,} pairs, at most {recipe.max_length:,} tokens each; "
        f"rate {recipe.learning_rate:g}, {recipe.schedule} after a warm-up of {recipe.warmup:.0%}",
        f"FLOPs    {found.flops:.3g}; {found.flops_apart:.3g} where a prompt is computed once a response, not once "
        "a pair",
        "         a multiply-add is 2, a step 3 forward passes, attention causal; look-ups and recomputation are 0",
        f"rows     {found.rows:,} of {runtime.row_length or round(sizes.tokens):,} tokens a step at least, in "
        f"{found.microbatches} microbatches of {found.together}: {found.filled:.0%} filled",
        *_hours(config, found),
    ]
    if assumed.topology and runtime.row_length and not planning.is_gpu(assumed.topology):
        lines.append(f"compile  python -m rewardscale.plan --config={spec}")
    return "\n".join([*lines, "Nothing was measured or run."])


def _hours(config: TrainConfig, found: Estimate) -> list[str]:
    """Lines of hours: on the stated slice, and on the paper's GPUs."""
    assumed, (kind, count) = config.assumed, PAPER
    share, peak = assumed.mfu, mesh.bf16_peak(kind)
    assert peak is not None
    theirs = found.flops_apart / (peak * share) / 3600
    last = (
        f"{theirs:,.0f} hours of an {kind} ({peak / 1e12:,.0f} TFLOP/s), {theirs / count:,.1f} of the paper's {count}, "
        "prompts twice, rows full"
    )
    if not found.chips:
        return [f"time     at {share:.0%} (assumed) of peak: {last}; config.assumed.topology states no slice"]
    return [
        f"time     {found.hours:,.1f} hours x {found.chips} chips of {assumed.topology} = "
        f"{found.hours * found.chips:,.0f} chip hours, at {share:.0%} (assumed) of {found.peak / 1e12:,.0f} TFLOP/s, "
        "rows filled so",
        f"         at the same share: {last}",
    ]
