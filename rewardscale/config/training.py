"""How a reward model is trained (Recipe: enters the run id), and on what (Runtime: never does)."""

import dataclasses

from rewardscale.config.base import ADDED, ConfigError, choice, positive
from rewardscale.config.model import KERNELS, Lora, ModelConfig


@dataclasses.dataclass(frozen=True)
class Storage:
    """The types of what training keeps; norm scales, the head and adapters are float32 whatever they are.

    Attributes:
      parameters: what the forward pass reads. In bfloat16, trained ones have a float32 master copy, which is what
        the optimizer steps; frozen ones (under adapters) have none.
      moments: Adam's two running means. In bfloat16 they are rounded stochastically (training/optimizer.py).
      gradients: their sum over the microbatches of a step.
    """

    parameters: str = "float32"
    moments: str = "float32"
    gradients: str = "float32"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a transformer reward model is trained. All of it enters the run id.

    Attributes:
      pairs_per_step: batch size, exact; smaller (a power of two, at least `min_pairs_per_step`)
        where the run would otherwise have fewer than `min_steps` steps.
      epochs: passes over the subset (may be fractional).
      learning_rate: peak, at `pairs_per_step` pairs a step; scaled by the square root of the batch.
      schedule: "constant", "linear", "cosine" or "wsd", after `warmup` (share of the steps);
        "wsd" decays to zero over the last `cooldown` share.
      warmup_steps: warm-up as a number of steps, the same however long the run; 0: the share `warmup`.
      weight_decay: decoupled, on matrices and embeddings. clip_norm: global gradient norm.
      center: weight of (r_chosen + r_rejected)^2, which keeps rewards around zero.
      max_length: longest prompt plus response, in tokens; `too_long`: "drop" the pair or
        "truncate_left_of_prompt" (the newest part of the prompt stays).
      dtype: compute type, "float32" or "bfloat16" (head and loss stay float32).
      parameters, moments, gradients: the types of `Storage`, "float32" or "bfloat16".
      lora_rank: 0 trains everything; otherwise adapters of this rank and the head, the rest stays as it was.
        lora_alpha, lora_targets: see `Lora`.
      nonfinite: what a step does whose loss or gradient norm is not finite: "stop" ends the run; "skip" leaves
        parameters and moments as they are, counts it, and goes on (runtime.most_skipped in a row).
    """

    pairs_per_step: int = 32
    min_pairs_per_step: int = 8
    min_steps: int = 75
    epochs: float = 2.0
    learning_rate: float = 1e-3
    schedule: str = "cosine"
    warmup: float = 0.1
    cooldown: float = 0.2
    weight_decay: float = 0.1
    b1: float = 0.9
    b2: float = 0.99
    eps: float = 1e-8
    clip_norm: float = 1.0
    center: float = 0.0
    max_length: int = 1024
    too_long: str = "drop"
    dtype: str = "float32"
    parameters: str = dataclasses.field(default="float32", metadata=ADDED)
    moments: str = dataclasses.field(default="float32", metadata=ADDED)
    gradients: str = dataclasses.field(default="float32", metadata=ADDED)
    lora_rank: int = dataclasses.field(default=0, metadata=ADDED)
    lora_alpha: float = dataclasses.field(default=16.0, metadata=ADDED)
    lora_targets: tuple[str, ...] = dataclasses.field(default=KERNELS, metadata=ADDED)
    warmup_steps: int = dataclasses.field(default=0, metadata=ADDED)
    nonfinite: str = dataclasses.field(default="stop", metadata=ADDED)

    def __post_init__(self) -> None:
        choice("recipe.schedule", self.schedule, ("constant", "linear", "cosine", "wsd"))
        choice("recipe.nonfinite", self.nonfinite, ("stop", "skip"))
        choice("recipe.too_long", self.too_long, ("drop", "truncate_left_of_prompt"))
        for name in ("dtype", "parameters", "moments", "gradients"):
            choice(f"recipe.{name}", getattr(self, name), ("float32", "bfloat16"))
        if self.lora_rank < 0 or not self.lora_alpha > 0:
            raise ConfigError(
                f"recipe: lora_rank={self.lora_rank} must be 0 (no adapters) or more and "
                f"lora_alpha={self.lora_alpha} greater than 0"
            )
        if not self.lora_targets or len(set(self.lora_targets)) < len(self.lora_targets):
            raise ConfigError(
                f"recipe.lora_targets={self.lora_targets} must name at least one of {', '.join(KERNELS)}, each once"
            )
        for name in self.lora_targets:
            choice("recipe.lora_targets", name, KERNELS)
        positive(
            "recipe", self, "pairs_per_step", "min_pairs_per_step", "epochs", "learning_rate", "max_length"
        )
        if not 0 <= self.warmup <= 1 or not 0 <= self.cooldown <= 1:
            raise ConfigError("recipe.warmup and recipe.cooldown are shares of the steps: 0 to 1")
        if self.warmup_steps < 0:
            raise ConfigError(
                f"recipe.warmup_steps={self.warmup_steps} must be 0 (a share, recipe.warmup) or more"
            )

    @property
    def storage(self) -> Storage:
        """The types of what training keeps."""
        return Storage(self.parameters, self.moments, self.gradients)

    def adapt(self, model: ModelConfig) -> ModelConfig:
        """The model as it is trained: with the adapters asked for, or as it is."""
        if not self.lora_rank:
            return model
        return dataclasses.replace(model, lora=Lora(self.lora_rank, self.lora_alpha, self.lora_targets))

    def batch_size(self, pairs: int) -> int:
        """Pairs a step for a subset of `pairs` pairs."""
        wanted = max(1.0, pairs * self.epochs / max(1, self.min_steps))
        power = 1 << (int(wanted).bit_length() - 1)
        return min(self.pairs_per_step, max(self.min_pairs_per_step, power))

    def positions(self, pairs: int) -> int:
        """Training positions (pairs times epochs, rounded)."""
        return max(1, round(pairs * self.epochs))

    def steps(self, pairs: int) -> int:
        """Optimizer steps; the last one may be smaller."""
        return -(-self.positions(pairs) // self.batch_size(pairs))

    def why_no_trunk(self) -> str:
        """Empty, or why a longer run does not begin with a shorter one's steps; names the key and the mend."""
        if self.schedule not in ("wsd", "constant"):
            return f'recipe.schedule={self.schedule!r} depends on the number of steps throughout: set it to "wsd"'
        if self.warmup and not self.warmup_steps:
            return f"recipe.warmup={self.warmup} is a share of the steps: set recipe.warmup_steps, or warmup to 0"
        if self.epochs > 1:
            return f"recipe.epochs={self.epochs}: a smaller subset is repeated where a larger one goes on; set it to 1"
        return ""

    def trunk_steps(self, positions: int, batch: int) -> int:
        """How many first steps of a run on `positions` training positions are those of every longer run.

        They are the steps before the cooldown ("wsd") or all of them ("constant"), as far as they are whole: the last
        step may be smaller. 0 where `why_no_trunk`.
        """
        if self.why_no_trunk():
            return 0
        whole, steps = positions // batch, -(-positions // batch)
        if self.schedule == "constant":
            return whole
        # As training/optimizer.py:learning_rates computes it: step s is before the cooldown if this is not above 0.
        before = (s for s in range(whole, 0, -1) if (s - 0.5) / steps - (1 - self.cooldown) <= 0)
        return next(before, 0)


