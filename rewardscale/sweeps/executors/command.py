"""The command line by which any other program runs a sweep's cells."""

import sys
from collections.abc import Mapping
from pathlib import Path

from rewardscale.remote import origin
from rewardscale.sweeps import configfile


def cells(spec: str, overrides: Mapping[str, str], workdir: Path, data_dir: Path | None) -> list[str]:
    """`python -m rewardscale.launch` for the same sweep from any folder; who runs it adds --cell=RUN_ID.

    Args:
      spec: "FILE[:VARIANT]"; a file of configs/ keeps its bare name. overrides: {"sweep.draws": "5"}.
    """
    name, colon, variant = spec.partition(":")
    path = configfile.find(name)
    if path.parent != configfile.CONFIGS:
        name = str(path.resolve())
    return [
        sys.executable,
        "-m",
        "rewardscale.launch",
        f"--config={name}{colon}{variant}",
        *(f"--config.{key}={value}" for key, value in overrides.items()),
        f"--workdir={origin.url(workdir) or Path(workdir).resolve()}",
        *([f"--data_dir={Path(data_dir).resolve()}"] if data_dir else []),
    ]
