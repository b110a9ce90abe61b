"""Rewards of the texts of all chosen benchmarks, each scored once: resumable, and kept for every later formula.

<directory>/scoring.json        which model, and the settings that rewards depend on
            rewards.parquet     a row a text: its reward, or why there is none
            parts/plan.json     of the pass under way; parts/000000.parquet: its first chunk, whole or absent

A reward is a function of one prompt and one response, whatever stands beside them: each text is truncated by itself.
The longest come first, so what does not fit a device is known at once. A pass that was killed and started again writes
the same bytes; one over more texts scores only the new ones.
"""

import dataclasses
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from rewardscale import atomic
from rewardscale.config import ConfigError
from rewardscale.data.comparison import DataError
from rewardscale.data.records import Item
from rewardscale.evaluation import controls
from rewardscale.evaluation.identity import model_folder, model_hash
from rewardscale.evaluation.texts import Group, Texts

if TYPE_CHECKING:  # jax is imported only where it computes
    from rewardscale.evaluation.reward_scorer import Prepared, RewardScorer

SCHEMA = pl.Schema(
    {
        "text": pl.String,
        "prompt": pl.String,
        "response": pl.String,
        "reward": pl.Float32,
        "tokens": pl.Int32,
        "truncated": pl.Boolean,
        "error": pl.String,
    }
)
CONTROLS = ("control:length", "control:random")
TABLE, IDENTITY, PARTS = "rewards.parquet", "scoring.json", "parts"
_FORMAT = 1
Progress = Callable[[int, int, str], None]  # characters done, of how many, what to say beside
_nobody: Progress = lambda done, total, beside: None  # noqa: E731


@dataclasses.dataclass(frozen=True)
class Settings:
    """What scores, and how.

    Attributes:
      model: a Hugging Face directory, a hub id (with `revision`), or one of CONTROLS, which need no model: a
        response's reward is its number of characters, or drawn from its hash.
      mesh, dtype, max_length, batch_tokens: as in RewardScorer.load.
      too_long, allow_special_text: as in RewardScorer.prepare.
      chunk_texts: about how many texts' rewards are committed together.
      overwrite: replace rewards that another model or other settings gave.
    """

    model: str
    revision: str | None = None
    mesh: tuple[int, int, int] = (-1, 1, 1)
    dtype: str = "float32"
    max_length: int = 0
    too_long: str = "truncate_left_of_prompt"
    allow_special_text: bool = False
    batch_tokens: int = 8192
    chunk_texts: int = 2048
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.chunk_texts < 1:
            raise ConfigError(f"chunk_texts={self.chunk_texts} must be greater than 0")

    @property
    def name(self) -> str:
        """Of the model, for people and folders."""
        if self.model in CONTROLS:
            return self.model.removeprefix("control:") + "-only" * (self.model == CONTROLS[0])
        folder = Path(self.model)
        if not folder.is_dir():
            return self.model.rpartition("/")[2]
        name = folder.resolve().name
        return (
            folder.resolve().parent.name if name == "model" else name
        )  # <workdir>/model of rewardscale.train

    def identity(self) -> dict[str, Any]:
        """What rewards depend on beyond rounding. Raises ConfigError for a model that is none."""
        if self.model in CONTROLS:
            return {"format": _FORMAT, "model": self.model}
        kept = ("dtype", "max_length", "too_long", "allow_special_text")
        chosen = {name: getattr(self, name) for name in kept}
        return {"format": _FORMAT, "model": model_hash(model_folder(self.model, self.revision)), **chosen}


