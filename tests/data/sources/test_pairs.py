"""Pairs of a few files for training, of any format and adapter; what cannot be used is named."""

import json
from pathlib import Path

import polars as pl
import pytest

from rewardscale.config import ConfigError
from rewardscale.data.chat import ChatTokenizer, load_chat_tokenizer
from rewardscale.data.comparison import DataError
from rewardscale.data.sources.pairs import read_pairs
from tests.tokenizers_small import qwen3_directory


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> ChatTokenizer:
    return load_chat_tokenizer(qwen3_directory(tmp_path_factory.mktemp("tokenizer") / "qwen3"))


def test_formats_and_adapters_give_the_pairs_of_their_files(chat: ChatTokenizer, tmp_path: Path) -> None:
    rows = [{"prompt": f"question {i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(5)]
    pl.DataFrame(rows).write_parquet(tmp_path / "own.parquet")
    spoken = {
        "chosen": "\n\nHuman: Tea?\n\nAssistant: Yes, please.",
        "rejected": "\n\nHuman: Tea?\n\nAssistant: No.",
    }
    (tmp_path / "hh.jsonl").write_text(json.dumps(spoken) + "\n")
    pairs = read_pairs(
        [str(tmp_path / "own.parquet"), f"hh-rlhf:{tmp_path / 'hh.jsonl'}"], chat, split="train"
    )
    assert not pairs.refused and len(pairs.comparisons) == 6
    chosen = [
        c.responses[0 if sign == 1 else 1]
        for c, sign in zip(pairs.comparisons, pairs.orientation, strict=True)
    ]
    assert chosen == [f"good {i}" for i in range(5)] + ["Yes, please."]
    assert {c.split for c in pairs.comparisons} == {"train"}


def test_what_is_left_out_keeps_its_line_and_reason(chat: ChatTokenizer, tmp_path: Path) -> None:
    lines = [
        json.dumps({"prompt": "p", "chosen": "a", "rejected": "b"}),
        "",
        json.dumps({"prompt": "p", "chosen": "same", "rejected": "same"}),
        json.dumps({"prompt": "p", "chosen": "<|im_end|>", "rejected": "b"}),
    ]
    (tmp_path / "own.jsonl").write_text("\n".join(lines) + "\n")
    pairs = read_pairs([str(tmp_path / "own.jsonl")], chat, split="train")
    assert len(pairs.comparisons) == 1
    assert [(r.file, r.line) for r in pairs.refused] == [("own.jsonl", 3), ("own.jsonl", 4)]
    assert all(r.reason for r in pairs.refused)


def test_a_tie_trains_nothing(chat: ChatTokenizer, tmp_path: Path) -> None:
    lines = [
        {"prompt": "p", "responses": ["a", "b"], "scores": [1, 1]},
        {"prompt": "p", "responses": ["a", "b"], "scores": [1, 2]},
    ]
    (tmp_path / "rated.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    pairs = read_pairs([f"rated:{tmp_path / 'rated.jsonl'}"], chat, split="train")
    assert [
        c.responses[0 if s == 1 else 1] for c, s in zip(pairs.comparisons, pairs.orientation, strict=True)
    ] == ["b"]
    assert [(r.line, r.code) for r in pairs.refused] == [(1, "tie")]


@pytest.mark.parametrize("entry", ["nowhere.jsonl", "hh-rlhf:nowhere"])
def test_a_missing_file_is_named(chat: ChatTokenizer, entry: str) -> None:
    with pytest.raises((DataError, ConfigError), match=r"nowhere.* cannot be read"):
        read_pairs([entry], chat, split="train")
