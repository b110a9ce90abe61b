"""Comparisons survive their bytes; ids follow the content and nothing else; bad records are named."""

import dataclasses
import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewardscale.data.comparison import Comparison, DataError, Message

messages = st.builds(Message, st.text(max_size=8), st.text())
made = st.builds(
    Comparison,
    prompt=st.lists(messages, min_size=1, max_size=3).map(tuple),
    responses=st.lists(st.text(), min_size=2, max_size=4).map(tuple),
    source=st.text(max_size=8),
    split=st.sampled_from(["train", "validation", "test", ""]),
    category=st.text(max_size=8),
    group=st.text(max_size=8),
)


@given(made)
def test_bytes_give_the_comparison_back(comparison):
    again = Comparison.from_bytes(comparison.to_bytes())
    assert again == comparison
    assert again.id == comparison.id and len(again.id) == 32


@given(made)
def test_bytes_are_the_json_that_the_standard_library_writes(comparison):
    record = json.loads(comparison.to_bytes())
    text = json.dumps(record, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    assert comparison.to_bytes() == text.encode()
    parts = [[[m.role, m.content] for m in comparison.prompt], list(comparison.responses)]
    text = json.dumps(parts, ensure_ascii=False, separators=(",", ":"))
    assert comparison.id == hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@given(made)
def test_hashes_are_those_of_the_properties_and_one_for_any_order_of_the_responses(comparison):
    identity, prompt, key = comparison.hashes()
    assert (identity, prompt) == (comparison.id, comparison.prompt_hash) and len(key) == 16
    turned = dataclasses.replace(comparison, responses=comparison.responses[::-1])
    assert turned.hashes()[2] == key
    other = dataclasses.replace(comparison, responses=(*comparison.responses, "more"))
    assert other.hashes()[2] != key


@given(made, made)
def test_ids_are_equal_exactly_where_prompt_and_responses_are(one, two):
    assert (one.id == two.id) == ((one.prompt, one.responses) == (two.prompt, two.responses))
    assert (one.prompt_hash == two.prompt_hash) == (one.prompt == two.prompt)


@given(made, st.text(max_size=8))
def test_source_split_category_and_group_do_not_enter_the_id(comparison, text):
    other = dataclasses.replace(comparison, source=text, split=text, category=text, group=text)
    assert other.id == comparison.id and other.prompt_hash == comparison.prompt_hash


def test_where_one_text_ends_and_the_next_begins_enters_the_id():
    def comparison(*responses: str) -> Comparison:
        return Comparison((Message("user", "q"),), responses, "s")

    ids = {
        comparison(*r).id for r in [("ab", "c"), ("a", "bc"), ("c", "ab"), ("a", "b", "c"), ("ab", "c", "")]
    }
    assert len(ids) == 5
    one = Comparison((Message("user", "q"),), ("a", "b"), "s")
    two = Comparison((Message("use", "rq"),), ("a", "b"), "s")
    assert one.prompt_hash != two.prompt_hash


def test_a_comparison_needs_a_prompt_and_two_responses():
    with pytest.raises(DataError, match=r"'web'.*no prompt"):
        Comparison((), ("a", "b"), source="web")
    with pytest.raises(DataError, match=r"'web'.*1 responses.*2 or more"):
        Comparison((Message("user", "q"),), ("a",), source="web")


def test_text_that_is_not_unicode_is_named():
    comparison = Comparison((Message("user", "q"),), ("fine", "half a pair: \ud83d"), "s")
    for use in (lambda: comparison.id, comparison.to_bytes):
        with pytest.raises(DataError, match=r"half a pair.*lone surrogate"):
            use()


@given(st.binary(max_size=40))
def test_other_bytes_are_a_data_error(data):
    with pytest.raises(DataError, match="not a comparison record"):
        Comparison.from_bytes(data)


@given(made, st.data())
def test_a_record_without_one_of_its_keys_is_a_data_error(comparison, data):
    record = json.loads(comparison.to_bytes())
    del record[data.draw(st.sampled_from(sorted(record)))]
    with pytest.raises(DataError, match="not a comparison record"):
        Comparison.from_bytes(json.dumps(record).encode())


@pytest.mark.parametrize(
    "damage", [{"prompt": []}, {"responses": ["one"]}, {"prompt": [["user"]]}, {"prompt": 3}]
)
def test_a_record_with_a_damaged_value_is_a_data_error(damage):
    record = json.loads(Comparison((Message("user", "q"),), ("a", "b"), "s").to_bytes()) | damage
    with pytest.raises(DataError, match="not a comparison record"):
        Comparison.from_bytes(json.dumps(record).encode())