def score_texts(
    texts: Texts, settings: Settings, directory: Path, *, progress: Progress = _nobody
) -> pl.DataFrame:
    """The rewards of all `texts` (SCHEMA), those that `directory` lacks scored and added to it.

    The table may hold more: texts of benchmarks that were chosen before. Without anything to score no model is loaded.

    Raises ConfigError for a model or settings that cannot be used, or that are not those of `directory`.
    """
    directory = Path(directory)
    identity = settings.identity()
    with atomic.locked(directory / "lock", wait=False) as mine:
        if not mine:
            raise ConfigError(
                f"another process is scoring in {directory}; wait for it, or name another --workdir"
            )
        _claim(directory, identity, settings)
        table = _read(directory)
        todo = missing(texts, table)
        plan = _plan(todo, settings)
        if not _same(directory / PARTS / "plan.json", plan):
            table = _merge(directory, table)  # what a pass over other texts has finished
            todo = missing(texts, table)
            plan = _plan(todo, settings)
        if todo:
            _score(todo, settings, directory, plan, progress)
            table = _merge(directory, table)
    return table


def read_rewards(directory: Path, texts: Texts) -> pl.DataFrame:
    """The rewards that `directory` holds, which must be those of all `texts`. Raises ConfigError where some lack."""
    if not (directory / TABLE).exists():
        raise ConfigError(f"{directory} holds no {TABLE}: name the model that is to be scored (--model=...)")
    table = _read(directory)
    lacking = sum(len(group.ids) for group in missing(texts, table))
    if lacking:
        raise ConfigError(
            f"{directory}/{TABLE} lacks {lacking:,} of {len(texts.ids):,} texts of these benchmarks: give --model=... "
            "to score them too"
        )
    return table


def to_score(texts: Texts, directory: Path) -> list[Group]:
    """Groups of the texts whose rewards `directory` does not hold yet, the longest first."""
    parts = sorted((directory / PARTS).glob("[0-9]*.parquet"))
    return missing(texts, pl.concat([_read(directory), *(pl.read_parquet(path) for path in parts)]))


def missing(texts: Texts, table: pl.DataFrame) -> list[Group]:
    """Groups of the texts that a table lacks, the longest first."""
    there = set(table["text"])
    left = [(g, [one not in there for one in g.ids]) for g in texts.groups]
    groups = [g if all(lacks) else g.only(lacks) for g, lacks in left if any(lacks)]
    return sorted(groups, key=lambda g: (-g.longest, g.key))


# --- the folder --------------------------------------------------------------------------------------


def _claim(directory: Path, identity: dict[str, Any], settings: Settings) -> None:
    """Checks that the folder's rewards belong to these settings, or makes them its own."""
    path = directory / IDENTITY
    if path.exists():
        before = json.loads(path.read_text())["identity"]
        if before == identity:
            return
        empty = not (directory / TABLE).exists() and not any((directory / PARTS).glob("[0-9]*.parquet"))
        if not settings.overwrite and not empty:
            other = ", ".join(sorted(k for k in before | identity if before.get(k) != identity.get(k)))
            raise ConfigError(
                f"{directory} holds rewards of another model or other settings (they differ in: {other}); name another "
                "--workdir, or give --overwrite to score anew"
            )
        path.unlink()  # first: rewards belong to an identity
        (directory / TABLE).unlink(missing_ok=True)
        shutil.rmtree(directory / PARTS, ignore_errors=True)
    elif (directory / TABLE).exists():
        raise ConfigError(
            f"{directory}/{TABLE} has no {IDENTITY} beside it; remove it, or name another --workdir"
        )
    described = {"name": settings.name, "model": settings.model, "revision": settings.revision}
    atomic.write_json(path, {"identity": identity, **described})


def _read(directory: Path) -> pl.DataFrame:
    path = directory / TABLE
    if not path.exists():
        return pl.DataFrame(schema=SCHEMA)
    try:
        table = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path} cannot be read ({error}); remove it to score anew") from error
    if table.schema != SCHEMA:
        raise DataError(f"{path} has other columns than rewards have; remove it to score anew")
    return table


def _merge(directory: Path, table: pl.DataFrame) -> pl.DataFrame:
    """The table with all finished parts, written; the parts go."""
    parts = directory / PARTS
    found = sorted(parts.glob("[0-9]*.parquet"))
    if found:
        whole = pl.concat([table, *(pl.read_parquet(path) for path in found)])
        table = whole.unique("text", keep="first").sort("text")
        atomic.write_parquet(directory / TABLE, table)
    shutil.rmtree(parts, ignore_errors=True)
    return table


