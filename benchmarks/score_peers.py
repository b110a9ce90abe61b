"""transformers' side of benchmarks/score.py: run by it in the environment of `make reference`, prints JSON.

Every prompt with one response is a sequence; sequences are sorted by length, and a batch takes as many as 8,192 tokens
hold, padded on the right to its longest, no mask, so that SDPA runs its causal kernel.
"""

import argparse
import json
import resource
import statistics
import time
from pathlib import Path

import numpy as np
import torch
import transformers

# pyright: reportMissingImports=false

TOKENS = 8192


def batches(folder: Path) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Tokens [n, longest] and last tokens [n] of each batch."""
    case = np.load(folder / "case.npz")
    sequences, at = [], 0
    for prompt, *responses in case["lengths"].tolist():
        shared, at = case["tokens"][at : at + prompt], at + prompt
        for response in responses:
            sequences.append(np.concatenate([shared, case["tokens"][at : at + response]]))
            at += response
    sequences.sort(key=len, reverse=True)
    found, first = [], 0
    while first < len(sequences):
        width = -(-len(sequences[first]) // 16) * 16
        group = sequences[first : first + max(1, TOKENS // width)]
        tokens = np.zeros((len(group), width), np.int64)
        for row, sequence in enumerate(group):
            tokens[row, : len(sequence)] = sequence
        found.append((torch.tensor(tokens), torch.tensor([len(s) - 1 for s in group])))
        first += len(group)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--bfloat16", action="store_true")
    parser.add_argument("--passes", type=int, default=3)
    options = parser.parse_args()
    torch.manual_seed(0)
    config = transformers.Qwen3Config(
        **json.loads((options.folder / "model.json").read_text()), num_labels=1, pad_token_id=0
    )
    model = transformers.Qwen3ForSequenceClassification(config).eval()
    if options.bfloat16:
        model = model.to(torch.bfloat16)

    def rewards(tokens: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        hidden = model.model(input_ids=tokens, use_cache=False)[0]
        return model.score(hidden[torch.arange(len(tokens)), at])[:, 0].float()

    forward = torch.compile(rewards, dynamic=True) if options.compiled else rewards
    work, seconds = batches(options.folder), []
    with torch.inference_mode():
        for _ in range(options.passes + 1):
            started = time.perf_counter()
            for tokens, at in work:
                forward(tokens, at)
            seconds.append(time.perf_counter() - started)
    count = sum(len(at) for _, at in work)
    print(
        json.dumps(
            {
                "first": seconds[0],
                "seconds": seconds[1:],
                "computed": sum(tokens.numel() for tokens, _ in work),
                "responses_per_second": count / statistics.median(seconds[1:]),
                "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            }
        )
    )


if __name__ == "__main__":
    main()
