"""Makes a parity certificate: runs the legs one after the other, each in a process of its own, and holds them together.

No leg's model is in memory beside another's, and this process touches no accelerator.
"""

import datetime
import json
import math
import os
import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import rewardscale
from rewardscale.config import ConfigError
from rewardscale.evaluation import certificate as judge
from rewardscale.evaluation.certificate import Certificate, Leg
from rewardscale.evaluation.certificate_cases import comparisons, conversations, read_cases
from rewardscale.models import hf

Progress = Callable[[str, int, int], None]  # (what begins, legs done, legs in all)
ENGINES = {"vllm": "vLLM", "sglang": "SGLang"}
EXPORTED = "HF, float32, our export"
MEND = (
    "`make reference` builds one; or name a Python that has torch and transformers: --reference=PYTHON, "
    "REWARDSCALE_REFERENCE=PYTHON; or run our legs alone: --without_reference"
)
_SCRIPT = Path(__file__).with_name("reference_legs.py")
_ROOT = Path(rewardscale.__file__).parents[1]
# Run as a file, reference_legs.py would find this folder's modules before the standard library's.
_RUN = "import runpy, sys; runpy.run_path(sys.argv.pop(1), run_name='__main__')"


class LegError(RuntimeError):
    """A leg's process failed; the message says how it ended."""


def find_reference(named: str | Path | None) -> Path:
    """The Python of the reference environment: `named`, REWARDSCALE_REFERENCE, or .venv-reference beside the package.

    Raises ConfigError with the mend where there is none.
    """
    named = named or os.environ.get("REWARDSCALE_REFERENCE")
    python = Path(named) if named else _ROOT / ".venv-reference" / "bin" / "python"
    if not python.is_file():
        raise ConfigError(f"no reference environment: there is no {python}. {MEND}")
    return python.absolute()  # not resolved: a virtual environment's Python is a link


def certify(
    directory: str | Path,
    reference: Path | None,
    *,
    revision: str | None = None,
    mesh: Sequence[int] = (-1, 1, 1),
    progress: Progress | None = None,
) -> Certificate:
    """Runs every leg on a Hugging Face directory (or hub id).

    Args:
      reference: the Python of the reference environment; None: our legs alone.
      mesh: what our legs spread the model over (data, fsdp, tensor).

    Raises ConfigError for a directory that cannot be used or a Python without torch and transformers, LegError where
    the float32 leg, ours or theirs, did not come to an end.
    """
    checkpoint = hf.open_checkpoint(directory, revision=revision)
    weights = hf.fingerprint(checkpoint)
    with tempfile.TemporaryDirectory(prefix="rewardscale-verify-") as folder:
        legs = _Legs(checkpoint.directory.resolve(), Path(folder), reference, mesh, progress)
        versions = legs.about() if reference else {}
        engines = [name for name in ENGINES if versions.get(name)]
        legs.total = 2 + (3 + len(engines) if reference else 0)
        exact = legs.ours("float32", export=True)
        found: dict[str, Any] = {"coarse": _tried(lambda: legs.ours("bfloat16"))}
        if reference:
            found |= _theirs(legs, exact, engines)
        legs.close()
    facts = _facts(checkpoint, weights, exact["facts"], versions)
    problems = _recorded(exact["facts"])
    if hf.fingerprint(checkpoint) != weights:
        problems.append("the weights' files changed while they were verified: run it again")
    if exact.get("differing"):
        problems.append(
            f"export changes {len(exact['differing'])} tensors, the first {exact['differing'][0]}"
        )
    notes: list[str] = []
    if reference:
        problems += _token_problems(exact, found["theirs"], "")
        if isinstance(found.get("exported"), Mapping):
            problems += _token_problems(exact, found["exported"], " in our export")
        notes += _notes(exact, found["theirs"])
    return _held_together(exact, found, facts, problems, [*_left_out(exact), *notes])


# --- running -----------------------------------------------------------------------------------------


