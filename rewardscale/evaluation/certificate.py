"""What a parity certificate says: rewards of one model by several routes, held to one of them.

A route that computes the rewards is a leg. The truth is transformers in float32, a conversation at a time.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

PASSED, FAILED, MEASURED, ABSENT = "passed", "FAILED", "measured", "not installed"
# Digits of the significand after the leading one.
_DIGITS = {"float32": 23, "bfloat16": 7}
_SHORT = {"float32": "f32", "bfloat16": "bf16"}


@dataclasses.dataclass(frozen=True)
class Leg:
    """What came of one leg.

    Attributes:
      name: of the route. dtype: in which it computes.
      rewards: one a conversation, None where there is none; None altogether if the leg did not run.
      why: it did not run. absent: because the program that it needs is not installed.
    """

    name: str
    dtype: str
    rewards: Sequence[float | None] | None = None
    why: str = ""
    absent: bool = False


@dataclasses.dataclass(frozen=True)
class Row:
    """A leg held to another one.

    Attributes:
      leg, state: its name; PASSED, FAILED, MEASURED (no tolerance to meet) or ABSENT.
      compared: conversations. worst: largest |Δ|, at conversation `worst_at`.
      ulps: `worst` in units in the last place of the leg's type, at the size of the largest reward.
      tolerance: largest |Δ| that passes.
      comparisons: pairs of responses that the truth tells apart. flipped: those that the leg orders otherwise, a tie
        among them. near_ties: those of `flipped` whose margin is at most twice the tolerance.
      why: a leg without rewards, or with some missing, has failed.
    """

    leg: str
    state: str
    dtype: str
    compared: int = 0
    worst: float | None = None
    worst_at: str | None = None
    ulps: float | None = None
    tolerance: float | None = None
    comparisons: int = 0
    flipped: tuple[str, ...] = ()
    near_ties: tuple[str, ...] = ()
    why: str = ""


@dataclasses.dataclass(frozen=True)
class Certificate:
    """The whole finding.

    Attributes:
      truth: the leg that the others are held to. rows: the others.
      problems: what fails besides the rows. notes: what is worth knowing and fails nothing.
      facts: of the model and the programs. conversations: by name, token ids' number and rewards by leg.
    """

    truth: str
    rows: tuple[Row, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    facts: Mapping[str, Any]
    conversations: tuple[Mapping[str, Any], ...]

    @property
    def passed(self) -> bool:
        return not self.problems and all(row.state != FAILED for row in self.rows)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        found = dataclasses.asdict(self)
        return {"passed": self.passed, **found}


def ulp(size: float, dtype: str) -> float:
    """The distance of neighbouring numbers of `dtype` at `size`."""
    return 2.0 ** (math.floor(math.log2(size)) - _DIGITS[dtype]) if size > 0 else 0.0


def scale(rewards: Sequence[float | None]) -> float:
    """The largest |reward|; 0 if there is none that is finite."""
    return max((abs(r) for r in rewards if r is not None and math.isfinite(r)), default=0.0)


def float32_tolerance(size: float) -> float:
    """What two float32 computations of the same reward may differ by: 1e-4, or 1e-4 of larger rewards."""
    return 1e-4 * max(1.0, size)


def bfloat16_tolerance(spread: float, size: float) -> float:
    """What a bfloat16 reward may be off: as much as transformers' own, `spread`, and two units in the last place."""
    return spread + 2 * ulp(size, "bfloat16")


def compare(
    leg: Leg,
    truth: Leg,
    names: Sequence[str],
    comparisons: Sequence[tuple[int, int]],
    *,
    tolerance: float | None,
) -> Row:
    """Holds `leg` to `truth`.

    Args:
      names: of the conversations. comparisons: index pairs into them.
      tolerance: largest |Δ| that passes; None: only measured.
    """
    if leg.absent:
        return Row(leg.name, ABSENT, leg.dtype, why=leg.why)
    if leg.rewards is None:
        return Row(leg.name, FAILED, leg.dtype, why=leg.why)
    assert truth.rewards is not None
    wanted = [i for i, reward in enumerate(truth.rewards) if reward is not None]
    missing = [names[i] for i in wanted if leg.rewards[i] is None]
    theirs, ours = (
        np.array([r if r is not None else np.nan for r in side.rewards or ()], float) for side in (truth, leg)
    )
    there = [i for i in wanted if leg.rewards[i] is not None]
    off = np.abs(ours - theirs)[there]
    wild = [names[i] for i in there if not np.isfinite(ours[i]) or not np.isfinite(theirs[i])]
    if missing or wild or not there:
        problem = (
            f"no reward for {_few(missing)}"
            if missing
            else f"not finite: {_few(wild)}"
            if wild
            else "no reward"
        )
        return Row(leg.name, FAILED, leg.dtype, len(there), tolerance=tolerance, why=problem)
    worst = float(off.max())
    unit = ulp(scale(truth.rewards), leg.dtype)
    told_apart = [(a, b) for a, b in comparisons if a in there and b in there and theirs[a] != theirs[b]]
    flipped = [(a, b) for a, b in told_apart if (theirs[a] - theirs[b]) * (ours[a] - ours[b]) <= 0]
    near = [
        pair for pair in flipped if tolerance is not None and abs(np.subtract(*theirs[[*pair]])) <= 2 * tolerance
    ]  # fmt: skip
    state = MEASURED if tolerance is None else PASSED if worst <= tolerance else FAILED
    return Row(
        leg=leg.name,
        state=state,
        dtype=leg.dtype,
        compared=len(there),
        worst=worst,
        worst_at=names[there[int(off.argmax())]],
        ulps=worst / unit if unit else 0.0,
        tolerance=tolerance,
        comparisons=len(told_apart),
        flipped=tuple(_named(pair, names) for pair in flipped),
        near_ties=tuple(_named(pair, names) for pair in near),
        why=f"the largest |Δ| is at {names[there[int(off.argmax())]]}" if state == FAILED else "",
    )


