"""Chat tokenizers: prompt and response are the whole conversation, and what would shift a reward is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from rewardscale.data.chat import FROZEN_DATE, ChatTokenizer, EncodedComparison, load_chat_tokenizer
from rewardscale.data.comparison import DataError, Message
from tests import tokenizers_small

WRITERS = {"llama3": tokenizers_small.llama3_directory, "qwen3": tokenizers_small.qwen3_directory}
ASK = [Message("user", "Is tea warm?")]
both = pytest.mark.parametrize("name", WRITERS)


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ChatTokenizer]:
    folder = tmp_path_factory.mktemp("chats")
    return {name: load_chat_tokenizer(write(folder / name)) for name, write in WRITERS.items()}


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    value = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(change(value) or value), encoding="utf-8")


def conversation(prompt: list[Message], response: str) -> list[Message]:
    return [*prompt, Message("assistant", response)]


# --- prompt + response = conversation ------------------------------------------------------------------

SPECIAL = {*tokenizers_small.LLAMA3_SPECIAL, *tokenizers_small.QWEN3_SPECIAL}
characters = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)
pieces = st.lists(
    st.sampled_from(["<think>", "</think>", "\n\n", "  ", "12345", "'ll", "é", "\u0301", "Yes", "0"])
)
text = st.one_of(characters, pieces.map("".join), st.tuples(characters, pieces.map("".join)).map("".join))
text = text.filter(lambda t: not any(token in t for token in SPECIAL))
said = text.filter(lambda t: bool(t.strip()))
turns = st.lists(
    st.builds(Message, st.sampled_from(["system", "user", "assistant"]), text), min_size=1, max_size=4
)
comparisons = st.tuples(turns, st.lists(said, min_size=1, max_size=4))


@both
@settings(max_examples=80, deadline=None)
@given(batch=st.lists(comparisons, min_size=1, max_size=3))
def test_prompt_and_response_are_the_conversation_in_a_batch_and_alone(
    chats: dict[str, ChatTokenizer], name: str, batch: list[tuple[list[Message], list[str]]]
) -> None:
    chat = chats[name]
    together = chat.encode_comparisons(batch)
    assert together == [chat.encode_comparison(*item) for item in batch]
    for (prompt, responses), encoded in zip(batch, together, strict=True):
        assert isinstance(encoded, EncodedComparison) and len(encoded.responses) == len(responses)
        assert encoded.prompt and all(encoded.responses)
        for response, ids in zip(responses, encoded.responses, strict=True):
            assert encoded.prompt + ids == chat.encode(conversation(prompt, response))
            assert ids[-1] == chat.reward_token.id and chat.pad_token_id not in encoded.prompt + ids


@both
def test_the_shared_prompt_is_as_long_as_can_be(chats: dict[str, ChatTokenizer], name: str) -> None:
    chat = chats[name]
    two = chat.encode_comparison(ASK, ["Yes.", "No."])
    assert {ids[0] for ids in two.responses} == {
        chat.tokenizer.token_to_id("Y"),
        chat.tokenizer.token_to_id("N"),
    }
    # A response alone has no other to part from, and yet the same prompt.
    assert chat.encode_comparison(ASK, ["Yes."]).prompt == two.prompt
    assert chat.encode_comparison(ASK, ["0"]).prompt == two.prompt
    # Equal responses part at the last token at the latest: each keeps the token that its reward is read at.
    equal = chat.encode_comparison(ASK, ["Yes.", "Yes."])
    assert equal.responses == [[chat.reward_token.id]] * 2


# --- what a reward depends on --------------------------------------------------------------------------


def test_there_is_one_beginning_of_sequence_token(chats: dict[str, ChatTokenizer]) -> None:
    chat = chats["llama3"]
    messages = conversation(ASK, "Yes.")
    bos = chat.tokenizer.token_to_id("<|begin_of_text|>")
    assert chat.tokenizer.encode(chat.render(messages)).ids[:2] == [bos, bos]  # as it would be
    assert [i for i, id in enumerate(chat.encode(messages)) if id == bos] == [0]


@pytest.mark.parametrize(
    ("name", "token", "closing", "pad"),
    [
        ("llama3", "<|eot_id|>", "<|eot_id|>", "<|finetune_right_pad_id|>"),
        ("qwen3", "\n", "<|im_end|>\n", "<|endoftext|>"),
    ],
)
def test_the_reward_token_and_the_pad_token(
    chats: dict[str, ChatTokenizer], name: str, token: str, closing: str, pad: str
) -> None:
    chat = chats[name]
    assert (chat.reward_token.text, chat.reward_token.closing, chat.pad_token) == (token, closing, pad)
    assert (
        chat.tokenizer.decode([chat.encode(conversation(ASK, "Yes."))[-1]], skip_special_tokens=False)
        == token
    )
    assert chat.tokenizer.id_to_token(chat.pad_token_id) == pad
    assert chat.vocab_size == 600


def test_the_date_stands_still_and_is_part_of_the_key(tmp_path: Path) -> None:
    directory = tokenizers_small.llama3_directory(tmp_path)
    frozen, other = load_chat_tokenizer(directory), load_chat_tokenizer(directory, date="01 Jan 2025")
    assert f"Today Date: {FROZEN_DATE}\n" in frozen.render(ASK)
    assert "Today Date: 01 Jan 2025\n" in other.render(ASK) and other.key != frozen.key
    with pytest.raises(DataError, match=r"date '2025-01-01' is not of the form '26 Jul 2024'"):
        load_chat_tokenizer(directory, date="2025-01-01")


def test_the_key_covers_what_ids_depend_on_and_nothing_else(tmp_path: Path) -> None:
    one = tokenizers_small.llama3_directory(tmp_path / "one")
    same = tokenizers_small.llama3_directory(tmp_path / "same")
    smaller = tokenizers_small.llama3_directory(tmp_path / "smaller", vocab_size=500)
    template = tokenizers_small.LLAMA3_TEMPLATE.replace("December 2023", "June 2024")
    chats = [
        load_chat_tokenizer(one),
        load_chat_tokenizer(one, template=template),
        load_chat_tokenizer(one, pad_token="<|reserved_special_token_0|>"),
        load_chat_tokenizer(smaller),
    ]
    assert len({chat.key for chat in chats}) == len(chats)
    assert load_chat_tokenizer(same).key == chats[0].key
    assert [len(h) for h in (chats[0].key, chats[0].template_hash, chats[0].tokenizer_hash)] == [32, 32, 32]


@both
def test_what_is_saved_is_loaded_as_the_same(tmp_path: Path, name: str) -> None:
    directory = WRITERS[name](tmp_path / name)
    chat = load_chat_tokenizer(directory, pad_token=PADS[name], template=OTHER_TEMPLATE)
    chat.save(tmp_path / "saved")
    again = load_chat_tokenizer(tmp_path / "saved")
    assert again.key == chat.key and again.pad_token == PADS[name] and again.template == OTHER_TEMPLATE
    assert again.files == chat.files


PADS = {"llama3": "<|python_tag|>", "qwen3": "<|fim_pad|>"}
OTHER_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}\n{% endfor %}"
)


def test_a_template_may_come_from_a_file(tmp_path: Path) -> None:
    directory = tokenizers_small.llama3_directory(tmp_path)
    (tmp_path / "mine.jinja").write_text(OTHER_TEMPLATE, encoding="utf-8")
    assert load_chat_tokenizer(directory, template=tmp_path / "mine.jinja").template == OTHER_TEMPLATE


def test_padding_and_truncation_in_the_file_do_not_reach_the_ids(tmp_path: Path) -> None:
    directory = tokenizers_small.qwen3_directory(tmp_path)
    wanted = load_chat_tokenizer(directory).encode_comparison(ASK, ["Yes.", "No, it is cold."])
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=64)
    tokenizer.save(str(directory / "tokenizer.json"))
    assert load_chat_tokenizer(directory).encode_comparison(ASK, ["Yes.", "No, it is cold."]) == wanted


# --- what is refused when it is loaded -----------------------------------------------------------------

REFUSED_PADS = {
    "the end of a turn": (
        "<|eot_id|>",
        r"pad token is the end-of-sequence token '<\|eot_id\|>'; name another",
    ),
    "written by the template": (
        "<|start_header_id|>",
        r"writes the pad token '<\|start_header_id\|>'; name an",
    ),
    "begins every text": ("<|begin_of_text|>", r"writes the pad token '<\|begin_of_text\|>'; name another"),
    "an ordinary word": ("Tea", r"'Tea' is not one of the tokenizer's special tokens; name another"),
    "unknown": ("<|pad|>", r"'<\|pad\|>' is not one of .*pad_token=\.\.\. \('<\|finetune_right_pad_id\|>'\)"),
}


@pytest.mark.parametrize("case", REFUSED_PADS)
def test_a_pad_token_that_could_be_read_as_text_is_refused(tmp_path: Path, case: str) -> None:
    pad, message = REFUSED_PADS[case]
    directory = tokenizers_small.llama3_directory(tmp_path)
    with pytest.raises(DataError, match=message) as error:
        load_chat_tokenizer(directory, pad_token=pad)
    assert str(directory) in str(error.value)


def test_a_pad_token_is_named_or_known_or_asked_for(tmp_path: Path) -> None:
    directory = tokenizers_small.qwen3_directory(tmp_path)
    edit(directory / "tokenizer_config.json", lambda c: c.update(pad_token="<|im_end|>"))
    with pytest.raises(DataError, match=r"end-of-sequence token '<\|im_end\|>'.*\('<\|endoftext\|>'\)"):
        load_chat_tokenizer(directory)
    edit(directory / "tokenizer_config.json", lambda c: c.update(pad_token=None))
    assert load_chat_tokenizer(directory).pad_token == "<|endoftext|>"
    edit(
        directory / "tokenizer_config.json", lambda c: c.update(eos_token="<|endoftext|>")
    )  # as of base models
    assert load_chat_tokenizer(directory).pad_token == "<|fim_pad|>"
    # No token of a family that is known.
    edit(directory / "tokenizer.json", lambda t: {**t, "added_tokens": t["added_tokens"][1:3]})
    edit(
        directory / "tokenizer_config.json",
        lambda c: c.update(added_tokens_decoder={}, eos_token="<|im_end|>"),
    )
    with pytest.raises(DataError, match=r"names no pad token; name another special token .*pad_token="):
        load_chat_tokenizer(directory)


TURNS = "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}"
REFUSED_TEMPLATES = {
    "nothing after the response": (
        f"{TURNS}{{% endfor %}}",
        r"ends a response with '', without a special token",
    ),
    "no special token": (
        f"{TURNS}\n###\n{{% endfor %}}",
        r"ends a response with '\\n###\\n?', without a special",
    ),
    "no response": ("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}", r"leaves out the response"),
    "an end that depends": (
        f"{TURNS}{{{{ eos_token }}}}{{{{ m.content | length }}}}{{% endfor %}}",
        r"ends one response with '<\|eot_id\|>14' and another with '<\|eot_id\|>12'",
    ),
    "no beginning": (
        OTHER_TEMPLATE.removeprefix("{{ bos_token }}"),
        r"the tokenizer adds \['<\|begin_of_text\|>'\] to a text and the chat template does not write",
    ),
    "a syntax error": ("a\n{% for %}", r"template cannot be read: line 2: "),
    "an exception": ("{{ raise_exception('not today') }}", r"refuses the conversation: not today"),
}


@pytest.mark.parametrize("case", REFUSED_TEMPLATES)
def test_a_template_without_a_place_for_the_reward_is_refused(tmp_path: Path, case: str) -> None:
    template, message = REFUSED_TEMPLATES[case]
    directory = tokenizers_small.llama3_directory(tmp_path)
    with pytest.raises(DataError, match=message) as error:
        load_chat_tokenizer(directory, template=template)
    assert str(directory) in str(error.value)


def test_a_tokenizer_that_appends_a_token_is_refused(tmp_path: Path) -> None:
    """As an embedding model's does: the reward would be read at another token than the template's."""
    directory = tokenizers_small.qwen3_directory(tmp_path)
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="$A <|im_end|>", special_tokens=[("<|im_end|>", tokenizer.token_to_id("<|im_end|>"))]
    )
    tokenizer.save(str(directory / "tokenizer.json"))
    with pytest.raises(DataError, match=r"adds \['<\|im_end\|>'\] to a text .*post_processor"):
        load_chat_tokenizer(directory)


def config(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "tokenizer_config.json", lambda c: c.update(changes))


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no tokenizer": (
        lambda f: (f / "tokenizer.json").unlink(),
        r"tokenizer\.json cannot be .*save_pretrained",
    ),
    "no configuration": (
        lambda f: (f / "tokenizer_config.json").unlink(),
        r"tokenizer_config\.json cannot be",
    ),
    "tokenizer cut": (lambda f: (f / "tokenizer.json").write_text("{"), r"tokenizer\.json cannot be read"),
    "configuration cut": (
        lambda f: (f / "tokenizer_config.json").write_text("{"),
        r"config\.json cannot be read",
    ),
    "a list": (lambda f: (f / "tokenizer_config.json").write_text("[]"), r"config\.json holds a list"),
    "no template": (config(chat_template=None), r"no default chat template; give one: template="),
    "no default": (
        config(chat_template=[{"name": "rag", "template": "x"}]),
        r"no default chat template; it has \['rag'\]",
    ),
    "a nameless template": (
        config(chat_template=["x"]),
        r"chat_template holds 'x'; needed: name and template",
    ),
    "a number": (config(chat_template=3), r"chat_template is a int"),
    "not UTF-8": (
        lambda f: (f / "chat_template.jinja").write_bytes(b"\xff"),
        r"chat_template\.jinja cannot be",
    ),
    "its own code": (config(auto_map={"AutoTokenizer": ["x.Y", None]}), r"auto_map .* code of its own"),
    "split special tokens": (config(split_special_tokens=True), r"split_special_tokens would take"),
    "a token without text": (
        config(eos_token={"content": 3}),
        r"eos_token is \{'content': 3\}; needed: a token",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_folder_is_one_error_that_names_it(tmp_path: Path, case: str) -> None:
    damage, message = DAMAGE[case]
    directory = tokenizers_small.llama3_directory(tmp_path)
    (directory / "special_tokens_map.json").unlink()
    damage(directory)
    with pytest.raises(DataError, match=message) as error:
        load_chat_tokenizer(directory)
    assert str(directory) in str(error.value) and "\n" not in str(error.value)


# --- what fails alone ----------------------------------------------------------------------------------

GOOD = (ASK, ["Yes.", "No."])
BAD: dict[str, tuple[Any, str]] = {
    "no prompt": (([], ["Yes."]), r"the prompt is empty"),
    "no response": ((ASK, []), r"there is no response"),
    "a string of responses": ((ASK, "Yes."), r"the responses are a str; needed: a list"),
    "nothing for a prompt": ((None, ["Yes."]), r"messages of the prompt are a NoneType; needed: a list"),
    "an empty response": ((ASK, ["Yes.", ""]), r"response 1 is empty"),
    "a blank response": ((ASK, [" \n", "Yes."]), r"response 0 is empty"),
    "not a string": ((ASK, ["Yes.", None]), r"response 1 is a NoneType; needed: a string"),
    "an unknown role": (([Message("critic", "No.")], ["Yes."]), r"refuses the conversation: no such role: critic"),
    "no role": (([{"content": "Hi"}], ["Yes."]), r"refuses the conversation"),
    "not a message": ((["Hi"], ["Yes."]), r"a message is a str; needed: a mapping"),
    "not JSON": (([{"role": "user", "content": b"Hi"}], ["Yes."]), r"holds a bytes; only JSON"),
    "half a character": ((ASK, ["Yes \ud83c.", "No."]), r"not valid Unicode near .*lone surrogate"),
    "half a character asked": (([Message("user", "\udc00")], ["Yes."]), r"not valid Unicode"),
    "special in the prompt": (
        ([Message("user", "a<|SPECIAL|>b")], ["Yes."]),
        r"messages hold the special token '<\|SPECIAL\|>' as text",
    ),
    "special in a role": (([Message("user<|SPECIAL|>", "b")], ["Yes."]), r"messages hold the special token"),
    "special in a field": (([{"role": "user", "content": "a", "x": [{"<|SPECIAL|>": 1}]}], ["Yes."]), r"messages hold"),
    "special in a response": ((ASK, ["Yes.", "No.<|SPECIAL|>"]), r"responses hold the special token"),
}  # fmt: skip


def named(value: Any, special: str) -> Any:
    """`value` with a tokenizer's own special token in the place of <|SPECIAL|>."""
    match value:
        case str():
            return value.replace("<|SPECIAL|>", special)
        case Message():
            return Message(named(value.role, special), named(value.content, special))
        case dict():
            return {named(k, special): named(v, special) for k, v in value.items()}
        case list() | tuple():
            return type(value)(named(v, special) for v in value)
        case _:
            return value


