"""The largest and the cheapest that fits: searches made of compiles (training/planning.py), or of arithmetic.

Less recomputation goes before more rows a microbatch. `remat="full"` computes every forward pass twice: a third more
operations in every step, however many rows lie side by side. More rows do the same operations in fewer pieces; what
they save is paid once a microbatch, above all gathering the weights, which can run beside the layer before. That holds
while one row keeps a chip busy for as long as a gather takes: rows of thousands of tokens. For shorter ones name the
rows, and the least recomputation for so many is looked for.
"""

import dataclasses
from collections.abc import Callable

from rewardscale import flops
from rewardscale.config import REMAT, ConfigError
from rewardscale.training.planning import HBM, RESERVED, SLICES, Job, Result, memory, mesh_over

MOST_ROWS = 64  # of a length that are looked for
LEANEST = REMAT[-1]  # recomputes most and keeps least


def bytes_a_row(job: Job) -> float:
    """A first guess at what one more row costs a chip."""
    if job.mode == "score":
        return flops.layer_activation_bytes(job.model, tokens=job.length) / job.mesh[2]
    return flops.activation_bytes(job.model, tokens=job.length, remat=job.remat) / job.mesh[2]


def largest(
    run: Callable[[int], Result],
    *,
    start: int,
    guess: float,
    cap: int,
    step: int,
    limit: float,
    most: int = 4,
) -> tuple[int, Result]:
    """The largest multiple n of `step` up to `cap` that fits, to within an eighth, and its result.

    Bytes are nearly linear in n, so a line through two compiles names the next. `start` is known to fit or is tried
    first: (0, its result) if it does not. At most `most` compiles besides.
    """
    low, best = start, run(start)
    if not best.fits:
        return 0, best
    high, known, n = cap + step, (start, best.needed_bytes), max(guess, start + step)
    for _ in range(most):
        n = min(int(n) // step * step, cap)
        if n >= high:
            n = (low + high) // 2 // step * step
        if n <= low or (n < low * 9 / 8 and low > start):
            break
        result = run(n)
        slope = (result.needed_bytes - known[1]) / (n - known[0])
        if result.fits:
            low, best = n, result
        else:
            high = n
        n = known[0] + (limit - known[1]) / max(slope, 1.0)
    return low, best


@dataclasses.dataclass(frozen=True)
class Choice:
    """What a training step recomputes, and what was tried to find it.

    Attributes:
      job: with the first `remat` that fits; with the last one tried if none does.
      tried: each `remat` with its result, the least recomputation first.
    """

    job: Job
    tried: tuple[tuple[str, Result], ...]

    @property
    def result(self) -> Result:
        """Of what was taken."""
        return self.tried[-1][1]


def least_recomputation(job: Job, run: Callable[[Job], Result]) -> Choice:
    """`job`, its rows and length as they are, with the least recomputation (config.REMAT) with which it fits."""
    tried: list[tuple[str, Result]] = []
    for remat in REMAT:
        job = dataclasses.replace(job, remat=remat)
        tried.append((remat, run(job)))
        if tried[-1][1].fits:
            break
    return Choice(job, tuple(tried))


def overrides(job: Job, rows: int) -> str:
    """What a training's config must be told to take the step of `job` with `rows` rows a chip."""
    told: dict[str, object] = {"recipe.dtype": "bfloat16"}
    told |= {f"recipe.{name}": value for name, value in dataclasses.asdict(job.storage).items()}
    told |= {"runtime.mesh": ",".join(map(str, job.mesh)), "runtime.row_length": job.length}
    told |= {"runtime.rows_per_microbatch": rows * job.mesh[0] * job.mesh[1], "runtime.remat": job.remat}
    if job.attention != "auto":
        told["runtime.attention"] = job.attention
    return " ".join(f"--config.{key}={value}" for key, value in told.items())


@dataclasses.dataclass(frozen=True)
class Plan:
    """What fits of one model on one slice.

    Attributes:
      base: one row of the length asked for, a chip. rows: the most rows of that length.
      longest: the longest single row, tokens; 0 and 0 if not even the base fits.
      at_rows, at_longest: their results.
    """

    job: Job
    base: Result
    rows: int
    at_rows: Result
    longest: int
    at_longest: Result


def plan(job: Job, run: Callable[[Job], Result], *, context: int, longest_with: str = "") -> Plan:
    """Searches the most rows and the longest row (up to `context` tokens) for `job`, whose `rows` is ignored.

    The longest row is looked for with the recomputation `longest_with`, a name of config.REMAT, or with the job's.
    """
    limit = memory(job.topology) - RESERVED
    base = run(dataclasses.replace(job, rows=1))
    room = limit - base.needed_bytes
    rows, at_rows = largest(
        lambda n: run(dataclasses.replace(job, rows=n)),
        start=1, guess=1 + room / bytes_a_row(job), cap=MOST_ROWS, step=1, limit=limit,
    )  # fmt: skip
    long = dataclasses.replace(job, rows=1, remat=longest_with or job.remat)
    more = bytes_a_row(job) / bytes_a_row(long)  # tokens that take as much
    longest, at_longest = largest(
        lambda n: run(dataclasses.replace(long, length=n)),
        start=job.length, guess=max(1, rows) * job.length * more, cap=context, step=1024, limit=limit,
    )  # fmt: skip
    return Plan(job, base, rows, at_rows, longest, at_longest)


def smallest_slice(kind: str, job: Job, run: Callable[[Job], Result]) -> tuple[Job, Result] | None:
    """`job` (its topology and mesh are ignored) on the smallest slice of `kind` where it fits, or None."""
    if kind not in SLICES:
        raise ConfigError(f"topology={kind!r}: the kind of chip must be one of {', '.join(SLICES)}")
    state = flops.state_bytes(job.model, job.storage)
    kept = sum(state.values()) if job.mode == "train" else state["parameters"]
    for shape in SLICES[kind]:
        topology = f"{kind}:{shape}"
        here = dataclasses.replace(job, topology=topology, mesh=mesh_over(topology, model=job.model))
        if kept > here.mesh[1] * HBM[kind]:
            continue  # not even the state
        result = run(here)
        if result.fits:
            return here, result
    return None
