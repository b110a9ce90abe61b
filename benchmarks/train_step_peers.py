"""PyTorch's side of benchmarks/train_step.py: run by it in the environment of `make reference`, prints JSON.

    python -m benchmarks.train_step_peers CASE --arm=padded --bfloat16 --compiled

One arm a call. All arms train transformers' Llama or Qwen3 ForSequenceClassification on the same pairs:

    trl        TRL's RewardTrainer with its defaults (batches of 8 pairs), as its documentation starts it
    trl-tuned  the same, tuned: no gradient checkpointing, pairs of like length together, steps of as many pairs as ours
    padded     a loop of our own: pairs of like length together, right padding and no mask, so that SDPA runs its causal
               kernel (flash on GPUs; --cudnn asks for cuDNN's), fused AdamW
    packed     the rows that our packed arm trains on, no padding: products over whole rows, SDPA's causal kernel
               sequence by sequence
    masked     the same rows, SDPA over whole rows with a mask
    shared     the rows of our shared arm: a prompt once, its two responses after it, SDPA tree by tree
    flex       the rows of packed, FlexAttention with a block mask of its sequences
    flex-shared  the rows of shared, FlexAttention with a block mask of its trees

The last two train on GPUs alone: FlexAttention has no backward pass on CPUs. Block masks are made before the clock
runs, as are our rows. Each but trl with or without torch.compile and bfloat16 autocast.
"""

import argparse
import contextlib
import json
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
from torch.nn.attention import SDPBackend, flex_attention, sdpa_kernel

from benchmarks.peers import Case, versions

# pyright: reportMissingImports=false

SEQUENCES: dict[str, Any] = {}  # of the microbatch at hand, for `attend`
RATE = 1e-4
ARMS = ("trl", "trl-tuned", "padded", "packed", "masked", "shared", "flex", "flex-shared")


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
                mask = torch.ones(length, prompt + length, dtype=torch.bool, device=q.device).tril(prompt)
                parts.append(F.scaled_dot_product_attention(q[:, :, tail], keys, values, attn_mask=mask))
        used = sum(part.shape[2] for part in parts)
        if used < q.shape[2]:
            parts.append(v[:, :, used:])  # padding at the end of a row
        rows.append(torch.cat(parts, 2))
    return torch.cat(rows).transpose(1, 2), None


def padded_steps(case: Case) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """(pairs, microbatches) of each step: pairs of like length together, padded to their longest."""
    longest = (case.lengths[:, :1] + case.lengths[:, 1:]).max(1)
    step, few = case.settings["step"], case.settings["peer_pairs"]
    for first in range(0, len(longest), step):
        here = np.arange(first, min(first + step, len(longest)))
        here = here[np.argsort(longest[here], kind="stable")]
        micro = []
        for group in (here[i : i + few] for i in range(0, len(here), few)):
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


