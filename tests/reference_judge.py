"""Runs in the reference environment: writes a tiny causal LM with random weights, and the same one trained as a judge.

    reference_judge.py EXAMPLES OUT     EXAMPLES: a line {"system", "user", "answer"} an example
    OUT/random  OUT/judge               as `transformers serve` loads them

Prompts are long and mostly the same, so the tokenizer merges whole lines of them; it has not seen answers, which are
therefore spelled out in many tokens. Prints the judge's share of right answers in the last steps, on fresh examples.
"""

import json
import random
import sys
import time
from pathlib import Path

import torch  # pyright: ignore[reportMissingImports]
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (  # pyright: ignore[reportMissingImports]
    GenerationConfig,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
)

TEMPLATE = (
    "{% for m in messages %}<s>{{ m['role'] }}\n{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
BEGIN, END, PAD = 0, 1, 2
WINDOW = 48
MOST_SECONDS, BATCH, RIGHT_IN_A_ROW = 400.0, 16, 12
torch.set_num_threads(1)


def tokenizer(texts):
    found = Tokenizer(models.BPE())
    lines = pre_tokenizers.Split(Regex(r"\n"), "merged_with_previous")
    found.pre_tokenizer = pre_tokenizers.Sequence(
        [lines, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    found.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1400, min_frequency=20, special_tokens=["<s>", "</s>", "<pad>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    found.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=found, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    fast.chat_template = TEMPLATE
    return fast


def write(model, tokens, directory):
    # Sampled as the request says; no other default of generation.
    model.generation_config = GenerationConfig(
        do_sample=True, bos_token_id=BEGIN, eos_token_id=END, pad_token_id=PAD
    )
    model.save_pretrained(directory)
    tokens.save_pretrained(directory)


def encoded(tokens, example):
    """(ids, where the answer begins)."""
    messages = [{"role": role, "content": example[role]} for role in ("system", "user")]
    prompt = tokens.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    return prompt + tokens(example["answer"])["input_ids"] + [END], len(prompt)


def batch_of(rows):
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.full((len(rows), longest), PAD)
    labels = torch.full((len(rows), longest), -100)
    for i, (tokens, start) in enumerate(rows):
        ids[i, : len(tokens)] = torch.tensor(tokens)
        labels[i, start : len(tokens)] = ids[i, start : len(tokens)]
    return ids, labels


def main():
    examples = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]
    random.Random(0).shuffle(examples)
    out = Path(sys.argv[2])
    tokens = tokenizer(e["system"] + "\n" + e["user"] for e in examples[:300])
    torch.manual_seed(0)
    # With so short a window the answer sees little but the response shown second, so there is little to find out.
    config = MistralConfig(
        vocab_size=len(tokens), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=4096, sliding_window=WINDOW, bos_token_id=BEGIN,
        eos_token_id=END, pad_token_id=PAD,
    )  # fmt: skip
    model = MistralForCausalLM(config)
    write(model, tokens, out / "random")
    rows = [encoded(tokens, e) for e in examples]
    print(f"{len(tokens)} tokens, rows of {max(len(ids) for ids, _ in rows)}", file=sys.stderr)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    started, row, step, share = time.process_time(), 0, 0, 0.0
    while row < RIGHT_IN_A_ROW and time.process_time() - started < MOST_SECONDS:
        at = step * BATCH % (len(rows) - BATCH)
        step += 1
        ids, labels = batch_of(rows[at : at + BATCH])
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1.0, step / 30)
        done = model(input_ids=ids, attention_mask=(ids != PAD).long(), labels=labels)
        optimizer.zero_grad()
        done.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        wanted = labels[:, 1:]
        hit = (done.logits[:, :-1].argmax(-1) == wanted) | (wanted == -100)
        share = hit.all(dim=1).float().mean().item()
        row = row + 1 if share == 1 else 0
        if step % 25 == 0:
            spent = time.process_time() - started
            print(
                f"{step} steps, {spent:.0f} s: loss {done.loss.item():.3f}, {share:.2f} right",
                file=sys.stderr,
            )
    write(model.eval(), tokens, out / "judge")
    print(json.dumps({"steps": step, "right": share}))


if __name__ == "__main__":
    main()
