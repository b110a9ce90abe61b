"""The forms in which people give comparisons, and what is said of those that are none."""

import pytest

from rewardscale.data.comparison import DataError
from rewardscale.data.records import parse_item

ASK = {"role": "user", "content": "Is tea warm?"}
YES, NO = {"role": "assistant", "content": "Yes."}, {"role": "assistant", "content": "No."}
WHY = {"role": "user", "content": "Why?"}


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "Is tea warm?", "responses": ["Yes.", "No."]},
        {"prompt": [ASK], "responses": ["Yes.", "No."], "chosen": None, "tools": None},
        {"messages": [ASK], "responses": ["Yes.", "No."]},
        {"prompt": "Is tea warm?", "chosen": "Yes.", "rejected": "No."},
        {"chosen": [ASK, YES], "rejected": [ASK, NO], "score_chosen": 7},
        {"prompt": "Is tea warm?", "chosen": [ASK, YES], "rejected": [ASK, NO]},
        {"prompt": [ASK], "chosen": [YES], "rejected": [{**NO, "name": None}]},
    ],
)
def test_all_forms_of_one_comparison(record) -> None:
    item = parse_item(record)
    assert item.parts == (([ASK], ("Yes.", "No.")),) and item.tools is None
    assert item.pair == ("responses" not in record or "chosen" in item.parts)


def test_a_shared_prompt_of_several_turns() -> None:
    item = parse_item({"chosen": [ASK, YES, WHY, NO], "rejected": [ASK, YES, WHY, YES]})
    assert item.parts == (([ASK, YES, WHY], ("No.", "Yes.")),)


def test_conversations_that_part_early_keep_their_own_prompts() -> None:
    item = parse_item({"chosen": [ASK, YES, WHY, NO], "rejected": [ASK, NO]})
    assert item.parts == (([ASK, YES, WHY], ("No.",)), ([ASK], ("No.",))) and item.pair


def test_tools_and_calls_go_through() -> None:
    call = {
        "role": "assistant",
        "tool_calls": [{"function": {"name": "warm", "arguments": {}}}],
        "content": None,
    }
    item = parse_item({"prompt": [ASK, call], "responses": ["Yes."], "tools": [{"name": "warm"}]})
    assert item.tools == [{"name": "warm"}]
    assert item.parts[0][0][1] == {k: v for k, v in call.items() if v is not None}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (7, "an item is a JSON object, not a number"),
        (["a"], "an item is a JSON object, not a list"),
        ({}, "found none of them"),
        ({"prompt": "a", "chosen": "b"}, "found 'prompt', 'chosen'"),
        ({"responses": ["a"]}, "there is no 'prompt'"),
        ({"prompt": " ", "responses": ["a"]}, "the prompt is empty"),
        ({"prompt": [], "responses": ["a"]}, "'prompt' must be a list of messages, at least one"),
        ({"prompt": 7, "responses": ["a"]}, "'prompt' must be a list of messages"),
        ({"prompt": "a", "messages": [ASK], "responses": ["a"]}, "either 'prompt' or 'messages'"),
        ({"prompt": [{"content": "a"}], "responses": ["a"]}, "message 0 needs a 'role'"),
        (
            {"prompt": [ASK, {"role": "user"}], "responses": ["a"]},
            "the content of message 1 must be a string",
        ),
        ({"prompt": "a", "responses": []}, "'responses' must be a list of strings"),
        ({"prompt": "a", "responses": "b"}, "'responses' must be a list of strings"),
        ({"prompt": "a", "responses": ["b", None]}, "response 1 is null, not a string"),
        ({"prompt": "a", "responses": ["b"], "chosen": "c"}, "either 'responses' or 'chosen'"),
        ({"prompt": "a", "responses": ["b"], "tools": "c"}, "'tools' must be a list"),
        ({"chosen": "a", "rejected": "b"}, "there is no 'prompt'"),
        ({"chosen": [ASK, YES], "rejected": "b"}, "'rejected' must be a list of messages"),
        ({"chosen": [ASK], "rejected": [ASK, NO]}, "'chosen' must end with a message of the assistant"),
        ({"chosen": [YES], "rejected": [NO]}, "'chosen' holds an answer and no prompt"),
        ({"prompt": "Other?", "chosen": [ASK, YES], "rejected": [ASK, NO]}, "'chosen' begins neither with"),
    ],
)
def test_what_is_no_item_says_why(record, message) -> None:
    with pytest.raises(DataError, match=message):
        parse_item(record)
