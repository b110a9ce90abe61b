"""Which model: a folder of it, and the hash of all that its rewards depend on. Nothing here needs an accelerator."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rewardscale import atomic, hub
from rewardscale.config import ConfigError
from rewardscale.evaluation.stored_temperature import (
    FILE,
)  # what is said of a model moves none of its rewards

_READ = (".json", ".jinja", ".safetensors")


def model_folder(model: str | Path, revision: str | None = None) -> Path:
    """The folder of a model; one from the hub (an id, with its commit) is downloaded if need be.

    Raises ConfigError for what is neither, and for a folder that holds no Hugging Face model.
    """
    folder = Path(model)
    if not folder.is_dir():
        try:
            folder = hub.snapshot(str(model), revision, files=["*.safetensors", "*.json", "*.jinja"])
        except hub.HubError as error:
            raise ConfigError(str(error)) from error
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"{folder}/config.json is missing: {folder} holds no Hugging Face model; name the folder that "
            "rewardscale.train wrote (its model/), or one that save_pretrained wrote"
        )
    return folder


def model_hash(folder: Path) -> str:
    """SHA-256 over the weights, configuration, tokenizer and template in `folder`: every byte is read."""
    names = sorted(path for path in folder.iterdir() if path.suffix in _READ and path.name != FILE)
    with ThreadPoolExecutor(4) as pool:
        hashes = list(pool.map(atomic.sha256, names))
    listed = json.dumps([[p.name, h] for p, h in zip(names, hashes, strict=True)])
    return hashlib.sha256(listed.encode()).hexdigest()
