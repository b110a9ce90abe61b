"""Config files: found by name, loaded, overridden by flags, turned into a SweepConfig with clear errors."""

import argparse
import dataclasses
import difflib
import importlib.util
import inspect
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from rewardscale.config import ConfigError, SweepConfig, to_mapping

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def defaults(kind: type = SweepConfig) -> ConfigDict:
    """A locked ConfigDict with every key of `kind` at its default: what config files start from.

    Setting an unknown key raises; a sweep's `learning_rates` alone takes new keys (model names).
    """
    config: Any = ConfigDict(_mutable(to_mapping(kind())), convert_dict=True)
    if kind is SweepConfig:
        config.learning_rates = ConfigDict(allow_dotted_keys=True)  # "llama3.1-8b"
    config.lock()
    if kind is SweepConfig:
        config.learning_rates.unlock()
    return config


def find(name: str, folder: Path = CONFIGS) -> Path:
    """The path of config `name`: a bare name, with or without ".py", in `configs/`; else a path.

    Raises ConfigError listing what there is.
    """
    places = [Path(name)]
    if Path(name).name == name:
        places = [folder / name, folder / f"{name}.py", Path(name)]
    for path in places:
        if path.is_file():
            return path
    there = ", ".join(sorted(p.name for p in folder.glob("*.py"))) or "none"
    raise ConfigError(f"no config file {name!r}, neither here nor in {folder} (there: {there})")


