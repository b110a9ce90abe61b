"""PyTorch's side of benchmarks/score.py: run by it in the environment of `make reference`, prints JSON.

    python -m benchmarks.score_peers CASE --bfloat16 --compiled
    python -m benchmarks.score_peers CASE --vllm

The first: every prompt with one response is a sequence; sequences are sorted by length, and a batch takes as many as
8,192 tokens hold, padded on the right to its longest, no mask, so that SDPA runs its causal kernel. The second: the
same sequences to vLLM as it batches them, with its prefix cache, emptied before each pass; it has never been run.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.peers import Case, versions

# pyright: reportMissingImports=false

TOKENS = 8192


def sequences(case: Case) -> list[np.ndarray]:
    """Tokens of every prompt with each of its responses."""
    found = []
    for number in range(len(case.lengths)):
        prompt, *responses = case.parts(number)
        found += [np.concatenate([prompt, response]) for response in responses]
    return found


def batches(case: Case) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Tokens [n, longest] and last tokens [n] of each batch, on the device."""
    ordered = sorted(sequences(case), key=len, reverse=True)
    found, first = [], 0
    while first < len(ordered):
        width = -(-len(ordered[first]) // 16) * 16
        group = ordered[first : first + max(1, TOKENS // width)]
        tokens = np.zeros((len(group), width), np.int64)
        for row, sequence in enumerate(group):
            tokens[row, : len(sequence)] = sequence
        at = torch.tensor([len(s) - 1 for s in group])
        found.append((torch.tensor(tokens).to(case.device), at.to(case.device)))
        first += len(group)
    return found


def by_transformers(case: Case, *, bfloat16: bool, compiled: bool) -> tuple[Callable[[], None], int]:
    """A pass over all sequences, and the tokens that it computes."""
    model = case.build(bfloat16=bfloat16).eval()

    def rewards(tokens: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        hidden = model.model(input_ids=tokens, use_cache=False)[0]
        return model.score(hidden[torch.arange(len(tokens), device=at.device), at])[:, 0].float()

    forward = torch.compile(rewards, dynamic=True) if compiled else rewards
    work = batches(case)

    def once() -> None:
        with torch.inference_mode():
            for tokens, at in work:
                forward(tokens, at)
            case.wait()

    return once, sum(tokens.numel() for tokens, _ in work)


def by_vllm(case: Case, folder: Path) -> tuple[Callable[[], None], int]:
    """The same by vLLM. Its weights are of its own drawing: `folder` holds config.json alone."""
    import vllm

    (folder / "config.json").write_text(json.dumps(case.model | {"torch_dtype": "bfloat16"}))
    engine: Any = vllm.LLM(
        str(folder), runner="pooling", load_format="dummy", skip_tokenizer_init=True, dtype="bfloat16",
        enable_prefix_caching=True, max_model_len=2048,
    )  # fmt: skip
    prompts = [{"prompt_token_ids": sequence.tolist()} for sequence in sequences(case)]

    def once() -> None:
        engine.reset_prefix_cache()
        engine.encode(prompts, pooling_task="classify", use_tqdm=False)

    return once, sum(len(prompt["prompt_token_ids"]) for prompt in prompts)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="a case that benchmarks/train_case.py wrote")
    parser.add_argument("--compiled", action="store_true", help="torch.compile")
    parser.add_argument("--bfloat16", action="store_true", help="weights and products")
    parser.add_argument("--vllm", action="store_true", help="vLLM instead of transformers")
    parser.add_argument("--passes", type=int, default=3, help="that are timed, after one that compiles")
    options = parser.parse_args()
    case = Case(options.folder)
    with tempfile.TemporaryDirectory() as folder:
        if options.vllm:
            once, computed = by_vllm(case, Path(folder))
        else:
            once, computed = by_transformers(case, bfloat16=options.bfloat16, compiled=options.compiled)
        seconds = []
        for _ in range(options.passes + 1):
            started = time.perf_counter()
            once()
            seconds.append(time.perf_counter() - started)
    print(
        json.dumps(
            {
                "first": seconds[0],
                "seconds": seconds[1:],
                "computed": computed,
                "responses_per_second": int((case.lengths[:, 1:] > 0).sum()) / statistics.median(seconds[1:]),
                "peak": case.peak_bytes(),
                "versions": versions("vllm"),
            }
        )
    )


if __name__ == "__main__":
    main()