def first_difference(ours: Sequence[int], theirs: Sequence[int]) -> int | None:
    """The first position at which two sequences of token ids part; None if they are equal."""
    both = zip(ours, theirs, strict=False)
    parted = next((i for i, (a, b) in enumerate(both) if a != b), None)
    if parted is None and len(ours) != len(theirs):
        return min(len(ours), len(theirs))
    return parted


# --- for people --------------------------------------------------------------------------------------


def as_text(certificate: Certificate) -> str:
    """The certificate as lines of text, the finding last."""
    facts, rows = certificate.facts, certificate.rows
    width = max([len(row.leg) for row in rows] + [len(certificate.truth)])
    lines = [f"{'':{width}}  {'max |Δ|':>9}  {'ulps':>11}  {'tolerance':>9}  {'flipped':>9}"]
    sizes = facts["rewards"]
    lines.append(
        f"{certificate.truth:{width}}  what the others are held to: {sizes['count']} rewards, "
        f"{sizes['lowest']:.4g} to {sizes['highest']:.4g}"
    )
    lines += [_line(row, width) for row in rows]
    for row in rows:
        if row.near_ties:
            lines.append(f"  {row.leg}: near-ties turned: {_few(row.near_ties)}")
    lines.append("")
    lines += [f"{name:14}{value}" for name, value in _shown(facts)]
    lines.append("")
    lines += [f"note: {note}" for note in certificate.notes]
    failed = [f"{row.leg}: {_reason(row)}" for row in rows if row.state == FAILED]
    problems = [*failed, *certificate.problems]
    lines += [f"FAILED: {problem}" for problem in problems]
    lines.append(f"FAIL: {len(problems)} beyond tolerance or wrong" if problems else "PASS")
    return "\n".join(lines)


def _shown(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    token, pad = facts["reward_token"], facts["pad"]
    return [
        ("model", f"{facts['model']}, {facts['architecture']}, stored as {facts['stored']}"),
        ("weights", facts["weights"]),
        ("template", f"{facts['template_hash']}, date {facts['date']}"),
        ("tokenizer", facts["tokenizer_hash"]),
        ("reward token", f"{token['id']} {token['text']!r}"),
        ("pad token", f"{pad['id']} {pad['text']!r} (config.json: {facts['config_pad_token_id']})"),
        ("versions", ", ".join(f"{name} {version}" for name, version in facts["versions"].items())),
        ("made", facts["made"]),
    ]


def _line(row: Row, width: int) -> str:
    if row.worst is None:
        return f"{row.leg:{width}}  {row.state}{f': {row.why}' if row.why and row.state == ABSENT else ''}"
    ulps = f"{row.ulps:.1f} {_SHORT[row.dtype]}"
    allowed = "" if row.tolerance is None else f"{row.tolerance:.1e}"
    flipped = f"{len(row.flipped)}/{row.comparisons}"
    return f"{row.leg:{width}}  {row.worst:9.1e}  {ulps:>11}  {allowed:>9}  {flipped:>9}  {row.state}"


def _reason(row: Row) -> str:
    if row.worst is None or row.tolerance is None:
        return row.why
    return f"max |Δ| {row.worst:.3g} is beyond {row.tolerance:.3g}; {row.why}"


def _named(pair: tuple[int, int], names: Sequence[str]) -> str:
    return f"{names[pair[0]]} against {names[pair[1]].rpartition(' ')[2]}"


def _few(names: Sequence[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return "; ".join(names[:most]) + more