class _Legs:
    """Starts the processes, one at a time; `done` of `total` have ended."""

    def __init__(
        self,
        directory: Path,
        work: Path,
        reference: Path | None,
        mesh: Sequence[int],
        progress: Progress | None,
    ) -> None:
        self.directory, self.exported, self.total = directory, work / "exported", 0
        self._work, self._reference, self._mesh, self._done = work, reference, mesh, 0
        self._said = progress or (lambda what, done, total: None)

    def about(self) -> dict[str, Any]:
        """Versions of what the reference environment has. Raises ConfigError if it is none."""
        try:
            versions = self._ask(self._command, _environment(ours=False), {"do": "about"})
        except (LegError, OSError) as error:
            raise ConfigError(f"{self._reference} cannot be run ({error}). {MEND}") from error
        missing = [name for name in ("torch", "transformers") if not versions[name]]
        if missing:
            raise ConfigError(f"{self._reference} has no {' and no '.join(missing)}. {MEND}")
        return versions

    def ours(self, dtype: str, *, export: bool = False) -> dict[str, Any]:
        """What certificate_ours.leg answers. Raises ConfigError if the directory cannot be used, and LegError."""
        self._begin(f"ours, {dtype}")
        request = {
            "directory": str(self.directory),
            "dtype": dtype,
            "mesh": list(self._mesh),
            "export": str(self.exported) if export else None,
        }
        command = [sys.executable, "-m", "rewardscale.evaluation.certificate_ours"]
        answer = self._ask(command, _environment(ours=True), request)
        if isinstance(answer["refused"], str):
            raise ConfigError(answer["refused"])
        return answer

    def theirs(self, what: str, do: str, **request: Any) -> dict[str, Any]:
        """What a function of reference_legs.py answers. Raises LegError."""
        self._begin(what)
        return self._ask(self._command, _environment(ours=False), {"do": do, **request})

    def close(self) -> None:
        """All have ended."""
        self._said("done", self.total, self.total)

    @property
    def _command(self) -> list[str]:
        return [str(self._reference), "-c", _RUN, str(_SCRIPT)]

    def _begin(self, what: str) -> None:
        self._said(what, self._done, self.total)
        self._done += 1

    def _ask(
        self, command: Sequence[str], environment: Mapping[str, str], request: Mapping[str, Any]
    ) -> dict[str, Any]:
        asked, answered = self._work / "request.json", self._work / "answer.json"
        asked.write_text(json.dumps(request), encoding="utf-8")
        answered.unlink(missing_ok=True)
        done = subprocess.run(
            [*command, str(asked), str(answered)], env=environment, cwd=self._work,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False,
        )  # fmt: skip
        if done.returncode or not answered.exists():
            raise LegError(_ending(done))
        return json.loads(answered.read_text(encoding="utf-8"))


