"""Run in the reference environment: what transformers makes of tokenizers, templates and conversations.

python reference_chat.py CASES ANSWERS

CASES: {"today": [year, month, day], "resave": {from: to}, "cases": [{"directory", "messages", ...}]}; the rest of
a case are arguments of `apply_chat_template`. ANSWERS: for each case {"text", "ids", "card"} or {"error"}; "card"
are the ids by the recipe of model cards: render, cut the beginning-of-sequence token, tokenise.
"""

import datetime
import functools
import json
import sys
from pathlib import Path

from transformers import AutoTokenizer  # pyright: ignore[reportMissingImports]
from transformers.utils import chat_template_utils  # pyright: ignore[reportMissingImports]


def main(cases_path: str, answers_path: str) -> None:
    asked = json.loads(Path(cases_path).read_text(encoding="utf-8"))

    class Frozen(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(*asked["today"])

    chat_template_utils.datetime = Frozen
    load = functools.cache(AutoTokenizer.from_pretrained)
    for source, target in asked["resave"].items():
        load(source).save_pretrained(target)
    answers = [answer(load(case.pop("directory")), **case) for case in asked["cases"]]
    Path(answers_path).write_text(json.dumps(answers), encoding="utf-8")


def answer(tokenizer, messages: list, **arguments) -> dict:
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, **arguments)
    except Exception as error:
        return {"error": repr(error)}
    ids = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False, **arguments)
    cut = text.removeprefix(tokenizer.bos_token) if tokenizer.bos_token else text
    return {"text": text, "ids": ids, "card": tokenizer(cut)["input_ids"]}


if __name__ == "__main__":
    main(*sys.argv[1:])
