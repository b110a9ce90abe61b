"""PyTorch's side of benchmarks/train_step.py: run by it in the environment of `make reference`, prints JSON.

One arm a call. All arms train transformers' Qwen3ForSequenceClassification on the same pairs:

    trl        TRL's RewardTrainer with its defaults (batches of 8 pairs), as its documentation starts it
    padded     a loop of our own: pairs of like length together, right padding and no mask, so that SDPA runs its causal
               kernel, fused AdamW
    packed     the rows that our packed arm trains on, no padding: products over whole rows, SDPA's causal kernel
               sequence by sequence (variable-length kernels are for GPUs; FlexAttention has no backward pass on CPUs)
    masked     the same rows, SDPA over whole rows with a mask
    shared     the rows of our shared arm: a prompt once, its two responses after it, SDPA tree by tree

Each but trl with or without torch.compile and bfloat16 autocast.
"""

import argparse
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch.nn import functional as F

# pyright: reportMissingImports=false

SEQUENCES: dict[str, Any] = {}  # of the microbatch at hand, for `attend`
RATE = 1e-4


class Case:
    """What benchmarks/train_step.py wrote: pairs, and where they lie in the rows of either layout."""

    def __init__(self, path: Path):
        self.arrays = np.load(path / "case.npz")
        self.model = json.loads((path / "model.json").read_text())
        self.lengths = self.arrays["lengths"]  # [pairs, 3]: prompt, chosen, rejected
        ends = np.cumsum(self.lengths.sum(1))
        self.starts = ends - self.lengths.sum(1)
        self.per_step = int(self.arrays["pairs_per_step"])

    def parts(self, pair: int) -> list[np.ndarray]:
        """Tokens of prompt, chosen and rejected."""
        flat = self.arrays["tokens"][self.starts[pair] :]
        prompt, chosen, rejected = self.lengths[pair]
        return [
            flat[:prompt],
            flat[prompt : prompt + chosen],
            flat[prompt + chosen : prompt + chosen + rejected],
        ]


def build(case: Case) -> torch.nn.Module:
    """The model, with fresh weights."""
    torch.manual_seed(0)
    config = transformers.Qwen3Config(**case.model, num_labels=1, pad_token_id=0)
    return transformers.Qwen3ForSequenceClassification(config)


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention function: SDPA by SEQUENCES' sequences or trees; q [R, H, T, d], k, v [R, K, T, d]."""
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, 1) for x in (key, value))
    if "mask" in SEQUENCES:
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=SEQUENCES["mask"])
        return out.transpose(1, 2), None
    rows = []
    for row, trees in enumerate(SEQUENCES["rows"]):
        q, k, v = (x[row : row + 1] for x in (query, key, value))
        parts = []
        for (
            begin,
            first,
            second,
        ) in trees:  # `second` tokens see all before `first` of the tree, and themselves
            near = slice(begin, begin + first)
            parts.append(
                F.scaled_dot_product_attention(q[:, :, near], k[:, :, near], v[:, :, near], is_causal=True)
            )
            if second is not None:
                prompt, length = second
                tail = slice(begin + first, begin + first + length)
                keys, values = (
                    torch.cat([x[:, :, begin : begin + prompt], x[:, :, tail]], 2) for x in (k, v)
                )
                mask = torch.ones(length, prompt + length, dtype=torch.bool).tril(prompt)
                parts.append(F.scaled_dot_product_attention(q[:, :, tail], keys, values, attn_mask=mask))
        used = sum(part.shape[2] for part in parts)
        if used < q.shape[2]:
            parts.append(v[:, :, used:])  # padding at the end of a row
        rows.append(torch.cat(parts, 2))
    return torch.cat(rows).transpose(1, 2), None


