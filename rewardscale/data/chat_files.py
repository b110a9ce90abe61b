"""What a Hugging Face directory says of its tokenizer and chat template, read by the rules of transformers 5.

tokenizer.json              the tokenizer
tokenizer_config.json       special tokens by name; perhaps the template
special_tokens_map.json     older: more names, which win unless the configuration lists its added tokens
chat_template.jinja         the template; wins over the configuration's
additional_chat_templates/  others by name, of which "tool_use" serves conversations with tools
"""

import dataclasses
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from rewardscale.data.comparison import DataError

_STANDARD = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
# Pad tokens of known families, for directories that name none. Templates do not write them.
_KNOWN_PADS = (
    "<|finetune_right_pad_id|>",  # Llama 3.1 and later
    "<|reserved_special_token_0|>",  # Llama 3
    "<|endoftext|>",  # Qwen
    "<|fim_pad|>",  # Qwen, where <|endoftext|> is the end of a text
    "<|padding|>",  # GPT-NeoX
)


@dataclasses.dataclass(frozen=True)
class ChatFiles:
    """What was read.

    Attributes:
      tokenizer: with every token that transformers would add, without truncation and padding.
      template, tool_template: Jinja sources.
      named_tokens: bos_token, eos_token, pad_token, ...: those that have a name, pad_token always.
      files: name -> contents; a directory of these is read as the same again.
    """

    tokenizer: Tokenizer
    template: str
    tool_template: str | None
    named_tokens: Mapping[str, str]
    files: Mapping[str, bytes]


def read(directory: Path, *, pad_token: str | None, template: Path | str | None) -> ChatFiles:
    """Reads the tokenizer of `directory`.

    Args:
      directory: a folder as `save_pretrained` writes it.
      pad_token: the pad token, a special token of the vocabulary, whatever the folder says.
      template: a Jinja file or source, whatever the folder says.

    Raises DataError naming the file and the mend.
    """
    definition = _bytes(directory / "tokenizer.json")
    path = directory / "tokenizer_config.json"
    config = _json(path)
    other = directory / "special_tokens_map.json"
    older = _json(other) if other.exists() else None
    _refuse_unsupported(path, config)
    try:
        tokenizer = Tokenizer.from_str(definition.decode())
    except Exception as error:  # the tokenizers library raises bare Exception
        raise DataError(f"{directory / 'tokenizer.json'} cannot be read ({error})") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()

    names = dict(config if "added_tokens_decoder" in config else {**config, **(older or {})})
    known = added_tokens(tokenizer) | {token.content for token in _tokens_to_add(path, tokenizer, names)}
    names["pad_token"] = pad_token or names.get("pad_token") or _known_pad(directory, names, known)
    named = {name: token.content for name, token in _named_tokens(path, names).items()}
    pad = named["pad_token"]
    if pad not in known:
        raise DataError(
            f"{directory}: pad token {pad!r} is not one of the tokenizer's special tokens; {suggest_pad(named, known)}"
        )
    tokenizer.add_tokens(_tokens_to_add(path, tokenizer, names))
    default, for_tools = _templates(directory, config, template)

    config = {**config, "pad_token": pad}
    config.pop("chat_template", None)
    files = {"tokenizer.json": definition}
    if for_tools is None:
        files["chat_template.jinja"] = default.encode()
    else:
        both = {"default": default, "tool_use": for_tools}
        config["chat_template"] = [{"name": name, "template": source} for name, source in both.items()]
    files["tokenizer_config.json"] = _dump(config)
    if older is not None:
        files[other.name] = _dump({**older, "pad_token": pad})
    return ChatFiles(tokenizer, default, for_tools, named, files)


def suggest_pad(named: Mapping[str, str], known: Collection[str]) -> str:
    """The mend of a missing or unfit pad token, in words; `known` are the tokenizer's special tokens."""
    free = [token for token in _KNOWN_PADS if token in known and token not in named.values()]
    example = repr(free[0]) if free else "one that no text and no template holds"
    return f"name another special token of the vocabulary: pad_token=... ({example})"


def _known_pad(directory: Path, names: Mapping[str, Any], known: Collection[str]) -> str:
    named = {name: token.content for name, token in _named_tokens(directory, names).items()}
    for token in _KNOWN_PADS:
        if token in known and token not in (named.get("bos_token"), named.get("eos_token")):
            return token
    raise DataError(f"{directory} names no pad token; {suggest_pad(named, known)}")