@both
@pytest.mark.parametrize("case", BAD)
def test_an_item_that_cannot_be_encoded_fails_alone(
    chats: dict[str, ChatTokenizer], name: str, case: str
) -> None:
    chat, (item, message) = chats[name], BAD[case]
    assert chat.eos_token is not None
    item, message = (
        named(item, chat.eos_token),
        message.replace("<\\|SPECIAL\\|>", chat.eos_token.replace("|", r"\|")),
    )
    good = chat.encode_comparison(*GOOD)
    before, failed, after = chat.encode_comparisons([GOOD, item, GOOD])
    assert before == after == good and isinstance(failed, DataError)
    with pytest.raises(DataError, match=message):
        raise failed
    with pytest.raises(DataError, match=message):
        chat.encode_comparison(*item)


@both
def test_special_text_may_be_allowed_but_the_pad_token_never(
    chats: dict[str, ChatTokenizer], name: str
) -> None:
    chat = chats[name]
    special = f"a{chat.eos_token}b"
    tools = [{"name": special}]
    with pytest.raises(DataError, match="tools hold the special token"):
        chat.encode_comparison(*GOOD, tools=tools)
    allowed = chat.encode_comparison(
        [Message("user", special)], [special], tools=tools, allow_special_text=True
    )
    whole = chat.encode(conversation([Message("user", special)], special), tools=tools)
    assert allowed.prompt + allowed.responses[0] == whole
    assert sum(chat.tokenizer.id_to_token(id) == chat.eos_token for id in whole) >= 4
    with pytest.raises(DataError, match=r"conversation of response 1 holds the pad token"):
        chat.encode_comparison(ASK, ["Yes.", f"No{chat.pad_token}."], allow_special_text=True)


