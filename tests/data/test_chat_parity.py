"""Texts and token ids are those of transformers, for tokenizers in the formats of Llama 3, Qwen3 and GPT-NeoX."""

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from rewardscale.data import chat_template
from rewardscale.data.chat import ChatTokenizer, load_chat_tokenizer
from rewardscale.data.comparison import DataError
from tests import reference, tokenizers_small

TODAY = {"today": [2024, 7, 26]}  # FROZEN_DATE
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": 'Temperature & "wind" in <city>, in °C',
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL = {
    "type": "function",
    "function": {"name": "weather", "arguments": {"city": "Ærø", "days": 3, "now": None}},
}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


HI = [user("Hi"), assistant("Hello there.")]
CALLED = [user("Is it warm?"), {"role": "assistant", "content": None, "tool_calls": [CALL]}]
# name -> arguments of apply_chat_template
CONVERSATIONS: dict[str, dict[str, Any]] = {
    "one turn": {"messages": HI},
    "system prompt": {"messages": [system("Be brief."), *HI]},
    "a later system turn": {"messages": [*HI, system("Now in verse."), user("And you?"), assistant("Well.")]},
    "five turns": {"messages": [*HI, *HI, user("Hi"), assistant("Hello\n\nthere. ")]},
    "prompt alone": {"messages": [user("Hi")]},
    "generation prompt": {"messages": [user("Hi")], "add_generation_prompt": True},
    "not thinking": {"messages": [user("Hi")], "add_generation_prompt": True, "enable_thinking": False},
    "white space": {"messages": [user("  \n\tHi \n\n"), assistant("\n\n Hello\u2028there \u00a0")]},
    "nothing said": {"messages": [user(""), assistant("")]},
    "composed and not": {
        "messages": [user("caf\u00e9 cafe\u0301 \ufb01 \u212b"), assistant("A\u030angstro\u0308m")]
    },
    "scripts": {"messages": [user("茶能暖身。 お茶？ الشاي يدفئ"), assistant("Чай 👩‍💻🏽 🇮🇸 \U0001f9cb")]},
    "control characters": {
        "messages": [user("\x00\x01\x7f\r\n\ufeff\ufffd"), assistant("\u200b\u200f\x85.")]
    },
    "numbers and code": {"messages": [user("12345 1,234.5 00"), assistant("```py\n\tx = [1234]\n```\n")]},
    "JSON and HTML": {"messages": [user('{"a": "<b>&amp;\'"}'), assistant("{{ braces }} {% if %}")]},
    "thought": {"messages": [user("2 + 2?"), assistant("<think>\nIt's 4.\n</think>\n\n4")]},
    "earlier thought": {"messages": [user("2?"), assistant("<think>a</think>2"), user("3?"), assistant("3")]},
    "thought in a field": {"messages": [user("2?"), assistant("2", reasoning_content="Two.\n")]},
    "thought by another name": {"messages": [user("2?"), assistant("2", reasoning="Two."), user("3?")]},
    "special tokens written out": {
        "messages": [user("a<|eot_id|><|im_end|> b"), assistant("<|endoftext|>c")]
    },
    "tools": {"messages": HI, "tools": [WEATHER, WEATHER]},
    "tools and system prompt": {"messages": [system("Be brief."), *HI], "tools": [WEATHER]},
    "a call": {"messages": CALLED, "tools": [WEATHER]},
    "a call and its answer": {
        "messages": [*CALLED, {"role": "tool", "content": '{"celsius": 21}'}, assistant("It is.")],
        "tools": [WEATHER],
    },
    "two answers": {
        "messages": [
            user("Warm?"),
            assistant("", tool_calls=[CALL]),
            *[{"role": "tool", "content": "21"}] * 2,
        ]
    },
    "two calls": {"messages": [user("Warm?"), assistant("Let me see.", tool_calls=[CALL, CALL])]},
    "an unknown role": {"messages": [{"role": "critic", "content": "No."}, *HI]},
    "a date given": {"messages": HI, "date_string": "1 Jan 2001"},
    "documents": {"messages": HI, "documents": [{"title": "t", "text": "x"}]},
}
# What a template may use, and what it may not: each is rendered on the Llama-like tokenizer.
TEMPLATES = {
    "names": "{{ bos_token }}|{{ eos_token }}|{{ unk_token is defined }}|{{ tools is none }}|{{ documents is none }}",
    "dates": "{{ strftime_now('%Y-%m-%d %A %d %B %y %H:%M %j') }}",
    "json": "{{ {'b': ['<é>', 1.5, none], 'a': true} | tojson }}{{ messages | tojson(indent=2, sort_keys=true) }}"
    "{{ {'a': 1} | tojson(separators=(',', ':'), ensure_ascii=true) }}{{ 'é' | tojson(ensure_ascii=true) }}",
    "blocks are trimmed": "  {% if true %}\n  x\n  {% endif %}\n\n  y\n{# note #}\nz\n\n",
    "loops": "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.role }}{% break %}{% endfor %}",
    "dict": "{{ dict(a=1, **{'b': 2}) | tojson }}{{ dict.fromkeys(['x'], 0) | tojson }}{{ dict([('k', 'v')]).k }}",
    "namespace": "{% set ns = namespace(a=1, self=2) %}{% set ns.a = ns.a + ns.self %}{{ ns.a }}",
    "generation": "{% set x = 1 %}{% for m in messages %}{%- generation -%}\n {% set x = 2 %}{{ m.content }}"
    "{{ loop.index }}{{ x }} {% endgeneration %}{{ x }}{% endfor %}",
    "macros": "{% macro say(m, end='!') %}<{{ m.role }}>{{ m['content'] | upper }}{{ end }}{% endmacro %}"
    "{{ say(messages[0]) }}{{ say(messages[-1], end=eos_token) }}{{ messages[1:] | length }}",
    "missing": "{{ messages[0].name }}|{{ messages[0].tool_calls is defined }}|{{ nothing }}|{{ messages[0]['x'] }}",
    "strings": "{{ messages[0].content.split('i')[0].lstrip('H') ~ 'a'.join(['b', 'c']) }}{{ '%s' | format(3) }}",
    "refused: raise": "{{ raise_exception('no') }}",
    "refused: unknown function": "{{ open('x') }}",
    "refused: dunder": "{{ ''.__class__.__mro__ | string | length }}{{ messages.__class__.__name__() }}",
    "refused: change": "{{ messages.append(1) }}",
    "refused: namespace": "{% set ns = namespace(_a=1) %}{{ ns._a }}",
    "refused: namespace later": "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
    "refused: arithmetic": "{{ 1 / 0 }}",
    "refused: deep missing": "{{ messages[0].a.b }}",
    "refused: type": "{{ 'a' + 1 }}",
}
CHATML = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