def added_tokens(tokenizer: Tokenizer) -> set[str]:
    """Texts that are one token wherever they stand, special or not."""
    return {token.content for token in tokenizer.get_added_tokens_decoder().values()}


def _refuse_unsupported(path: Path, config: Mapping[str, Any]) -> None:
    if "auto_map" in config:
        raise DataError(
            f"{path}: auto_map asks for a tokenizer class with code of its own, which is never run"
        )
    if config.get("split_special_tokens"):
        raise DataError(
            f"{path}: split_special_tokens would take the template's own special tokens apart; remove it"
        )


def _named_tokens(path: Path, config: Mapping[str, Any]) -> dict[str, AddedToken]:
    """bos_token, eos_token, ...: the standard names in their order, then those that a model adds."""
    entries = {name: config.get(name) for name in _STANDARD}
    entries |= {
        name: value
        for name, value in config.items()
        if name.endswith("_token") and name not in entries and isinstance(value, str | dict)
    }
    for key in ("extra_special_tokens", "model_specific_special_tokens"):
        if isinstance(config.get(key), dict):
            entries |= config[key]
    return {name: _token(path, name, value) for name, value in entries.items() if value is not None}


def _token(path: Path, name: str, value: Any) -> AddedToken:
    """A token given as its text (then it is special), or as its text and flags."""
    fields = {"content": value, "special": True} if isinstance(value, str) else value
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    match fields:
        case {"content": str(text)} if text:
            return AddedToken(text, **{flag: bool(fields[flag]) for flag in flags if flag in fields})
        case _:
            raise DataError(f"{path}: {name} is {value!r}; needed: a token's text")


def _tokens_to_add(path: Path, tokenizer: Tokenizer, config: Mapping[str, Any]) -> list[AddedToken]:
    """What transformers adds to the tokenizer, in its order: a token that is there already may change its flags."""
    named = _named_tokens(path, config)
    listed = {id: _token(path, id, value) for id, value in (config.get("added_tokens_decoder") or {}).items()}
    listed = listed or tokenizer.get_added_tokens_decoder()
    tokens = [listed[id] for id in sorted(listed, key=int)]
    further = config.get("extra_special_tokens") or config.get("additional_special_tokens")
    more = [_token(path, "a special token", value) for value in further] if isinstance(further, list) else []
    have = added_tokens(tokenizer) | {token.content for token in tokens}
    for token in (*named.values(), *more):
        if token.content not in have:
            have.add(token.content)
            tokens.append(token)
    names = {token.content for token in named.values()}
    for token in tokens:
        token.special = token.special or token.content in names
    return tokens


def _templates(
    directory: Path, config: Mapping[str, Any], given: Path | str | None
) -> tuple[str, str | None]:
    """The default template and the one for conversations with tools, if it has one of its own."""
    if given is not None:
        return (_text(given) if isinstance(given, Path) else given), None
    by_name: dict[str, str] = {}
    if (path := directory / "chat_template.jinja").exists():
        by_name["default"] = _text(path)
    for path in sorted((directory / "additional_chat_templates").glob("*.jinja")):
        by_name[path.stem] = _text(path)
    if not by_name:
        by_name = dict(_listed_templates(directory / "tokenizer_config.json", config.get("chat_template")))
    if "default" not in by_name:
        known = f"; it has {sorted(by_name)}" if by_name else ""
        raise DataError(f"{directory} has no default chat template{known}; give one: template=...")
    return by_name["default"], by_name.get("tool_use")


def _listed_templates(path: Path, value: Any) -> Iterator[tuple[str, str]]:
    """A template alone is the default one; a list gives each its name."""
    match value:
        case None:
            return
        case str():
            yield "default", value
        case list():
            for entry in value:
                match entry:
                    case {"name": str(name), "template": str(source)}:
                        yield name, source
                    case _:
                        raise DataError(f"{path}: chat_template holds {entry!r}; needed: name and template")
        case _:
            raise DataError(f"{path}: chat_template is a {type(value).__name__}; needed: a string or a list")


def _dump(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(_bytes(path))
    except ValueError as error:
        raise DataError(f"{path} cannot be read ({error})") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} holds a {type(value).__name__}; needed: an object")
    return value


def _text(path: Path) -> str:
    try:
        return _bytes(path).decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} cannot be read ({error})") from error


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}); transformers writes it: "
            "AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        ) from error
