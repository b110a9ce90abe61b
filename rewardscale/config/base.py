"""What all configs share: their error, checks, and the hash that a run id is."""

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Mapping
from typing import Any

# Bumped when a fix changes the numbers that an unchanged config produces.
SCIENCE_VERSION = 1


class ConfigError(ValueError):
    """A config that cannot be used; the message names the key and the mend."""


def choice(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        near = difflib.get_close_matches(value, allowed, n=1, cutoff=0.0)
        raise ConfigError(f"{key}={value!r} must be one of {', '.join(allowed)}; did you mean {near[0]!r}?")


def positive(path: str, config: Any, *names: str) -> None:
    for name in names:
        if not getattr(config, name) > 0:
            raise ConfigError(f"{path}.{name}={getattr(config, name)!r} must be greater than 0")


# A field that joined later: while it has its default it does not enter run ids, so finished runs keep theirs.
ADDED = {"added": True}


def science(value: Any) -> Any:
    """Dataclasses as dicts, without `added` fields at their defaults."""
    if not dataclasses.is_dataclass(value):
        return dict(value) if isinstance(value, Mapping) else value
    fields = [
        (f, getattr(value, f.name))
        for f in dataclasses.fields(value)
        if not f.metadata.get("added") or getattr(value, f.name) != f.default
    ]
    return {f.name: science(own) for f, own in fields}


def content_hash(value: Any, *, digits: int = 20) -> str:
    """Hash of a JSON-able value, independent of key order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=32).hexdigest()[:digits]


def to_mapping(config: Any) -> dict[str, Any]:
    """A dataclass as nested dicts (tuples stay tuples)."""
    return dataclasses.asdict(config)
