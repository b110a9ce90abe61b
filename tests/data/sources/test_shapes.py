"""What is wrong with a record has one code and one sentence; spellings of conversations mean the same."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardscale.data.comparison import Message
from rewardscale.data.records import ItemError, parse_item
from rewardscale.data.sources import turns
from rewardscale.data.sources.adapter import adapter
from rewardscale.data.sources.judged import Judged, Refused
from rewardscale.data.sources.read import Options, locate, read
from rewardscale.data.sources.shapes import MAX_BYTES, About, shaped

ASK, WHY = {"role": "user", "content": "Is tea warm?"}, {"role": "user", "content": "Why?"}
YES, NO = {"role": "assistant", "content": "Yes."}, {"role": "assistant", "content": "No."}
BRIEF = {"role": "system", "content": "Be brief."}


def shape(record: Mapping[str, Any], name: str = "pairs") -> list[Judged | ItemError]:
    own = adapter(name)
    return shaped(own.shape, own.labels, record, About(name))


def pair(record: Mapping[str, Any], name: str = "pairs") -> Judged:
    (made,) = shape(record, name)
    assert isinstance(made, Judged)
    return made


def test_a_pair_as_it_is_published() -> None:
    made = pair({"prompt": "Is tea warm?", "chosen": "Yes.", "rejected": "No."})
    assert made.comparison.prompt == (Message("user", "Is tea warm?"),)
    assert made.comparison.responses == ("Yes.", "No.") and made.judgements[0].scores == (1.0, 0.0)


FORMS = [
    {"prompt": "Is tea warm?", "chosen": "Yes.", "rejected": "No."},
    {"prompt": [ASK], "chosen": "Yes.", "rejected": "No."},
    {"messages": [ASK], "chosen": "Yes.", "rejected": "No."},
    {"chosen": [ASK, YES], "rejected": [ASK, NO], "score_chosen": 7},
    {"prompt": "Is tea warm?", "chosen": [ASK, YES], "rejected": [ASK, NO]},
    {"prompt": [ASK], "chosen": [YES], "rejected": [{**NO, "name": None}]},
]
MORE_FORMS = [
    {
        "chosen": [{"from": "human", "value": "Is tea warm?"}, {"from": "gpt", "value": "Yes."}],
        "rejected": [ASK, NO],
    },
    {"chosen": {"role": ["user", "assistant"], "content": ["Is tea warm?", "Yes."]}, "rejected": [ASK, NO]},
    {
        "chosen": [{"role": "user", "content": [{"type": "text", "text": "Is tea warm?"}]}, YES],
        "rejected": [ASK, NO],
    },
    {"chosen": [{**ASK, "num_tokens": 3}, {**YES, "id": "x"}], "rejected": [ASK, NO]},
    {
        "chosen": "\n\nHuman: Is tea warm?\n\nAssistant: Yes.",
        "rejected": "\n\nHuman: Is tea warm? \n\nAssistant: No.",
    },
    {
        "chosen": [{"role": "system", "content": ""}, ASK, YES],
        "rejected": [{"role": "system", "content": ""}, ASK, NO],
    },
]


@pytest.mark.parametrize("record", [*FORMS, *MORE_FORMS])
def test_all_forms_of_one_pair(record: dict[str, Any]) -> None:
    made = pair(record).comparison
    assert made.prompt == (Message("user", "Is tea warm?"),) and made.responses == ("Yes.", "No.")


@pytest.mark.parametrize("record", FORMS)
def test_what_is_scored_is_what_is_trained_on(record: dict[str, Any]) -> None:
    """The scorer's reading of a record and the corpus's are one."""
    ((prompt, responses),) = parse_item(record).parts
    made = pair(record).comparison
    assert ([(m.role, m.content) for m in made.prompt], made.responses) == (
        [(m["role"], m["content"]) for m in prompt],
        responses,
    )


CHOSEN = {"prompt": "Is tea warm?", "chosen": "Yes.", "rejected": "No."}
BAD = [
    ("no_response", {"prompt": "a", "chosen": "b"}, "`rejected` is missing"),
    ("no_response", {**CHOSEN, "chosen": None}, "`chosen` is missing or null"),
    ("no_response", {"prompt": "a", "responses": ["b", "c"]}, "`chosen` is missing"),
    ("identical_responses", {**CHOSEN, "rejected": "Yes."}, "all 2 responses are the same text"),
    ("not_text", {**CHOSEN, "chosen": 7}, "`chosen` must be a text or a list of messages"),
    ("not_text", {**CHOSEN, "prompt": 7}, "`prompt` must be a text or a list of messages"),
    ("not_text", {"chosen": [ASK, {**YES, "content": 7}], "rejected": [ASK, NO]}, "content of message 1"),
    (
        "not_text",
        {"chosen": [ASK, {**YES, "content": [{"type": "image"}]}], "rejected": [ASK, NO]},
        "message 1",
    ),
    ("empty_prompt", {**CHOSEN, "prompt": " \n"}, "the prompt is empty|`prompt` is empty"),
    (
        "empty_prompt",
        {"prompt": [ASK, {**YES, "content": ""}, WHY], "chosen": "a", "rejected": "b"},
        "message 1",
    ),
    ("no_prompt", {"chosen": "a", "rejected": "b"}, "there is no 'prompt'"),
    ("no_prompt", {"prompt": [BRIEF], "chosen": "a", "rejected": "b"}, "no message of the user"),
    ("no_prompt", {"chosen": [YES], "rejected": [NO]}, "holds an answer and no prompt"),
    ("empty_response", {**CHOSEN, "chosen": ""}, "response 1 is empty"),
    ("empty_response", {**CHOSEN, "rejected": " \n\t"}, "response 2 is empty"),
    (
        "too_long",
        {**CHOSEN, "chosen": "x" * MAX_BYTES},
        "response 1 has 1,000,000 bytes; the limit is 1,000,000",
    ),
    ("too_long", {**CHOSEN, "chosen": "é" * (MAX_BYTES // 2)}, "1,000,000 bytes"),
    ("too_long", {**CHOSEN, "prompt": "x" * 2_000_000}, "the prompt has 2,000,000 bytes"),
    ("not_unicode", {**CHOSEN, "chosen": "a\ud83d"}, "lone surrogate at 1"),
    ("nul", {**CHOSEN, "chosen": "a\x00"}, "NUL character at 1"),
    (
        "roles",
        {"prompt": [ASK, BRIEF, WHY], "chosen": "a", "rejected": "b"},
        "message 1 .* 'system' where assistant",
    ),
    ("roles", {"prompt": [ASK, WHY], "chosen": "a", "rejected": "b"}, "message 1 of the prompt is of 'user'"),
    ("roles", {"prompt": [YES, ASK], "chosen": "a", "rejected": "b"}, "'assistant' where system or user"),
    ("roles", {"prompt": [ASK, YES], "chosen": "a", "rejected": "b"}, "must end with a message of the user"),
    ("roles", {"prompt": [{"role": "tool", "content": "x"}, ASK], "chosen": "a", "rejected": "b"}, "'tool'"),
    ("roles", {"prompt": [{"content": "x"}], "chosen": "a", "rejected": "b"}, "message 0 has no role"),
    ("roles", {"chosen": [ASK, WHY], "rejected": [ASK, NO]}, "must end with a message of the assistant"),
    ("roles", {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "c"}, "`rejected` must begin with"),
    ("parted_early", {"chosen": [ASK, YES, WHY, NO], "rejected": [ASK, NO]}, r"\(3 and 1 messages\)"),
    ("tools", {**CHOSEN, "tools": [{"name": "kettle"}]}, "`tools` are offered"),
    (
        "tools",
        {"prompt": [ASK, {**YES, "tool_calls": [{}]}, WHY], "chosen": "a", "rejected": "b"},
        "`tool_calls`",
    ),
    ("step_labels", {"prompt": "1+1?", "completions": ["a", "b"], "labels": [True, False]}, "no preferences"),
    ("step_labels", {"problem": "1+1?", "steps": [{"step": "2", "rating": 1}]}, "no preferences"),
]


@pytest.mark.parametrize(("code", "record", "reason"), BAD)
def test_a_bad_record_has_a_code_and_a_reason(code: str, record: dict[str, Any], reason: str) -> None:
    with pytest.raises(ItemError, match=reason) as error:
        shape(record)
    assert error.value.code == code


def test_the_same_through_a_file(tmp_path: Path) -> None:
    """All bad records of the list, good ones between them: each is refused once, under its line."""
    lines = []
    for _, record, _ in BAD:
        escaped = {k: "\x00" if v == "a\x00" else v for k, v in record.items() if v != "a\ud83d"}
        lines += [orjson.dumps(CHOSEN), orjson.dumps(escaped)]
    (tmp_path / "train.jsonl").write_bytes(b"\n".join(lines))
    located = locate(adapter("pairs"), tmp_path)
    found = [item for unit in located.units(target=1000) for item in read(located.adapter, unit)]
    refused = [item for item in found if isinstance(item, Refused)]
    assert len(found) - len(refused) == len(BAD)
    assert [item.line for item in refused] == list(range(2, 2 * len(BAD) + 1, 2))
    codes = [
        "no_response" if code == "not_unicode" else code for code, _, _ in BAD
    ]  # no file can hold that text
    assert [item.code for item in refused] == codes
    assert orjson.loads(orjson.dumps(refused[0].record())) == refused[0].record()


def test_the_limits_can_be_moved(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(orjson.dumps(CHOSEN))
    located = locate(adapter("pairs"), tmp_path / "a.jsonl")
    (refused,) = read(located.adapter, located.files[0], Options(max_bytes=4))
    assert isinstance(refused, Refused) and refused.code == "too_long"


def test_one_bad_response_of_several_is_left_out_and_said() -> None:
    record = {"prompt": "Is tea warm?", "responses": ["Yes.", "", "No.", None], "scores": [3, 2, 1, 0]}
    made, *left_out = shape(record, "rated")
    assert isinstance(made, Judged) and made.comparison.responses == ("Yes.", "No.")
    assert made.judgements[0].scores == (3.0, 1.0)
    assert [(e.code, str(e)[:10]) for e in left_out if isinstance(e, ItemError)] == [
        ("empty_response", "response 2"),
        ("no_response", "response 4"),
    ]
    with pytest.raises(ItemError, match="response 1 is empty"):
        shape({"prompt": "a", "responses": ["", "b", ""], "scores": [1, 2, 3]}, "rated")
    with pytest.raises(ItemError, match="all 3 responses are the same"):
        shape({"prompt": "a", "responses": ["b"] * 3, "scores": [1, 2, 3]}, "rated")


@pytest.mark.parametrize(
    ("name", "record", "message"),
    [
        (
            "rated",
            {"prompt": "a", "responses": ["b", "c"], "scores": [1]},
            "a score for each of the 2 responses",
        ),
        ("rated", {"prompt": "a", "responses": ["b", "c"]}, "a score for each of the 2 responses"),
        ("rated", {"prompt": "a", "responses": ["b", "c"], "scores": ["x", None]}, "fewer than two"),
        ("llmbar", {"input": "a", "output_1": "b", "output_2": "c", "label": 3}, "'3' and none of 1, 2"),
        ("llmbar", {"input": "a", "output_1": "b", "output_2": "c"}, "nobody has judged"),
        (
            "helpsteer3",
            {"context": [ASK], "response1": "b", "response2": "c", "overall_preference": "x"},
            "a number",
        ),
        (
            "helpsteer3",
            {"context": [ASK], "response1": "b", "response2": "c", "overall_preference": -100},
            "nobody",
        ),
        (
            "ultrafeedback-binarized",
            {**CHOSEN, "score_chosen": 2, "score_rejected": 5},
            "2 is below `score_rejected` 5: the labels contradict",
        ),
    ],
)
def test_labels_that_say_nothing(name: str, record: dict[str, Any], message: str) -> None:
    with pytest.raises(ItemError, match=message) as error:
        shape(record, name)
    assert error.value.code in ("no_label", "contradiction")


# --- transcripts -------------------------------------------------------------------------------------

content = st.text(max_size=40).filter(lambda text: "\n\nHuman:" not in text and "\n\nAssistant:" not in text)
said = content.map(str.strip).filter(
    lambda text: "\n\nHuman:" not in f"\n{text}" and "\n\nAssistant:" not in f"\n{text}"
)
conversations = st.lists(said, min_size=1, max_size=6).map(
    lambda texts: [
        {"role": "user" if number % 2 == 0 else "assistant", "content": text}
        for number, text in enumerate(texts)
    ]
)


@settings(deadline=None)
@given(conversations)
def test_transcripts_and_messages_are_the_same(conversation: list[dict[str, str]]) -> None:
    text = turns.to_transcript(conversation)
    assert turns.transcript(text, "chosen") == conversation
    assert turns.to_transcript(turns.transcript(text, "chosen")) == text
    assert turns.is_transcript(text)


marked = st.text(max_size=40).map(lambda text: text.replace("<extra_id_1>", "").strip())


@settings(deadline=None)
@given(st.lists(marked.filter(bool), min_size=1, max_size=5).filter(lambda texts: len(texts) % 2 == 1))
def test_marked_prompts(texts: list[str]) -> None:
    text = texts[0]
    for number, own in enumerate(texts[1:]):
        text += f"\n<extra_id_1>{('Assistant', 'User')[number % 2]}\n{own}"
    assert [own["content"] for own in turns.marked(text)] == texts
    assert [own["role"] for own in turns.marked(text)] == ["user", "assistant"] * (len(texts) // 2) + ["user"]