def _environment(*, ours: bool) -> dict[str, str]:
    """Ours with this package; theirs without anything that leads their Python to our packages, and offline."""
    if ours:
        paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    leads = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV")
    kept = {name: value for name, value in os.environ.items() if name not in leads}
    return {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", **kept}


def _ending(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{hint}"
    lines = [line for line in done.stderr.splitlines() if line.strip()] or ["nothing on standard error"]
    return f"its process ended with exit code {done.returncode}: {lines[-1].strip()}"


def _tried(run: Callable[[], dict[str, Any]]) -> dict[str, Any] | str:
    """What it returns, or why it failed: one leg's failure stops no other."""
    try:
        return run()
    except (LegError, ConfigError) as error:
        return str(error)


def _theirs(legs: _Legs, exact: Mapping[str, Any], engines: Sequence[str]) -> dict[str, Any]:
    """Answers of the reference environment by leg; a string where a leg failed. Raises LegError if the truth did."""
    asked = {
        "conversations": [{"messages": one.messages, "tools": one.tools} for one in conversations()],
        "date": exact["facts"]["date"],
        "scored": [i for i, ids in enumerate(exact["ids"]) if ids is not None],
    }
    directory, exported = str(legs.directory), str(legs.exported)
    truth = legs.theirs("HF, float32", "hf", directory=directory, dtype="float32", padded=True, **asked)
    found: dict[str, Any] = {"theirs": truth}
    found["their coarse"] = _tried(
        lambda: legs.theirs(
            "HF, bfloat16", "hf", directory=directory, dtype="bfloat16", padded=False, **asked
        )
    )
    if "export_failed" not in exact:
        found["exported"] = _tried(
            lambda: legs.theirs(EXPORTED, "hf", directory=exported, dtype="float32", padded=False, **asked)
        )
    pairs = list(zip(exact["ids"], truth["conversations"], strict=True))
    for name in engines:
        request = {
            key: [None if ours is None else one.get(part) for ours, one in pairs]
            for key, part in (("ids", "ids"), ("texts", "text"))
        }
        found[name] = _tried(
            lambda name=name, request=request: legs.theirs(
                ENGINES[name], name, directory=directory, dtype="bfloat16", **request
            )
        )
    return found


# --- holding together --------------------------------------------------------------------------------


def _held_together(
    exact: Mapping[str, Any],
    found: Mapping[str, Any],
    facts: dict[str, Any],
    problems: Sequence[str],
    notes: Sequence[str],
) -> Certificate:
    names = [one.name for one in conversations()]
    alone = Leg("ours, float32", "float32", exact["rewards"])
    if exact.get("export_failed"):
        reloaded = Leg("ours, exported and reloaded", "float32", None, exact["export_failed"])
    else:
        reloaded = Leg("ours, exported and reloaded", "float32", exact["reloaded"])
    coarse = _leg("ours, bfloat16", "bfloat16", found["coarse"], key=None)
    if "theirs" not in found:
        truth, legs = alone, [(coarse, None)]
    else:
        truth = _leg("HF, float32", "float32", found["theirs"])
        size = judge.scale(truth.rewards or ())
        float32 = judge.float32_tolerance(size)
        their_coarse = _leg("HF, bfloat16", "bfloat16", found["their coarse"])
        spread = judge.compare(their_coarse, truth, names, (), tolerance=None).worst
        bfloat16 = None if spread is None else judge.bfloat16_tolerance(spread, size)
        legs = [
            *[
                (_leg(f"HF, float32, padded {side}", "float32", found["theirs"], key=side), float32)
                for side in ("right", "left")
            ],
            (their_coarse, None),
            (alone, float32),
            (coarse, bfloat16),
        ]
        if "exported" in found:
            legs.append((_leg(EXPORTED, "float32", found["exported"]), 1e-6 * max(1.0, size)))
        for name, title in ENGINES.items():
            missing = Leg(
                f"{title}, bfloat16", "bfloat16", why=f"no {name} in the reference environment", absent=True
            )
            engine = _leg(missing.name, "bfloat16", found[name]) if name in found else missing
            legs.append((engine, bfloat16))
    rows = [judge.compare(leg, truth, names, comparisons(), tolerance=tolerance) for leg, tolerance in legs]
    # A copy must be the same to the bit, so it is held to what it is a copy of.
    place = next((i + 1 for i, row in enumerate(rows) if row.leg == coarse.name), len(rows))
    rows.insert(place, judge.compare(reloaded, alone, names, comparisons(), tolerance=0.0))
    values = [r for r in truth.rewards or () if r is not None]
    if not values:
        raise ConfigError(
            "none of the fixed conversations can be scored with this model's tokenizer and template"
        )
    facts["rewards"] = {"count": len(values), "lowest": min(values), "highest": max(values)}
    return Certificate(
        truth.name, tuple(rows), tuple(problems), tuple(notes), facts,
        _conversations(exact, [truth, *[leg for leg, _ in legs], reloaded]),
    )  # fmt: skip


def _leg(name: str, dtype: str, answer: Any, *, key: str | None = "alone") -> Leg:
    """Of an answer (a string: why there is none) the rewards computed as `key` says; None: ours."""
    if isinstance(answer, str):
        return Leg(name, dtype, None, answer)
    if key is None:
        return Leg(name, dtype, answer["rewards"])
    if key in answer.get("failed", {}):
        return Leg(name, dtype, None, answer["failed"][key])
    return Leg(name, dtype, answer["rewards"][key])


def _conversations(exact: Mapping[str, Any], legs: Sequence[Leg]) -> tuple[Mapping[str, Any], ...]:
    out = []
    for i, (one, ids) in enumerate(zip(conversations(), exact["ids"], strict=True)):
        rewards = {leg.name: _finite(leg.rewards[i]) for leg in legs if leg.rewards is not None}
        out.append({"name": one.name, "tokens": None if ids is None else len(ids), "rewards": rewards})
    return tuple(out)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _token_problems(exact: Mapping[str, Any], tokens: Mapping[str, Any], where: str) -> list[str]:
    """Conversations whose ids differ, and those that one side refuses."""
    cases, out = read_cases(), []
    for one, ours, theirs in zip(conversations(), exact["ids"], tokens["conversations"], strict=True):
        why = exact["refused"][one.case]
        if ours is None:
            if "error" not in theirs and not cases[one.case].may_be_refused and not _too_long(why):
                out.append(f"{one.name}: transformers tokenises it, and we refuse it: {why}")
        elif "error" in theirs:
            out.append(f"{one.name}: we tokenise it, and transformers refuses it: {theirs['error']}")
        elif (at := judge.first_difference(ours, theirs["ids"])) is not None:
            a, b = (str(ids[at : at + 3]) if at < len(ids) else "its end" for ids in (ours, theirs["ids"]))
            out.append(f"token ids of {one.name}{where} differ first at position {at}: ours {a}, HF {b}")
    return out


def _too_long(why: str | None) -> bool:
    return why is not None and why.startswith("too long")


def _left_out(exact: Mapping[str, Any]) -> list[str]:
    """Cases that were not scored, each with its reason."""
    pairs = zip(read_cases(), exact["refused"], strict=True)
    return [f"{case.name}: left out: {why}" for case, why in pairs if why is not None]


def _notes(exact: Mapping[str, Any], tokens: Mapping[str, Any]) -> list[str]:
    out = []
    if tokens["dated"]:
        out.append(
            f"the template prints the day: transformers gives {tokens['dated']} of the conversations other tokens, and "
            f"so other rewards, every day. Here both are frozen at {exact['facts']['date']}"
        )
    ours = exact["facts"]["pad"]
    if tokens["pad_token_id"] is None:
        out.append(
            "the tokenizer names no pad token: who pads by it gets an error; here config.json's was taken"
        )
    elif tokens["pad_token_id"] != ours["id"]:
        out.append(
            f"the tokenizer pads with token {tokens['pad_token_id']}, and config.json says {ours['id']} "
            f"({ours['text']}): transformers reads the reward of a padded conversation at a pad token"
        )
    return out


def _recorded(facts: Mapping[str, Any]) -> list[str]:
    """Where tokenizer, template, date or reward token are not those that config.json says it was trained with."""
    recorded, out = facts["recorded"], []
    for key in ("template_hash", "tokenizer_hash", "date"):
        if key in recorded and recorded[key] != facts[key]:
            out.append(
                f"config.json says that the model was trained with {key.replace('_', ' ')} {recorded[key]}, and the "
                f"folder's is {facts[key]}: put the files back that it was trained with"
            )
    token = recorded.get("reward_token")
    if token and token.get("id") != facts["reward_token"]["id"]:
        out.append(
            f"config.json says that the reward was read at token {token.get('id')} ({token.get('text')!r}), "
            f"and the template ends with {facts['reward_token']['id']} ({facts['reward_token']['text']!r})"
        )
    return out


def _facts(
    checkpoint: hf.Checkpoint, weights: str, ours: Mapping[str, Any], versions: Mapping[str, Any]
) -> dict[str, Any]:
    known = {
        "rewardscale": rewardscale.__version__,
        "jax": metadata.version("jax"),
        "python": platform.python_version(),
        **{f"reference {key}": value for key, value in versions.items() if value},
    }
    kept = {key: ours[key] for key in ("architecture", "stored", "template_hash", "tokenizer_hash", "date")}
    return {
        "model": checkpoint.directory.resolve().name,
        "revision": checkpoint.revision,
        "weights": weights,
        **kept,
        "reward_token": ours["reward_token"],
        "pad": ours["pad"],
        "config_pad_token_id": checkpoint.pad_token_id,
        "max_length": ours["max_length"],
        "versions": known,
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
