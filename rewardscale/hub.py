"""The Hugging Face hub: the files of a repository at a commit, on this machine."""

import re
from collections.abc import Sequence
from pathlib import Path


class HubError(RuntimeError):
    """Something that cannot be had from the hub; the message says why."""


def snapshot(name: str, revision: str | None, *, files: Sequence[str], kind: str = "model") -> Path:
    """The folder of a repository's files in the local cache; what is not there yet is downloaded.

    Args:
      name: "owner/name". revision: the commit, 40 hex digits. files: globs of what is wanted.
      kind: "model" or "dataset".

    Raises HubError for what is no hub id, is not pinned to a commit, or cannot be had (unknown, private, offline).
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise HubError(f"no folder {name}, and it is no hub id ('owner/name') either")
    if revision is None or not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise HubError(
            f"no folder {name}; to take {name} from the hub name the commit (its revision: 40 hex digits, from the "
            f"{kind}'s 'Files' page): a branch moves, and its files with it"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return Path(snapshot_download(name, revision=revision, repo_type=kind, allow_patterns=list(files)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        why = " ".join(str(error).split())  # the library's messages have several lines
        raise HubError(f"{name} at {revision} cannot be had from the hub: {why}") from error
