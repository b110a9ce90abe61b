"""Legs of a parity certificate in the reference environment: transformers; vLLM and SGLang where they are installed.

    PYTHON -c "import runpy; runpy.run_path('.../reference_legs.py', run_name='__main__')" REQUEST.json ANSWER.json

It runs in a Python of its own (3.10 or newer), which has torch and transformers and not this package: nothing of ours
is imported, and everything of theirs inside functions. Run as above and not as a script, or this folder's modules
(statistics.py) stand before the standard library's. "do" in a request names one of `DOES`.
"""

import datetime
import json
import sys
from pathlib import Path

_BATCH = 8


def about():
    """Versions; None for what is not installed."""
    from importlib import metadata

    def version(name):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return None

    names = ("torch", "transformers", "vllm", "sglang")
    return {"python": sys.version.split()[0], **{name: version(name) for name in names}}


def hf(directory, conversations, date, scored, dtype, padded):
    """transformers' token ids of all conversations, and its rewards of those whose index is in `scored`.

    Rewards are computed alone (a conversation at a time) and, if `padded`, in batches of 8, padded right and left. What
    fails of these is said under "failed".
    """
    tokenizer, tokens = _tokens(directory, conversations, date)
    present = [i for i in scored if "ids" in tokens["conversations"][i]]
    model, device = _model(directory, dtype)
    rewards, failed = {}, {}
    for name in ("alone", "right", "left") if padded else ("alone",):
        size = 1 if name == "alone" else _BATCH
        values = [None] * len(conversations)
        try:
            for start in range(0, len(present), size):
                group = present[start : start + size]
                ids = [tokens["conversations"][i]["ids"] for i in group]
                for i, value in zip(group, _logits(model, device, tokenizer, ids, name), strict=True):
                    values[i] = value
            rewards[name] = values
        except Exception as error:
            if name == "alone":
                raise
            failed[name] = f"{type(error).__name__}: {error}"
    return {**tokens, "rewards": rewards, "failed": failed, "device": device}


def _tokens(directory, conversations, date):
    """The tokenizer, and ids and text of each conversation by apply_chat_template with strftime_now frozen at `date`.

    A conversation that the template refuses has its error instead. "dated" counts the texts that today's date changes.
    """
    from transformers import AutoTokenizer  # pyright: ignore[reportMissingImports]
    from transformers.utils import chat_template_utils  # pyright: ignore[reportMissingImports]

    tokenizer = AutoTokenizer.from_pretrained(directory)
    real = chat_template_utils.datetime  # an AttributeError here: this transformers keeps its clock elsewhere

    class Frozen(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls.strptime(date, "%d %b %Y")

    out, dated = [], 0
    for one in conversations:
        arguments = {"conversation": one["messages"], "tools": one["tools"]}
        try:
            chat_template_utils.datetime = Frozen
            text = tokenizer.apply_chat_template(**arguments, tokenize=False)
            ids = tokenizer.apply_chat_template(**arguments, tokenize=True, return_dict=False)
        except Exception as error:  # a template may raise anything
            out.append({"error": f"{type(error).__name__}: {error}"})
            continue
        finally:
            chat_template_utils.datetime = real
        dated += text != tokenizer.apply_chat_template(**arguments, tokenize=False)
        # Called on a text, the tokenizer adds the beginning-of-sequence token by itself.
        bare = text.removeprefix(tokenizer.bos_token) if tokenizer.bos_token else text
        out.append({"ids": [int(i) for i in ids], "text": bare})
    return tokenizer, {"conversations": out, "dated": dated, "pad_token_id": tokenizer.pad_token_id}


def _model(directory, dtype):
    import torch  # pyright: ignore[reportMissingImports]
    from transformers import AutoModelForSequenceClassification  # pyright: ignore[reportMissingImports]

    torch.set_float32_matmul_precision("highest")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, info = AutoModelForSequenceClassification.from_pretrained(
        directory, dtype=getattr(torch, dtype), use_safetensors=True, output_loading_info=True
    )
    missing = sorted(info["missing_keys"])
    if missing:
        raise ValueError(
            f"transformers finds no weights for {', '.join(missing[:3])}, and draws them at random"
        )
    return model.eval().to(device), device


def _logits(model, device, tokenizer, sequences, side):
    """Rewards of sequences padded on one side by the tokenizer's pad token, or config.json's where it names none."""
    import torch  # pyright: ignore[reportMissingImports]

    longest = max(map(len, sequences))
    pad = model.config.pad_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    rows, masks = [], []
    for sequence in sequences:
        left = longest - len(sequence)
        if left and pad is None:
            raise ValueError("neither the tokenizer nor config.json names a pad token")
        fill, ones, zeros = [pad] * left, [1] * len(sequence), [0] * left
        rows.append(fill + sequence if side == "left" else sequence + fill)
        masks.append(zeros + ones if side == "left" else ones + zeros)
    with torch.no_grad():
        logits = model(
            input_ids=torch.tensor(rows, device=device), attention_mask=torch.tensor(masks, device=device)
        ).logits
    if tuple(logits.shape) != (len(sequences), 1):
        raise ValueError(f"logits have shape {tuple(logits.shape)}")
    return logits[:, 0].float().tolist()


def vllm(directory, ids, texts, dtype):
    """Rewards of token ids by vLLM, as raw logits (docs.vllm.ai, "Pooling models")."""
    from vllm import LLM, PoolingParams  # pyright: ignore[reportMissingImports]

    present = [i for i, sequence in enumerate(ids) if sequence is not None]
    engine = LLM(
        model=directory, runner="pooling", convert="classify", dtype=dtype, enforce_eager=True,
        enable_prefix_caching=False, max_model_len=max(len(ids[i]) for i in present),
    )  # fmt: skip
    outputs = engine.encode(
        [{"prompt_token_ids": ids[i]} for i in present],
        pooling_params=PoolingParams(use_activation=False),
        pooling_task="classify",
    )
    return _placed(ids, present, [output.outputs.data.item() for output in outputs])


def sglang(directory, ids, texts, dtype):
    """Rewards by SGLang (docs.sglang.io, "Reward models"); its `encode` takes texts and tokenises them itself."""
    import sglang  # pyright: ignore[reportMissingImports]

    present = [i for i, text in enumerate(texts) if text is not None]
    engine = sglang.Engine(model_path=directory, is_embedding=True, dtype=dtype, disable_radix_cache=True)
    try:
        outputs = engine.encode([texts[i] for i in present])
    finally:
        engine.shutdown()
    return _placed(texts, present, [output["embedding"][0] for output in outputs])


def _placed(everything, present, values):
    found = dict(zip(present, map(float, values), strict=True))
    return {"rewards": {"alone": [found.get(i) for i in range(len(everything))]}}


DOES = {"about": about, "hf": hf, "vllm": vllm, "sglang": sglang}


def main(request_path, answer_path):
    """Answers one request."""
    request = json.loads(Path(request_path).read_text(encoding="utf-8"))
    answer = DOES[request.pop("do")](**request)
    Path(answer_path).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
