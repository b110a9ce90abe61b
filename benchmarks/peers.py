"""What PyTorch's sides of benchmarks/train_step.py and benchmarks/score.py have in common.

Runs in the environment of `make reference` (or another one with a torch for GPUs: --peers): nothing of rewardscale is
imported.
"""

import importlib.metadata
import json
import resource
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

# pyright: reportMissingImports=false


class Case:
    """What benchmarks/train_case.py wrote: comparisons, and where they lie in the rows of either layout."""

    def __init__(self, path: Path):
        self.arrays = np.load(path / "case.npz")
        self.settings = json.loads((path / "settings.json").read_text())
        self.model = json.loads((path / "model.json").read_text())
        self.device = "cuda" if self.settings["device"] == "gpu" else "cpu"
        self.lengths = self.arrays["lengths"]  # [comparisons, 1 + K]: prompt, responses
        self.tokens = self.arrays["tokens"]
        ends = np.cumsum(self.lengths.sum(1))
        self.starts = ends - self.lengths.sum(1)

    def parts(self, number: int) -> list[np.ndarray]:
        """Tokens of a comparison's prompt and of each of its responses."""
        sizes = self.lengths[number]
        flat = self.tokens[self.starts[number] : self.starts[number] + sizes.sum()]
        return np.split(flat, np.cumsum(sizes)[:-1])

    def build(self, *, bfloat16: bool) -> Any:
        """transformers' ForSequenceClassification of the model, with fresh weights, on the device."""
        torch.manual_seed(0)
        config = transformers.AutoConfig.for_model(**self.model)
        kind = torch.bfloat16 if bfloat16 else torch.float32
        with torch.device(self.device):
            return transformers.AutoModelForSequenceClassification.from_config(config, dtype=kind)

    def wait(self) -> None:
        """Until the device has done all it was given."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def peak_bytes(self) -> int:
        """Most memory that was in use: of the GPU by tensors, or of this process."""
        if self.device == "cuda":
            return torch.cuda.max_memory_allocated()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def versions(*packages: str) -> dict[str, str]:
    """Of torch, transformers and `packages`, those that are not installed left out."""
    found = {}
    for name in ("torch", "transformers", *packages):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found | {"torch": torch.__version__}


if __name__ == "__main__":
    print(json.dumps(versions("trl", "vllm")))
