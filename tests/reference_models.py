"""Runs in the reference environment: answers requests about Hugging Face models, one JSON object a line.

{"do": "make", "directory", "config", "seed", "kind", "dtype", "shard"}    writes a model with random weights
{"do": "score", "directory", "sequences", "side", "dtype"}                 -> {"rewards": [...]}
{"do": "gradients", "directory", "chosen", "rejected", "out"}              writes the Bradley-Terry loss's gradients
{"do": "embed", "directory", "sequences"}                                  -> {"vectors": [...]}, means of length 1
{"do": "tokens", "directory", "texts", "longest"}                         -> {"ids": [[...]]}
{"do": "count", "config", "kind"}                                          -> {"parameters": n}
"""

import json
import sys

import torch  # pyright: ignore[reportMissingImports]
from safetensors.torch import save_file  # pyright: ignore
from transformers import (  # pyright: ignore[reportMissingImports]
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

torch.set_num_threads(1)
CLASSES = {
    "classifier": AutoModelForSequenceClassification,
    "causal": AutoModelForCausalLM,
    "encoder": AutoModel,
}


def make(directory, config, seed, kind="classifier", dtype="float32", shard="5GB"):
    torch.manual_seed(seed)
    model = CLASSES[kind].from_config(AutoConfig.for_model(**config)).to(getattr(torch, dtype))
    with torch.no_grad():  # scales of 1 and a small head would hide mistakes
        for name, parameter in model.named_parameters():
            if "norm" in name.lower() and "bias" not in name:
                parameter.copy_(1 + 0.3 * torch.randn_like(parameter))
            elif "score" in name:
                parameter.normal_()
            elif kind == "encoder" and "bias" in name:
                parameter.normal_(std=0.1)
    model.save_pretrained(directory, max_shard_size=shard)
    return {}


def score(directory, sequences, side="right", dtype="float32"):
    model = AutoModelForSequenceClassification.from_pretrained(directory, dtype=getattr(torch, dtype)).eval()
    ids, mask = padded(sequences, side, model.config.pad_token_id)
    # Positions count real tokens, as in generation. Left to itself the model counts padding too, and the rotations of
    # other positions round differently: its own left-padded rewards then differ from its right-padded ones by 1e-4.
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits
    return {"rewards": logits[:, 0].double().tolist(), "dtype": str(logits.dtype)}


def gradients(directory, chosen, rejected, out):
    model = AutoModelForSequenceClassification.from_pretrained(directory, dtype=torch.float32)
    rewards = []
    for sequences in (chosen, rejected):
        ids, mask = padded(sequences, "right", model.config.pad_token_id)
        rewards.append(model(input_ids=ids, attention_mask=mask).logits[:, 0])
    loss = torch.nn.functional.softplus(rewards[1] - rewards[0]).mean()
    loss.backward()
    save_file({n: p.grad.contiguous() for n, p in model.named_parameters() if p.grad is not None}, out)
    return {"loss": loss.item()}


def embed(directory, sequences):
    model = AutoModel.from_pretrained(directory, dtype=torch.float32).eval()
    ids, mask = padded(sequences, "right", model.config.pad_token_id)
    with torch.no_grad():
        states = model(input_ids=ids, attention_mask=mask).last_hidden_state
    means = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    return {"vectors": torch.nn.functional.normalize(means).double().tolist()}


def tokens(directory, texts, longest):
    tokenizer = AutoTokenizer.from_pretrained(directory)
    return {"ids": tokenizer(texts, truncation=True, max_length=longest)["input_ids"]}


def count(config, kind="causal"):
    with torch.device("meta"):
        model = CLASSES[kind].from_config(AutoConfig.for_model(**config))
    return {"parameters": sum(p.numel() for p in model.parameters())}


def padded(sequences, side, pad):
    longest = max(map(len, sequences))
    ids = torch.full((len(sequences), longest), pad)
    mask = torch.zeros((len(sequences), longest), dtype=torch.long)
    for row, sequence in enumerate(sequences):
        place = slice(0, len(sequence)) if side == "right" else slice(longest - len(sequence), longest)
        ids[row, place] = torch.tensor(sequence)
        mask[row, place] = 1
    return ids, mask


if __name__ == "__main__":
    for line in sys.stdin:
        request = json.loads(line)
        answer = globals()[request.pop("do")](**request)
        print("answer " + json.dumps(answer), flush=True)
