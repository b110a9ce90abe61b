"""Our legs of a parity certificate, each in a process of its own, so that no two models are in memory at once.

    python -m rewardscale.evaluation.certificate_ours REQUEST.json ANSWER.json

REQUEST: {"directory", "dtype", "mesh", "export"}; `export` is the folder to export to, or null. ANSWER: what `leg`
returns, or {"refused": why} if the directory cannot be used.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from rewardscale import platforms
from rewardscale.config import ConfigError
from rewardscale.data.comparison import DataError
from rewardscale.evaluation.certificate_cases import conversations, read_cases
from rewardscale.evaluation.reward_scorer import Prepared, RewardScorer
from rewardscale.models import hf, hf_config
from rewardscale.models.hf_names import expected


def leg(directory: str, dtype: str, mesh: list[int], export: str | None) -> dict[str, Any]:
    """Rewards, token ids and facts of the model; with `export`, also what came back from an exported copy.

    Returns "rewards" and "ids" (a conversation each; None where refused), "refused" (a case each), "facts", and with
    `export` "reloaded" (rewards), "export_failed", "differing" (names of tensors that did not survive).

    Raises ConfigError or DataError for a directory that cannot be used.
    """
    scorer = _load(directory, dtype, mesh)
    found = _rewards(scorer)
    checkpoint, chat = hf.open_checkpoint(directory), scorer.chat
    token = chat.reward_token
    found["facts"] = {
        "architecture": checkpoint.architecture,
        "stored": _stored_dtype(checkpoint),
        "template_hash": chat.template_hash,
        "tokenizer_hash": chat.tokenizer_hash,
        "date": chat.date,
        "reward_token": {"id": token.id, "text": token.text},
        "pad": {"id": chat.pad_token_id, "text": chat.pad_token},
        "recorded": checkpoint.config.get("rewardscale") or {},
        "max_length": scorer.max_length,
    }
    if export is None:
        return found
    try:
        stored = _stored_dtype(checkpoint)
        described = hf_config.as_classifier(
            {"model_type": checkpoint.family, **checkpoint.config},
            pad_token_id=chat.pad_token_id,
            dtype=stored,
        )
        hf.export(Path(export), scorer.params, checkpoint.model, described, dtype=stored, files=chat.files)
        del scorer  # the reloaded one takes its place
        found["differing"] = _differing(checkpoint, hf.open_checkpoint(export))
        found["reloaded"] = _rewards(_load(export, dtype, mesh))["rewards"]
    except OSError as error:
        found["export_failed"] = (
            f"{error.strerror or error}; the copy goes to the temporary folder, name a larger one: TMPDIR=..."
        )
    return found


def _load(directory: str, dtype: str, mesh: list[int]) -> RewardScorer:
    data, fsdp, tensor = mesh
    return RewardScorer.load(directory, mesh=(data, fsdp, tensor), dtype=dtype)


def _rewards(scorer: RewardScorer) -> dict[str, Any]:
    cases = read_cases()
    prepared = scorer.prepare([case.item for case in cases])
    scored = iter(scorer.score([one for one in prepared if isinstance(one, Prepared)]))
    rewards: list[float | None] = []
    ids: list[list[int] | None] = []
    for case, one in zip(cases, prepared, strict=True):
        if isinstance(one, Prepared):
            rewards += [float(value) for value in next(scored)]
            ids += [one.encoded.prompt + response for response in one.encoded.responses]
        else:
            rewards += [None] * len(case.responses)
            ids += [None] * len(case.responses)
    assert len(rewards) == len(ids) == len(conversations())
    refused = [str(one) if isinstance(one, DataError) else None for one in prepared]
    return {"rewards": rewards, "ids": ids, "refused": refused}


def _stored_dtype(checkpoint: hf.Checkpoint) -> str:
    """The type in which an export loses nothing: bfloat16 only if every tensor is stored so."""
    kinds = set()
    for path in set(checkpoint.files.values()):
        with safe_open(path, framework="np") as file:
            wanted = set(expected(checkpoint.model)) & set(file.keys())
            kinds |= {file.get_slice(name).get_dtype() for name in wanted}
    return "bfloat16" if kinds == {"BF16"} else "float32"


def _differing(first: hf.Checkpoint, second: hf.Checkpoint) -> list[str]:
    """Tensors whose numbers are not the same in both."""

    def read(checkpoint: hf.Checkpoint, name: str) -> np.ndarray:
        with safe_open(checkpoint.files[name], framework="np") as file:
            return file.get_tensor(name).astype(np.float32)

    names = expected(first.model)
    return [name for name in names if not np.array_equal(read(first, name), read(second, name))]


def main(request_path: str, answer_path: str) -> None:
    """Answers one request."""
    platforms.prepare()
    try:
        answer = leg(**json.loads(Path(request_path).read_text(encoding="utf-8")))
    except (ConfigError, DataError) as error:
        answer = {"refused": str(error)}
    Path(answer_path).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