def padded_steps(case: Case) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """(pairs, microbatches) of each step: 8 pairs of like length together, padded to their longest."""
    longest = (case.lengths[:, :1] + case.lengths[:, 1:]).max(1)
    for first in range(0, len(longest), case.per_step):
        here = np.arange(first, min(first + case.per_step, len(longest)))
        here = here[np.argsort(longest[here], kind="stable")]
        micro = []
        for group in (here[i : i + 8] for i in range(0, len(here), 8)):
            width = -(-int(longest[group].max()) // 16) * 16
            tokens, at = np.zeros((2 * len(group), width), np.int64), np.zeros(2 * len(group), np.int64)
            for i, pair in enumerate(group):
                prompt, *responses = case.parts(pair)
                for side, response in enumerate(responses):
                    whole = np.concatenate([prompt, response])
                    tokens[i + side * len(group), : len(whole)] = whole
                    at[i + side * len(group)] = len(whole) - 1
            micro.append({"tokens": torch.tensor(tokens), "at": torch.tensor(at)})
        yield len(here), micro


def packed_steps(case: Case, layout: str, masked: bool) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """(pairs, microbatches) of each step, in the rows of a layout: "separate" or "shared"."""
    step, row, offset = (case.arrays[f"{layout}_{name}"] for name in ("step", "row", "offset"))
    rows, width = case.arrays[f"{layout}_shape"]
    for number in range(int(step.max()) + 1):
        mine = np.flatnonzero(step == number)
        micro = []
        for block in range(int(row[mine].max()) // rows + 1):
            here = mine[row[mine] // rows == block]
            tokens, positions = np.zeros((2, rows, width), np.int64)
            trees: list[list[Any]] = [[] for _ in range(rows)]
            ends = []
            mask = np.broadcast_to(np.eye(width, dtype=bool), (rows, width, width)).copy() if masked else None
            for pair in here[np.lexsort((offset[here], row[here]))]:
                prompt, chosen, rejected = case.parts(pair)
                r, at = row[pair] % rows, int(offset[pair])
                pieces = (
                    [prompt, chosen, rejected] if layout == "shared" else [prompt, chosen, prompt, rejected]
                )
                whole = np.concatenate(pieces)
                p, c, e = len(prompt), len(chosen), len(rejected)
                tokens[r, at : at + len(whole)] = whole
                first = np.arange(p + c)
                second = p + np.arange(e) if layout == "shared" else np.arange(p + e)
                positions[r, at : at + len(whole)] = np.concatenate([first, second])
                ends.append((r, at + p + c - 1, at + len(whole) - 1))
                if layout == "shared":
                    trees[r].append((at, p + c, (p, e)))
                else:
                    trees[r] += [(at, p + c, None), (at + p + c, p + e, None)]
                if mask is not None:
                    for begin, size in ((at, p + c), (at + p + c, p + e)):
                        near = slice(begin, begin + size)
                        mask[r, near, near] = np.tri(size, dtype=bool)
            found = {"tokens": torch.tensor(tokens), "positions": torch.tensor(positions)}
            found |= {"ends": torch.tensor(np.array(ends)), "rows": trees}
            micro.append(found if mask is None else found | {"mask": torch.tensor(mask)[:, None]})
        yield len(mine), micro


def rewards(model: Any, micro: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rewards of chosen and rejected: head and pooling as in Qwen3ForSequenceClassification, at their tokens alone."""
    SEQUENCES.clear()
    SEQUENCES.update({name: micro[name] for name in ("rows", "mask") if name in micro})
    hidden = model.model(input_ids=micro["tokens"], position_ids=micro.get("positions"), use_cache=False)[0]
    if "at" in micro:
        scores = model.score(hidden[torch.arange(len(hidden)), micro["at"]])[:, 0].float()
        return scores.chunk(2)
    row, chosen, rejected = micro["ends"].unbind(1)
    return model.score(hidden[row, chosen])[:, 0].float(), model.score(hidden[row, rejected])[:, 0].float()


def loop(case: Case, arm: str, *, compiled: bool, bfloat16: bool, passes: int) -> dict[str, Any]:
    """Seconds of each pass over the pairs, and the loss of the first."""
    model: Any = build(case)
    if arm == "padded":
        model.set_attn_implementation("sdpa")
        steps = list(padded_steps(case))
    else:
        transformers.AttentionInterface.register("by_sequence", attend)
        transformers.AttentionMaskInterface.register("by_sequence", lambda *_, **__: None)
        model.set_attn_implementation("by_sequence")
        steps = list(packed_steps(case, "shared" if arm == "shared" else "separate", arm == "masked"))
    optimizer = torch.optim.AdamW(model.parameters(), RATE, fused=True)
    forward: Callable[..., Any] = rewards
    if compiled:
        if arm == "padded" or arm == "masked":
            forward = torch.compile(rewards, dynamic=True)
        else:  # all but attention, whose shapes are other ones each time
            for layer in model.model.layers:
                layer.mlp = torch.compile(layer.mlp)
                layer.input_layernorm = torch.compile(layer.input_layernorm)
                layer.post_attention_layernorm = torch.compile(layer.post_attention_layernorm)
    seconds, first_loss = [], 0.0
    for number in range(passes + 1):
        started = time.perf_counter()
        losses = []
        for pairs, micro in steps:
            optimizer.zero_grad(set_to_none=True)
            for batch in micro:
                with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                    chosen, rejected = forward(model, batch)
                loss = -F.logsigmoid(chosen - rejected).sum() / pairs
                loss.backward()
                losses.append(float(loss.detach()))
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        if number == 0:
            first_loss = sum(losses) / len(steps)
        seconds.append(time.perf_counter() - started)
    computed = sum(batch["tokens"].numel() for _, micro in steps for batch in micro)
    return {"first": seconds[0], "seconds": seconds[1:], "computed": computed, "loss": first_loss}


def stock_trl(case: Case, passes: int) -> dict[str, Any]:
    """The same of TRL's RewardTrainer with its defaults."""
    import datasets
    import trl
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {f"w{i}": i for i in range(case.model["vocab_size"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="w0", eos_token="w1")
    lines = []
    for pair in range(len(case.lengths)):
        prompt, chosen, rejected = (part.tolist() for part in case.parts(pair))
        lines.append({"chosen_ids": prompt + chosen, "rejected_ids": prompt + rejected})
    with tempfile.TemporaryDirectory() as folder:
        settings = trl.RewardConfig(
            folder, num_train_epochs=passes + 1, max_length=None, report_to="none", save_strategy="no", use_cpu=True,
            disable_tqdm=True, logging_strategy="no",
        )  # fmt: skip
        ended = [time.perf_counter()]

        class Clock(transformers.TrainerCallback):
            def on_epoch_begin(self, *_: Any, **__: Any) -> None:
                ended[0] = ended[0] if len(ended) > 1 else time.perf_counter()

            def on_epoch_end(self, *_: Any, **__: Any) -> None:
                ended.append(time.perf_counter())

        trainer = trl.RewardTrainer(
            build(case), args=settings, train_dataset=datasets.Dataset.from_list(lines), processing_class=fast,
            callbacks=[Clock()],
        )  # fmt: skip
        computed = sum(batch["input_ids"].numel() for batch in trainer.get_train_dataloader())
        trainer.train()
    seconds = np.diff(ended).tolist()
    kind = "bfloat16" if settings.bf16 else "float32"
    about = f"{kind}, gradient checkpointing {'on' if settings.gradient_checkpointing else 'off'}"
    return {
        "first": seconds[0],
        "seconds": seconds[1:],
        "computed": computed,
        "loss": float("nan"),
        "about": about,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--arm", required=True)
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--bfloat16", action="store_true")
    parser.add_argument("--passes", type=int, default=3)
    options = parser.parse_args()
    case = Case(options.folder)
    if options.arm == "trl":
        found = stock_trl(case, options.passes)
    else:
        found = loop(
            case, options.arm, compiled=options.compiled, bfloat16=options.bfloat16, passes=options.passes
        )
    found["pairs_per_second"] = len(case.lengths) / statistics.median(found["seconds"])
    found["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    found["versions"] = {"torch": torch.__version__, "transformers": transformers.__version__}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