def load[T](
    spec: str, overrides: Mapping[str, str] | None = None, *, kind: type[T] = SweepConfig
) -> tuple[T, str]:
    """Loads "file.py" or "file.py:variant" and applies overrides ("sweep.draws" -> "5").

    Returns the config, a `kind`, and the file's docstring.

    Raises ConfigError: unknown file, variant, key (naming the nearest) or a value of the wrong type.
    """
    name, _, variant = spec.partition(":")
    path = find(name)
    module = _execute(path)
    try:
        config: ConfigDict = module.get_config(variant)
    except ConfigError:
        raise
    except (AttributeError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: {_first_line(error)}") from error
    for key, value in (overrides or {}).items():
        _override(config, key, value)
    return from_mapping(kind, config.to_dict()), inspect.getdoc(module) or ""


def parse_arguments(
    parser: argparse.ArgumentParser, arguments: list[str], *, example: str
) -> tuple[argparse.Namespace, dict[str, str]]:
    """The parser's flags, and overrides as {"sweep.draws": "5"}; `example` shows how one is written."""
    options, rest = parser.parse_known_args(arguments)
    overrides: dict[str, str] = {}
    words = iter(rest)
    for word in words:
        flag, equals, value = word.lstrip("-").partition("=")
        if not word.startswith("--config.") and not word.startswith("-config."):
            parser.error(f"unknown argument {word!r}; overrides are written {example}")
        overrides[flag.removeprefix("config.")] = value if equals else next(words, "")
    return options, overrides


def choose_variant(variant: str, variants: Mapping[str, Any], file: str) -> Any:
    """The entry of `variants` named `variant` ("" is the default one). Raises ConfigError naming the nearest."""
    if variant not in variants:
        known = [f"{file}:{name}" if name else file for name in variants]
        raise ConfigError(
            unknown_key(f"{file}:{variant}", known).replace("key", "variant")
            + f" (there: {', '.join(known)})"
        )
    return variants[variant]


def _override(config: ConfigDict, key: str, text: str) -> None:
    *path, last = key.split(".", 1) if key.startswith("learning_rates.") else key.split(".")
    node: Any = config
    for part in path:
        node = node[part] if isinstance(node, ConfigDict) and part in node else None
    free = path == ["learning_rates"]
    if not isinstance(node, ConfigDict) or (last not in node and not free):
        raise ConfigError(unknown_key(f"config.{key}", [f"config.{k}" for k in _flat_keys(config)]))
    old = 0.0 if free else node[last]
    if isinstance(old, ConfigDict):
        raise ConfigError(f"config.{key} holds keys ({', '.join(old)}): set one of them")
    node[last] = _parse(f"config.{key}", text, old)


def _parse(key: str, text: str, old: Any) -> Any:
    """`text` as the type of the value it replaces; sequences are written 1,2,3 or (1,2,3)."""
    if isinstance(old, tuple):
        kind = type(old[0]) if old else str
        items = [item.strip().strip("'\"") for item in text.strip("()[] ").split(",") if item.strip()]
        if not old and key.endswith("pairs"):
            kind = int
        return tuple(_scalar(key, item, kind) for item in items)
    return _scalar(key, text, type(old))


def _scalar(key: str, text: str, kind: type) -> Any:
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ConfigError(f"{key}={text!r} must be true or false")
        return text.lower() == "true"
    try:
        if kind is int and float(text).is_integer():
            return int(float(text))  # 1e4 is a fine way to write 10,000
        return kind(text)
    except ValueError as error:
        raise ConfigError(f"{key}={text!r} must be {kind.__name__}") from error


def _flat_keys(config: ConfigDict, prefix: str = "") -> list[str]:
    out = []
    for key in config:
        value = config[key]
        out += _flat_keys(value, f"{prefix}{key}.") if isinstance(value, ConfigDict) else [f"{prefix}{key}"]
    return out


def _execute(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"rewardscale_config_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(f"{path} cannot be run: {type(error).__name__}: {error}") from error
    if not hasattr(module, "get_config"):
        raise ConfigError(f"{path} has no get_config(variant)")
    return module


def _first_line(error: Exception) -> str:
    text = str(error.args[0] if error.args else error)
    return " ".join(text.replace("\\n", " ").split())


def _mutable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _mutable(v) for k, v in value.items()}
    return (
        _mutable(dataclasses.asdict(value))
        if dataclasses.is_dataclass(value) and not isinstance(value, type)
        else value
    )


def from_mapping[T](cls: type[T], values: Mapping[str, Any], path: str = "config") -> T:
    """Builds the dataclass `cls` from nested mappings.

    Raises ConfigError for an unknown key (naming the nearest valid one) or a value of the wrong type.
    """
    hints = typing.get_type_hints(cls)
    known = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise ConfigError(unknown_key(f"{path}.{key}", [f"{path}.{name}" for name in known]))
    converted = {key: _convert(hints[key], value, f"{path}.{key}") for key, value in values.items()}
    try:
        return cls(**converted)
    except ConfigError:
        raise
    except TypeError as error:
        raise ConfigError(f"{path}: {error}") from error


def unknown_key(key: str, known: list[str]) -> str:
    """The message for an unknown key: names it and the nearest valid one."""
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
    return f"unknown key {key!r}; did you mean {near[0]!r}?" if near else f"unknown key {key!r}"


def _convert(hint: Any, value: Any, path: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        return _first_that_fits([a for a in arguments if a is not type(None)], value, path)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path} must hold keys, not {value!r}")
        return from_mapping(typing.cast(type, hint), value, path)
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, (list, tuple)):
            raise ConfigError(f"{path}={value!r} must be a sequence")
        kinds = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(kinds) != len(value):
            raise ConfigError(f"{path}={value!r} must have {len(kinds)} entries")
        return tuple(
            _convert(k, v, f"{path}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True))
        )
    if origin is not None and issubclass(origin, Mapping):
        return {str(k): _convert(arguments[1], v, f"{path}.{k}") for k, v in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{path}={value!r} must be {hint.__name__}, not {type(value).__name__}")
    return value


def _first_that_fits(hints: list[Any], value: Any, path: str) -> Any:
    errors = []
    for hint in hints:
        try:
            return _convert(hint, value, path)
        except ConfigError as error:
            errors.append(str(error))
    raise ConfigError("; or ".join(errors))