def _plan(todo: Sequence[Group], settings: Settings) -> dict[str, Any]:
    """What the bytes of a pass depend on besides the identity."""
    digest = hashlib.blake2b(
        "\n".join(one for g in todo for one in g.ids).encode(), digest_size=16
    ).hexdigest()
    kept = {name: getattr(settings, name) for name in ("batch_tokens", "chunk_texts")}
    return {"texts": digest, "count": sum(len(g.ids) for g in todo), "mesh": list(settings.mesh), **kept}


def _same(path: Path, plan: dict[str, Any]) -> bool:
    try:
        return json.loads(path.read_text()) == plan
    except (OSError, ValueError):
        return False


# --- scoring -----------------------------------------------------------------------------------------


def _score(
    todo: Sequence[Group], settings: Settings, directory: Path, plan: dict[str, Any], progress: Progress
) -> None:
    """Scores and commits the chunks that are not there yet; the next one is tokenised while one is computed."""
    atomic.write_json(directory / PARTS / "plan.json", plan)
    chunks = list(_chunks(todo, settings.chunk_texts))
    sizes = [sum(group.characters for group in chunk) for chunk in chunks]
    left = [k for k in range(len(chunks)) if not (directory / PARTS / _part(k)).exists()]
    if not left:
        return
    scorer = _control(settings.model) if settings.model in CONTROLS else _Model(settings)
    meter = _Meter(sum(sizes), sum(sizes) - sum(sizes[k] for k in left), progress)
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(scorer.prepare, chunks[left[0]])
        for k, following in zip(left, [*left[1:], None], strict=True):
            ready = ahead.result()
            if following is not None:
                ahead = pool.submit(scorer.prepare, chunks[following])
            meter.begin(sizes[k], scorer.tokens(ready))
            atomic.write_parquet(directory / PARTS / _part(k), scorer.score(chunks[k], ready, meter.computed))
            meter.end()


class _Meter:
    """Tells how far a pass is, in characters, from the tokens that a chunk's microbatches have."""

    def __init__(self, total: int, done: int, progress: Progress):
        self._total, self._done, self._progress = total, done, progress
        self._tokens, self._started = 0, time.monotonic()

    def begin(self, characters: int, tokens: int) -> None:
        self._size, self._whole, self._within = characters, max(1, tokens), 0

    def computed(self, tokens: int) -> None:
        self._tokens, self._within = self._tokens + tokens, self._within + tokens
        speed = f"{self._tokens / max(time.monotonic() - self._started, 1e-9):,.0f} tokens/s"
        self._progress(
            self._done + int(self._size * min(1.0, self._within / self._whole)), self._total, speed
        )

    def end(self) -> None:
        self._done += self._size
        self._progress(self._done, self._total, "")


def _chunks(groups: Sequence[Group], size: int) -> Iterator[list[Group]]:
    """Groups in their order, in chunks of at least `size` texts but the last."""
    chunk: list[Group] = []
    texts = 0
    for group in groups:
        chunk.append(group)
        texts += len(group.ids)
        if texts >= size:
            yield chunk
            chunk, texts = [], 0
    if chunk:
        yield chunk


def _part(chunk: int) -> str:
    return f"{chunk:06d}.parquet"


def load(settings: Settings) -> "RewardScorer":
    """The model that scores."""
    from rewardscale.evaluation.reward_scorer import RewardScorer

    return RewardScorer.load(
        settings.model, revision=settings.revision, mesh=settings.mesh, dtype=settings.dtype,
        max_length=settings.max_length, batch_tokens=settings.batch_tokens,
    )  # fmt: skip


Ready = list[tuple[list[int], "Prepared | DataError"]]  # places in a chunk's texts, and they as token ids