# Names of what a layer keeps for its backward pass (models/reward.py).
REMAT = ("none", "dots", "attention", "full")
# How attention is computed (models/attention.py).
ATTENTION = ("auto", "dense", "chunked", "windowed", "splash", "cudnn")


@dataclasses.dataclass(frozen=True)
class Runtime:
    """How the hardware is used. Never enters a run id: it changes speed and float rounding only.

    Attributes:
      mesh: devices along ("data", "fsdp", "tensor"); -1 for one axis means "all that are left".
      row_length: tokens in a packed row (0: chosen from the data). rows_per_microbatch: rows a device step.
      steps_per_dispatch: optimizer steps in one call of the compiled function.
      data_workers: grain worker processes (0: threads of this process).
      scan_layers: lax.scan over layers (quick compiles) or an unrolled loop (faster on CPUs).
      remat: what the backward pass finds saved of each layer, the rest being recomputed: "none" is recomputed,
        "dots" saves the products with weights, "attention" what attention returns, "full" recomputes all.
      attention: "dense" holds all scores, "chunked" those of some queries at a time, "windowed" leaves out keys that
        none of them sees (CPUs), "splash" is TPU kernels that hold no scores and skip what no token sees, "cudnn"
        NVIDIA's for GPUs from Hopper on; "auto" chooses by device, type and length (models/attention.py).
      share_prompts: a pair's prompt is computed once, or once a response. prune_last_layer: the last layer is computed
        at the reward tokens alone, or whole. Both save work and change nothing beyond rounding.
      checkpoint_seconds: at least this long between checkpoints; checkpoints_kept: newest ones kept.
        Two, so that a damaged one costs the time since the one before it and not the run; a run that is shorter than
        checkpoint_seconds has one anyway, so a sweep of small runs pays no disk for it.
      most_skipped: with recipe.nonfinite="skip", a run that skips more steps in a row ends.
      profile_steps: (first, last): the steps first to last - 1 are traced into the run's folder (training/profile.py).
      watchdog_seconds: a training that has not ended a block of steps for so long names its process and step and dumps
        all stacks (training/watchdog.py; 0: never). Compiling and restoring count. watchdog_exit: it then ends the
        process with exit code 75, for a cluster that starts it again.
      workers: processes that run cells side by side (0: one a core on CPU, one on accelerators).
      lease_seconds: of a workdir on an object store: a run whose machine has given no sign of life for so long is
        taken over by another one (docs/storage.md).
    """

    mesh: tuple[int, int, int] = (-1, 1, 1)
    row_length: int = 0
    rows_per_microbatch: int = 8
    steps_per_dispatch: int = 32
    data_workers: int = 0
    scan_layers: bool = True
    remat: str = "none"
    attention: str = "auto"
    share_prompts: bool = True
    prune_last_layer: bool = True
    checkpoint_seconds: float = 30.0
    checkpoints_kept: int = 2
    workers: int = 0
    lease_seconds: float = 180.0
    most_skipped: int = 10
    profile_steps: tuple[int, int] = (0, 0)
    watchdog_seconds: float = 1800.0
    watchdog_exit: bool = False

    def __post_init__(self) -> None:
        if len(self.mesh) != 3 or any(n == 0 or n < -1 for n in self.mesh) or self.mesh.count(-1) > 1:
            raise ConfigError(
                f"runtime.mesh={self.mesh}: three sizes (data, fsdp, tensor), at most one of them -1"
            )
        if len(self.profile_steps) != 2 or not 0 <= self.profile_steps[0] <= self.profile_steps[1]:
            raise ConfigError(
                f"runtime.profile_steps={self.profile_steps}: the first step to trace and the first not to, as 10,13"
            )
        if self.watchdog_seconds < 0:
            raise ConfigError(f"runtime.watchdog_seconds={self.watchdog_seconds} must be 0 (never) or more")
        if self.lease_seconds <= 0:
            raise ConfigError(f"runtime.lease_seconds={self.lease_seconds} must be above 0")
        choice("runtime.remat", self.remat, REMAT)
        choice("runtime.attention", self.attention, ATTENTION)
        positive(
            "runtime", self, "rows_per_microbatch", "steps_per_dispatch", "checkpoints_kept", "most_skipped"
        )