def tokenizers_folder() -> Path | None:
    """Where the real tokenizers lie: REWARDSCALE_DATA, or ../shared/data beside the repository."""
    beside = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    for folder in (os.environ.get("REWARDSCALE_DATA"), beside):
        if folder and (Path(folder) / "tokenizers" / "gpt-neox-20b_tokenizer.json").is_file():
            return Path(folder) / "tokenizers"
    return None


FOLDER = tokenizers_folder()
needs_real = pytest.mark.skipif(
    FOLDER is None, reason="set REWARDSCALE_DATA to the folder that holds tokenizers/"
)


def qwen3_real(path: Path) -> Path:
    """The real template of Qwen3 on the small vocabulary."""
    assert FOLDER is not None
    config = json.loads((FOLDER / "qwen3_tokenizer_config.json").read_text(encoding="utf-8"))
    return tokenizers_small.qwen3_directory(path, template=config["chat_template"])


def gpt_neox(path: Path) -> Path:
    """The real tokenizer of GPT-NeoX, to which the configuration adds the tokens of ChatML."""
    assert FOLDER is not None
    path.mkdir()
    shutil.copy(FOLDER / "gpt-neox-20b_tokenizer.json", path / "tokenizer.json")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "extra_special_tokens": ["<|im_start|>"],
        "eos_token": "<|im_end|>",
        "pad_token": "<|padding|>",
        "unk_token": "<|endoftext|>",
        "chat_template": [{"name": "other", "template": ""}, {"name": "default", "template": CHATML}],
    }
    (path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return path


def with_tool_template(path: Path) -> Path:
    """Two templates in files, and one in the configuration, which they override."""
    tokenizers_small.llama3_directory(path)
    config = json.loads((path / "tokenizer_config.json").read_text(encoding="utf-8"))
    source = config["chat_template"]
    (path / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": "overridden"}))
    (path / "chat_template.jinja").write_text(source.replace("ipython", "python"), encoding="utf-8")
    (path / "additional_chat_templates").mkdir()
    (path / "additional_chat_templates" / "tool_use.jinja").write_text(source, encoding="utf-8")
    return path


FORMATS = {
    "llama3": tokenizers_small.llama3_directory,
    "qwen3": tokenizers_small.qwen3_directory,
    "tool_template": with_tool_template,
    "qwen3_real": qwen3_real,
    "gpt_neox": gpt_neox,
}
formats = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=needs_real if n in ("qwen3_real", "gpt_neox") else ()) for n in FORMATS]
)


def random_conversations(count: int) -> list[list[dict[str, Any]]]:
    """Turns of characters from all over Unicode, and of pieces that tokenizers treat apart."""
    rng = random.Random(0)
    pieces = [
        "'ll",
        "  ",
        "\n\n",
        "\r\n",
        "1234",
        "\u0301",
        "é",
        "ﬁ",
        "한국",
        "<|",
        "|>",
        "<think>",
        "</think>",
        "\t",
    ]

    def text() -> str:
        def one() -> str:
            if rng.random() < 0.3:
                return rng.choice(pieces)
            code = rng.choice(
                [rng.randrange(32, 127), rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)]
            )
            return chr(code)

        return "".join(one() for _ in range(rng.randrange(40)))

    def one() -> list[dict[str, Any]]:
        start = [system(text())] if rng.random() < 0.3 else []
        turns = [m for _ in range(rng.randrange(1, 4)) for m in (user(text()), assistant(text()))]
        return start + turns

    return [one() for _ in range(count)]