class _Model:
    """A reward model that scores groups of texts."""

    def __init__(self, settings: Settings):
        self._settings, self._scorer = settings, load(settings)

    def prepare(self, groups: Sequence[Group]) -> Ready:
        """Token ids: the responses to a prompt together, but those alone that are too long for it or refused."""
        first = np.cumsum([0, *(len(g.ids) for g in groups)]).tolist()
        together = [(list(range(first[i], first[i + 1])), g) for i, g in enumerate(groups)]
        prepared = self._prepared(together, "refuse")
        split = [
            ([place], group.only([k == j for k in range(len(places))]))
            for (places, group), (_, one) in zip(together, prepared, strict=True)
            if isinstance(one, DataError)
            for j, place in enumerate(places)
        ]
        alone = self._prepared(split, self._settings.too_long)
        whole = {p for p, one in alone if not isinstance(one, DataError) and not one.skip for p in p}
        again = [
            ([p for p in places if p in whole], group.only([p in whole for p in places]))
            for (places, group), (_, one) in zip(together, prepared, strict=True)
            if isinstance(one, DataError) and sum(p in whole for p in places) > 1
        ]
        joined = {p for places, _ in again for p in places}
        return [
            *(pair for pair in prepared if not isinstance(pair[1], DataError)),
            *(pair for pair in alone if pair[0][0] not in joined),
            *self._prepared(again, "refuse"),
        ]

    def _prepared(self, groups: Sequence[tuple[list[int], Group]], too_long: str) -> Ready:
        items = [
            Item((([{"role": m.role, "content": m.content} for m in group.prompt], group.responses),))
            for _, group in groups
        ]
        made = self._scorer.prepare(
            items, too_long=too_long, allow_special_text=self._settings.allow_special_text
        )
        return [(places, one) for (places, _), one in zip(groups, made, strict=True)]

    def tokens(self, ready: Ready) -> int:
        """That scoring computes."""
        return self._scorer.tokens([one for _, one in ready if not isinstance(one, DataError)])

    def score(self, groups: Sequence[Group], ready: Ready, done: Callable[[int], None]) -> pl.DataFrame:
        """The chunk's part of the table."""
        columns = _columns(groups)
        rows = len(columns["text"])
        reward: list[float | None] = [None] * rows
        tokens: list[int | None] = [None] * rows
        error: list[str | None] = [None] * rows
        truncated = [False] * rows
        fit = [(places, one) for places, one in ready if not isinstance(one, DataError)]
        for (places, one), values in zip(
            fit, self._scorer.score([o for _, o in fit], done=done), strict=True
        ):
            for place, value, length in zip(places, values.tolist(), one.lengths, strict=True):
                tokens[place], truncated[place] = length, one.skip > 0
                if np.isfinite(value):
                    reward[place] = value
                else:
                    error[place] = "the reward is not finite"
        for places, one in ready:
            if isinstance(one, DataError):
                for place in places:
                    error[place] = str(one).encode(errors="backslashreplace").decode()
        measured = {"reward": reward, "tokens": tokens, "truncated": truncated, "error": error}
        return pl.DataFrame({**columns, **measured}, schema=SCHEMA)


class _Control:
    """A pseudo-model: a reward is a function of the texts."""

    def __init__(self, rewards: Callable[[Group], Sequence[float]]):
        self._rewards = rewards

    def prepare(self, groups: Sequence[Group]) -> Ready:
        return []

    def tokens(self, ready: Ready) -> int:
        return 0

    def score(self, groups: Sequence[Group], ready: Ready, done: Callable[[int], None]) -> pl.DataFrame:
        rewards = [reward for group in groups for reward in self._rewards(group)]
        rows = len(rewards)
        none = {"tokens": [None] * rows, "truncated": [False] * rows, "error": [None] * rows}
        return pl.DataFrame({**_columns(groups), "reward": rewards, **none}, schema=SCHEMA)


def _control(name: str) -> _Control:
    if name == CONTROLS[0]:
        return _Control(lambda group: [float(len(response)) for response in group.responses])
    return _Control(lambda group: controls.random_rewards(group.prompt, group.responses))


def _columns(groups: Sequence[Group]) -> dict[str, list[str]]:
    return {
        "text": [one for g in groups for one in g.ids],
        "prompt": [g.key for g in groups for _ in g.ids],
        "response": [one for g in groups for one in g.hashes],
    }