def packed_steps(case: Case, layout: str, mask: str) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """(pairs, microbatches) of each step, in the rows of a layout: "separate" or "shared".

    `mask`: "" (sequence by sequence), "whole" (a boolean one over rows) or "blocks" (FlexAttention's).
    """
    step, row = (case.arrays[f"{layout}_{name}"] for name in ("step", "row"))
    rows = int(case.arrays[f"{layout}_shape"][0])
    for number in range(int(step.max()) + 1):
        mine = np.flatnonzero(step == number)
        micro = []
        for block in range(int(row[mine].max()) // rows + 1):
            here = mine[row[mine] // rows == block]
            micro.append(_microbatch(case, layout, here, mask))
        yield len(mine), micro


def _microbatch(case: Case, layout: str, here: np.ndarray, mask: str) -> dict[str, Any]:
    """Rows of the pairs `here`: tokens, positions, where each pair's rewards are, and what attention needs."""
    row, offset = case.arrays[f"{layout}_row"], case.arrays[f"{layout}_offset"]
    rows, width = (int(n) for n in case.arrays[f"{layout}_shape"])
    tokens, positions = np.zeros((2, rows, width), np.int64)
    tree = -1 - np.broadcast_to(np.arange(width), (rows, width)).copy()  # a token of padding is alone
    part = np.zeros((rows, width), np.int64)  # 0: seen by all that follow in the tree; else by its own part
    trees: list[list[Any]] = [[] for _ in range(rows)]
    ends = []
    for pair in here[np.lexsort((offset[here], row[here]))]:
        prompt, chosen, rejected = case.parts(pair)
        r, at, (p, c, e) = row[pair] % rows, int(offset[pair]), case.lengths[pair].tolist()
        pieces = [prompt, chosen, rejected] if layout == "shared" else [prompt, chosen, prompt, rejected]
        whole = np.concatenate(pieces)
        span, second = slice(at, at + len(whole)), at + p + c
        tokens[r, span] = whole
        again = p + np.arange(e) if layout == "shared" else np.arange(p + e)
        positions[r, span] = np.concatenate([np.arange(p + c), again])
        tree[r, span] = 2 * pair
        ends.append((r, second - 1, at + len(whole) - 1))
        if layout == "shared":
            part[r, at + p : second], part[r, second : span.stop] = 1, 2
            trees[r].append((at, p + c, (p, e)))
        else:
            tree[r, second : span.stop] = 2 * pair + 1
            trees[r] += [(at, p + c, None), (second, p + e, None)]
    found = {"tokens": torch.tensor(tokens), "positions": torch.tensor(positions)}
    found |= {"ends": torch.tensor(np.array(ends)), "rows": trees}
    if mask == "blocks":
        found["blocks"] = block_mask(torch.tensor(tree), torch.tensor(part), case.device)
    if mask == "whole":
        seen = (tree[:, :, None] == tree[:, None]) & np.tri(width, dtype=bool)
        seen &= (part[:, None] == 0) | (part[:, None] == part[:, :, None])
        found["mask"] = torch.tensor(seen)[:, None]
    return found


def block_mask(tree: torch.Tensor, part: torch.Tensor, device: str) -> Any:
    """FlexAttention's mask [R, 1, T, T]: a token sees what stands before it in its tree and part, and in part 0."""
    tree, part = tree.to(device), part.to(device)

    def seen(b: Any, h: Any, q: Any, k: Any) -> Any:
        del h
        mine = (part[b, k] == 0) | (part[b, k] == part[b, q])
        return (tree[b, q] == tree[b, k]) & (q >= k) & mine

    rows, width = tree.shape
    return flex_attention.create_block_mask(seen, rows, None, width, width, device=device)


def rewards(model: Any, micro: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rewards of chosen and rejected: head and pooling as in ForSequenceClassification, at their tokens alone."""
    SEQUENCES.clear()
    SEQUENCES.update({name: micro[name] for name in ("rows", "mask") if name in micro})
    hidden = model.model(
        input_ids=micro["tokens"],
        attention_mask=micro.get("blocks"),
        position_ids=micro.get("positions"),
        use_cache=False,
    )[0]
    if "at" in micro:
        at = torch.arange(len(hidden), device=hidden.device)
        return model.score(hidden[at, micro["at"]])[:, 0].float().chunk(2)
    row, chosen, rejected = micro["ends"].unbind(1)
    return model.score(hidden[row, chosen])[:, 0].float(), model.score(hidden[row, rejected])[:, 0].float()


def prepare(case: Case, model: Any, arm: str) -> list[tuple[int, list[dict[str, Any]]]]:
    """Sets the model's attention, and makes all steps of an arm, on the device."""
    if arm == "padded":
        model.set_attn_implementation("sdpa")
        steps = padded_steps(case)
    else:
        layout = "shared" if arm in ("shared", "flex-shared") else "separate"
        if arm.startswith("flex"):
            model.set_attn_implementation("flex_attention")
        else:
            transformers.AttentionInterface.register("by_sequence", attend)
            transformers.AttentionMaskInterface.register("by_sequence", lambda *_, **__: None)
            model.set_attn_implementation("by_sequence")
        steps = packed_steps(
            case, layout, "blocks" if arm.startswith("flex") else "whole" if arm == "masked" else ""
        )
    return [
        (
            pairs,
            [
                {k: v.to(case.device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
                for batch in micro
            ],
        )
        for pairs, micro in steps
    ]


def loop(case: Case, arm: str, *, compiled: bool, bfloat16: bool, cudnn: bool, passes: int) -> dict[str, Any]:
    """Seconds of each pass over the pairs, and the loss of the first."""
    model = case.build(bfloat16=case.settings["parameters"] == "bfloat16")
    if case.settings["peer_checkpointing"]:
        model.gradient_checkpointing_enable()
    steps = prepare(case, model, arm)
    optimizer = torch.optim.AdamW(model.parameters(), RATE, fused=True)
    forward: Callable[..., Any] = rewards
    if compiled:
        if arm in ("padded", "masked", "flex", "flex-shared"):
            forward = torch.compile(rewards, dynamic=arm in ("padded", "masked"))
        else:  # all but attention, whose shapes are other ones each time
            for layer in model.model.layers:
                layer.mlp = torch.compile(layer.mlp)
                layer.input_layernorm = torch.compile(layer.input_layernorm)
                layer.post_attention_layernorm = torch.compile(layer.post_attention_layernorm)
    kernels = (
        sdpa_kernel([SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION], set_priority=True)
        if cudnn
        else contextlib.nullcontext()
    )
    seconds, first_loss = [], 0.0
    with kernels:
        for number in range(passes + 1):
            started = time.perf_counter()
            losses = []
            for pairs, micro in steps:
                optimizer.zero_grad(set_to_none=True)
                for batch in micro:
                    with torch.autocast(case.device, torch.bfloat16, enabled=bfloat16):
                        chosen, rejected = forward(model, batch)
                    loss = -F.logsigmoid(chosen - rejected).sum() / pairs
                    loss.backward()
                    losses.append(loss.detach())  # read later: nothing waits for the device here
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
            case.wait()
            seconds.append(time.perf_counter() - started)
            if number == 0:
                first_loss = float(torch.stack(losses).sum()) / len(steps)
    computed = sum(batch["tokens"].numel() for _, micro in steps for batch in micro)
    return {"first": seconds[0], "seconds": seconds[1:], "computed": computed, "loss": first_loss}


def trl_trainer(case: Case, passes: int, *, tuned: bool, bfloat16: bool) -> dict[str, Any]:
    """The same of TRL's RewardTrainer: with its defaults, or `tuned` in either type."""
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
        if tuned:
            lines[-1]["length"] = len(prompt) + max(len(chosen), len(rejected))
    batch = trl.RewardConfig.per_device_train_batch_size
    more = {
        "bf16": bfloat16,
        "gradient_checkpointing": False,
        "gradient_accumulation_steps": max(1, case.settings["step"] // batch),
        "train_sampling_strategy": "group_by_length",
        "remove_unused_columns": False,  # or the lengths that it groups by are removed
    }
    with tempfile.TemporaryDirectory() as folder:
        settings = trl.RewardConfig(
            folder, num_train_epochs=passes + 1, max_length=None, report_to="none", save_strategy="no",
            use_cpu=case.device == "cpu", disable_tqdm=True, logging_strategy="no", **(more if tuned else {}),
        )  # fmt: skip
        ended = [time.perf_counter()]

        class Clock(transformers.TrainerCallback):
            def on_epoch_begin(self, *_: Any, **__: Any) -> None:
                ended[0] = ended[0] if len(ended) > 1 else time.perf_counter()

            def on_epoch_end(self, *_: Any, **__: Any) -> None:
                case.wait()
                ended.append(time.perf_counter())

        trainer = trl.RewardTrainer(
            case.build(bfloat16=case.settings["parameters"] == "bfloat16"), args=settings,
            train_dataset=datasets.Dataset.from_list(lines), processing_class=fast, callbacks=[Clock()],
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="a case that benchmarks/train_case.py wrote")
    parser.add_argument("--arm", required=True, choices=ARMS, help="as above")
    parser.add_argument(
        "--compiled", action="store_true", help="torch.compile, of all or of all but attention"
    )
    parser.add_argument("--bfloat16", action="store_true", help="autocast; of trl-tuned, bf16=True")
    parser.add_argument("--cudnn", action="store_true", help="SDPA by cuDNN where it can (GPUs)")
    parser.add_argument("--passes", type=int, default=3, help="that are timed, after one that compiles")
    options = parser.parse_args()
    case = Case(options.folder)
    if options.arm.startswith("trl"):
        tuned = options.arm == "trl-tuned"
        found = trl_trainer(case, options.passes, tuned=tuned, bfloat16=options.bfloat16)
    else:
        found = loop(
            case, options.arm, compiled=options.compiled, bfloat16=options.bfloat16, cudnn=options.cudnn,
            passes=options.passes,
        )  # fmt: skip
    found["pairs_per_second"] = len(case.lengths) / statistics.median(found["seconds"])
    found["peak"] = case.peak_bytes()
    found["versions"] = versions("trl")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