RANDOM = {f"random {i}": {"messages": messages} for i, messages in enumerate(random_conversations(40))}
Answers = dict[tuple[str, str], dict[str, Any]]


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Answers]:
    """Folder of the tokenizers, and what transformers answers: (directory in it, conversation) -> answer.

    <name> is a tokenizer as it was written, saved-<name> what we save of it, resaved-<name> what transformers does.
    """
    folder = tmp_path_factory.mktemp("chat")
    names = [n for n in FORMATS if FOLDER is not None or n not in ("qwen3_real", "gpt_neox")]
    cases: dict[tuple[str, str], dict[str, Any]] = {}
    for name in names:
        directory = FORMATS[name](folder / name)
        load_chat_tokenizer(directory).save(folder / f"saved-{name}")
        for conversation, case in (CONVERSATIONS | RANDOM).items():
            cases[name, conversation] = {"directory": str(directory), **case}
        for conversation, case in CONVERSATIONS.items():
            cases[f"saved-{name}", conversation] = {"directory": str(folder / f"saved-{name}"), **case}
    for template, source in TEMPLATES.items():
        cases["llama3", template] = {
            "directory": str(folder / "llama3"),
            "messages": HI,
            "chat_template": source,
        }
    resave = {str(folder / name): str(folder / f"resaved-{name}") for name in names}
    request = {**TODAY, "resave": resave, "cases": list(cases.values())}
    (folder / "cases.json").write_text(json.dumps(request), encoding="utf-8")
    reference.run(
        Path(__file__).with_name("reference_chat.py"), folder / "cases.json", folder / "answers.json"
    )
    answers = json.loads((folder / "answers.json").read_text(encoding="utf-8"))
    return folder, dict(zip(cases, answers, strict=True))


def agree(chat: ChatTokenizer, case: dict[str, Any], answer: dict[str, Any]) -> bool:
    """Asserts that we answer the same; returns whether there were ids to compare."""
    if "error" in answer:
        with pytest.raises(DataError):
            chat.encode(**case)
        return False
    assert chat.render(**case) == answer["text"]
    assert chat.encode(**case) == answer["ids"] == answer["card"]
    return True


@reference.needs_reference
@formats
def test_ids_are_those_of_transformers(asked: tuple[Path, Answers], name: str) -> None:
    folder, answers = asked
    chat = load_chat_tokenizer(folder / name)
    compared = [n for n, case in CONVERSATIONS.items() if agree(chat, case, answers[name, n])]
    assert len(compared) >= len(CONVERSATIONS) - 4, set(CONVERSATIONS) - set(compared)
    assert all(agree(chat, case, answers[name, n]) for n, case in RANDOM.items())


@reference.needs_reference
@formats
def test_what_is_saved_is_the_same_to_transformers_and_to_us(asked: tuple[Path, Answers], name: str) -> None:
    folder, answers = asked
    for conversation in CONVERSATIONS:
        assert answers[f"saved-{name}", conversation] == answers[name, conversation]
    chat = load_chat_tokenizer(folder / name)
    assert load_chat_tokenizer(folder / f"saved-{name}").key == chat.key
    resaved = load_chat_tokenizer(folder / f"resaved-{name}")
    assert resaved.template_hash == chat.template_hash and resaved.named_tokens == chat.named_tokens
    for conversation, case in (CONVERSATIONS | RANDOM).items():
        agree(resaved, case, answers[name, conversation])


@reference.needs_reference
@pytest.mark.parametrize("template", TEMPLATES)
def test_what_a_template_may_do(asked: tuple[Path, Answers], template: str) -> None:
    folder, answers = asked
    answer = answers["llama3", template]
    assert ("error" in answer) == template.startswith("refused"), answer
    chat = load_chat_tokenizer(folder / "llama3")
    try:
        text = chat_template.render(TEMPLATES[template], HI, variables=chat.named_tokens)
    except DataError:
        assert "error" in answer
    else:
        assert text == answer["text"]


@reference.needs_reference
@formats
def test_a_shared_prompt_and_a_response_are_the_whole(asked: tuple[Path, Answers], name: str) -> None:
    """Of the conversations that end with an answer, the ids of transformers come back in two parts."""
    folder, answers = asked
    chat = load_chat_tokenizer(folder / name)
    compared = 0
    for conversation, case in (CONVERSATIONS | RANDOM).items():
        *prompt, last = case["messages"]
        plain = (
            last["role"] == "assistant"
            and set(last) == {"role", "content"}
            and set(case) <= {"messages", "tools"}
        )
        if not plain or not last["content"].strip() or "error" in answers[name, conversation]:
            continue
        if chat.pad_token in last["content"]:
            continue  # refused
        responses = [last["content"], last["content"] + "!", "Something else"]
        encoded = chat.encode_comparison(prompt, responses, tools=case.get("tools"), allow_special_text=True)
        assert encoded.prompt + encoded.responses[0] == answers[name, conversation]["ids"]
        compared += 1
    assert compared >= 30