def test_text_tokens_that_are_not_special_are_let_through(chats: dict[str, ChatTokenizer]) -> None:
    """<think> and <tool_call> are Qwen3's own, but a response may hold them."""
    encoded = chats["qwen3"].encode_comparison(
        ASK, ["<think>\nHm.\n</think>\n\nYes.", "<tool_call>{}</tool_call>"]
    )
    assert chats["qwen3"].tokenizer.token_to_id("<tool_call>") in encoded.responses[1]


def test_a_conversation_that_the_template_ends_otherwise_fails_alone(tmp_path: Path) -> None:
    template = OTHER_TEMPLATE.replace("{{ eos_token }}", "{{ eos_token if m.content != 'stop' }}").replace(
        "\n", ""
    )
    chat = load_chat_tokenizer(tokenizers_small.llama3_directory(tmp_path), template=template)
    good, bad = chat.encode_comparisons([GOOD, (ASK, ["go", "stop"])])
    assert isinstance(good, EncodedComparison) and isinstance(bad, DataError)
    assert "does not end response 1 with '<|eot_id|>'" in str(bad)


def test_a_text_that_cannot_be_tokenised_fails_alone() -> None:
    vocabulary = "<pad> <end> user assistant Is tea warm? Yes, so it is. 7 cups of No."
    words = vocabulary.split()
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    tokenizer.add_special_tokens(words[:2])
    template = "{% for m in messages %}{{ m.role }} {{ m.content }}<end>{% endfor %}"
    chat = ChatTokenizer(tokenizer, template, {"pad_token": "<pad>", "eos_token": "<end>"})
    good, bad, last = chat.encode_comparisons(
        [(ASK, ["No.", "7"]), (ASK, ["No.", "Perhaps."]), (ASK, ["7", "No."])]
    )
    assert isinstance(good, EncodedComparison) and isinstance(last, EncodedComparison)
    assert good.responses == last.responses[::-1] and good.responses[0] == [words.index("No."), 1]
    assert isinstance(bad, DataError) and "cannot be tokenised" in str(bad)
