"""Token shards hold what the text says, in memory or record by record; damage and unknown words are named."""

import dataclasses
import hashlib
import json
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import decoders

from rewardscale import atomic
from rewardscale.data import token_shards
from rewardscale.data.chat import load_chat_tokenizer
from rewardscale.data.comparison import Comparison, DataError, Message
from rewardscale.data.corpus import open_corpus, write_corpus, write_shards
from rewardscale.data.templates import (
    SPECIAL,
    TEMPLATES,
    get_template,
    tokenizer_hash,
    train_bpe,
    word_tokenizer,
)
from rewardscale.data.tokenised import (
    TokenStore,
    build_view,
    open_chat_tokenizer,
    open_view,
    ragged_arange,
    token_store,
    view_key,
)
from rewardscale.stages import StageError
from tests import tokenizers_small

WORDS = [f"w{i}" for i in range(50)]
TEXTS = ["Tea warms & calms, they say.", "Dogs fetch;\n\nthey  guard the house, don't they?", "Tëa! 茶 🍵"]


@pytest.fixture(scope="module")
def made(comparisons):
    return comparisons(80, seed=5, responses=(2, 3))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, made):
    return write_corpus(tmp_path_factory.mktemp("tokens") / "corpus", made, about={})


@pytest.fixture(scope="module")
def view3(corpus):
    return build_view(corpus, word_tokenizer(WORDS), "words")


@pytest.fixture
def copy(view3, tmp_path):
    return shutil.copytree(view3.directory, tmp_path / "view")


def expected(comparison, tokenizer, template) -> list[list[int]]:
    rule = get_template(template)
    return [tokenizer.encode(text).ids for text in (rule.prompt(comparison), *rule.responses(comparison))]


def test_records_hold_prompt_then_responses(view3, made):
    store = TokenStore(view3)
    flat, starts = store.gather(np.arange(len(made)))
    assert len(view3) == len(store) == 80 and view3.vocab_size == 53
    for row, comparison in enumerate(made):
        parts = expected(comparison, word_tokenizer(WORDS), "words")
        assert view3.lengths[row].tolist() == [len(p) for p in parts] + [0] * (4 - len(parts))
        size = int(view3.lengths[row].sum())
        assert flat[starts[row] : starts[row] + size].tolist() == [i for part in parts for i in part]


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.integers(0, 79), max_size=30))
def test_in_memory_and_through_grain_the_tokens_are_the_same(view3, rows):
    memory, disk = (TokenStore(view3, in_memory=where) for where in (True, False))
    rows = np.array(rows, np.int64)  # any order, repeated rows too
    for one, two in zip(memory.gather(rows), disk.gather(rows), strict=True):
        np.testing.assert_array_equal(one, two)
        assert one.dtype == two.dtype
    assert len(memory.gather(rows)[0]) == view3.lengths[rows].sum()


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 6))))
def test_ragged_arange(ranges):
    starts, sizes = [a for a, _ in ranges], [n for _, n in ranges]
    wanted = [i for a, n in ranges for i in range(a, a + n)]
    assert ragged_arange(np.array(starts, np.int64), np.array(sizes, np.int64)).tolist() == wanted


def test_a_view_is_built_once_and_its_key_covers_what_it_depends_on(corpus, view3, tmp_path, made):
    before = (view3.directory / "view.json").stat().st_mtime_ns
    assert build_view(corpus, word_tokenizer(WORDS), "words").key == view3.key
    assert (view3.directory / "view.json").stat().st_mtime_ns == before
    other = write_corpus(tmp_path / "other", made[::-1], about={})
    keys = {
        view_key(corpus, word_tokenizer(WORDS), "words"),
        view_key(corpus, word_tokenizer([*WORDS, "more"]), "words"),
        view_key(corpus, word_tokenizer(WORDS), "chat"),
        view_key(other, word_tokenizer(WORDS), "words"),
    }
    assert len(keys) == 4 and view3.key in keys
    assert token_store(view3.directory) is token_store(view3.directory)


def test_keys_of_our_own_templates_are_what_finished_runs_recorded(corpus):
    for template in TEMPLATES:
        parts = json.dumps([corpus.fingerprint, tokenizer_hash(word_tokenizer(WORDS)), template])
        key = hashlib.blake2b(parts.encode(), digest_size=16).hexdigest()
        assert view_key(corpus, word_tokenizer(WORDS), template) == key


def test_a_word_outside_the_vocabulary_is_named_and_leaves_no_view(tmp_path, made):
    corpus = write_corpus(tmp_path / "corpus", made, about={})
    with pytest.raises(DataError, match=r"corpus: a text cannot be tokenised"):
        build_view(corpus, word_tokenizer(WORDS[:30]), "words")
    assert not list((corpus.directory / "views").iterdir())


def test_a_part_without_tokens_is_named(tmp_path):
    empty = Comparison((Message("user", "  "),), ("w1", "w2"), "s")
    corpus = write_corpus(tmp_path / "corpus", [empty], about={})
    with pytest.raises(DataError, match=f"{empty.id} has a part without tokens"):
        build_view(corpus, word_tokenizer(WORDS), "words")


def rewrite(path, change):
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def other_lengths(folder):
    """A wrong length, consistently recorded."""
    table = np.load(folder / "lengths.npy")
    table[3, 1] += 1
    np.save(folder / "lengths.npy", table)
    rewrite(folder / "view.json", lambda r: r.update(lengths_sha256=atomic.sha256(folder / "lengths.npy")))


def cut_shard(folder):
    (path,) = folder.glob("shard-*")
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_byte(folder):
    (path,) = folder.glob("shard-*")
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "no folder": (shutil.rmtree, r"view\.json is missing"),
    "no lengths": (lambda f: (f / "lengths.npy").unlink(), r"lengths\.npy is missing"),
    "no starts": (lambda f: (f / "starts.npy").unlink(), r"starts\.npy is missing"),
    "sums edited": (lambda f: np.save(f / "sums.npy", np.ones(80, np.uint32)), r"sums\.npy was changed"),
    "lengths edited": (lambda f: np.save(f / "lengths.npy", np.ones((80, 4))), r"lengths\.npy was changed"),
    "commit record cut": (lambda f: (f / "view.json").write_text("{"), r"view\.json cannot be read"),
    "commit record: a list": (lambda f: (f / "view.json").write_text("[]"), r"view\.json cannot be read"),
    "commit record: no key": (
        lambda f: rewrite(f / "view.json", lambda r: r.pop("key")),
        r"view\.json cannot be",
    ),
    "shard cut": (cut_shard, r"shard-00000.*truncated"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_one_error_that_names_the_file_and_the_mend(copy, case):
    damage, message = DAMAGE[case]
    damage(copy)
    with pytest.raises(DataError, match=message) as error:
        open_view(copy)
    assert "build it again" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("in_memory", [True, False])
def test_tokens_that_are_not_as_many_as_the_lengths_say_are_found(copy, in_memory):
    other_lengths(copy)
    with pytest.raises(DataError, match=r"disagree with lengths\.npy; delete the view"):
        TokenStore(open_view(copy), in_memory=in_memory).gather(np.arange(5))


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_flipped_byte_that_no_one_checked_is_found_when_it_is_read(copy, in_memory):
    flip_a_byte(copy)
    with pytest.raises(DataError, match="cannot be read"):
        TokenStore(open_view(copy, deep=False), in_memory=in_memory).gather(np.arange(80))


def as_array_record(view, folder):
    """The same view as it was written before there were token shards: an ArrayRecord record a row."""
    folder.mkdir()
    flat, starts = TokenStore(view).gather(np.arange(len(view)))
    records = [part.astype("<u4").tobytes() for part in np.split(flat, starts[1:])]
    record = json.loads((view.directory / "view.json").read_text())
    record["shards"] = write_shards(folder, records, total=len(records))
    for name in ("starts_sha256", "sums_sha256"):
        del record[name]
    shutil.copy(view.directory / "lengths.npy", folder)
    (folder / "view.json").write_text(json.dumps(record))
    return open_view(folder)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.integers(0, 79), max_size=30))
def test_views_written_as_array_records_can_still_be_read(view3, tmp_path, rows):
    if not (tmp_path / "old").exists():
        as_array_record(view3, tmp_path / "old")
    old, rows = open_view(tmp_path / "old"), np.array(rows, np.int64)
    assert not old.index and old.key == view3.key and old.tokens == view3.tokens
    for in_memory in (True, False):
        found = TokenStore(old, in_memory=in_memory).gather(rows)
        for one, two in zip(found, TokenStore(view3).gather(rows), strict=True):
            np.testing.assert_array_equal(one, two)
            assert one.dtype == two.dtype


DAMAGE_OF_OLD = {
    "lengths": (other_lengths, r"disagree with lengths\.npy; delete the view"),
    "a byte": (flip_a_byte, "cannot be read"),
}


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("case", DAMAGE_OF_OLD)
def test_damage_of_array_records_is_found_when_they_are_read(view3, tmp_path, case, in_memory):
    damage, message = DAMAGE_OF_OLD[case]
    damage(as_array_record(view3, tmp_path / "old").directory)
    with pytest.raises(DataError, match=message):
        TokenStore(open_view(tmp_path / "old", deep=False), in_memory=in_memory).gather(np.arange(80))


def test_rows_lie_in_shards_of_a_million_and_are_found_in_any_order(view3, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(token_shards, "ROWS_PER_SHARD", 16)
    shutil.copytree(corpus.directory, tmp_path / "c", ignore=shutil.ignore_patterns("views"))
    view = build_view(open_corpus(tmp_path / "c"), word_tokenizer(WORDS), "words")
    assert [path.name for path in view.shards.paths] == [f"shard-{i:05d}-of-00005.tokens" for i in range(5)]
    for rows in (np.random.default_rng(0).integers(0, 80, 200), np.zeros(0, np.int64), np.arange(80)[::-1]):
        for in_memory in (True, False):
            flat, starts = TokenStore(view, in_memory=in_memory).gather(rows)
            wanted = TokenStore(view3).gather(rows)
            np.testing.assert_array_equal(flat, wanted[0])
            np.testing.assert_array_equal(starts, wanted[1])


def test_by_stages_the_bytes_are_the_same(view3, corpus, tmp_path, talk_corpus, monkeypatch):
    """Words of a corpus of several shards, and chats."""
    monkeypatch.setattr("rewardscale.data.corpus.RECORDS_PER_SHARD", 30)
    parted = write_corpus(tmp_path / "words", list(corpus), about={})
    assert len(parted.shards.paths) == 3
    view = build_view(parted, word_tokenizer(WORDS), "words", engine="process:2")
    shutil.copytree(talk_corpus.directory, tmp_path / "chat", ignore=shutil.ignore_patterns("views"))
    llama = load_chat_tokenizer(tokenizers_small.llama3_directory(tmp_path / "llama"))
    chats = [
        build_view(c, llama, engine=engine)
        for c, engine in ((talk_corpus, None), (open_corpus(tmp_path / "chat"), "inline"))
    ]
    for one, two in ((view, view3), chats):
        names = sorted(path.name for path in one.directory.iterdir())
        assert names == sorted(path.name for path in two.directory.iterdir() if path.name != "batches")
        for name in names:
            assert (one.directory / name).read_bytes() == (two.directory / name).read_bytes()


def test_an_error_of_a_stage_names_the_shard_and_leaves_no_view(corpus, tmp_path):
    shutil.copytree(corpus.directory, tmp_path / "c", ignore=shutil.ignore_patterns("views"))
    with pytest.raises(StageError, match=r"shard-00000(.|\n)*a text cannot be tokenised"):
        build_view(open_corpus(tmp_path / "c"), word_tokenizer(WORDS[:30]), "words", engine="inline")
    assert not [path for path in (tmp_path / "c" / "views").iterdir() if not path.name.startswith(".")]


FILES = """
import resource
from rewardscale.data.token_shards import allow_open_files
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 3000))
for shards in (100, 2000, 3000):
    try:
        allow_open_files(shards)
    except ValueError as error:
        print(type(error).__name__, error)
    print(shards, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


def test_the_limit_of_open_files_is_raised_as_far_as_it_may_be(python):
    one, two, refused, three = python(FILES).stdout.splitlines()
    assert (one, two, three) == ("100 1024", "2000 2256", "3000 2256")
    assert refused.startswith(
        "DataError reading 3000 shards needs 3256 open files and this process may have 3000"
    )
    assert "ulimit -Hn 3256" in refused


text = st.text(min_size=1, max_size=20).filter(lambda t: not any(token in t for token in SPECIAL))
turns = st.lists(
    st.builds(Message, st.sampled_from(["system", "user", "assistant"]), text), min_size=1, max_size=3
)


@pytest.fixture(scope="module")
def bpe():
    return train_bpe(TEXTS * 3, 300)


@settings(max_examples=60, deadline=None)
@given(prompt=turns, responses=st.lists(text, min_size=2, max_size=3))
def test_chat_prompt_and_responses_apart_give_the_tokens_of_the_whole(bpe, prompt, responses):
    comparison = Comparison(tuple(prompt), tuple(responses), "s")
    start, *ends = expected(comparison, bpe, "chat")
    rule = get_template("chat")
    for tokens, response in zip(ends, rule.responses(comparison), strict=True):
        assert bpe.encode(rule.prompt(comparison) + response).ids == start + tokens
    assert start[-1] == bpe.token_to_id("<|response|>")
    assert all(tokens[-1] == bpe.token_to_id("<|end|>") for tokens in ends)
    # Nothing of the text is lost: it comes back with the special tokens taken out.
    pieces = [token for i in start if (token := bpe.id_to_token(i)) not in SPECIAL]
    assert decoders.ByteLevel().decode(pieces) == "".join(m.content for m in prompt)


word_texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=6).map(" ".join)


@given(prompt=st.lists(word_texts, min_size=1, max_size=3), response=word_texts)
def test_words_prompt_and_responses_apart_give_the_tokens_of_the_whole(prompt, response):
    comparison = Comparison(tuple(Message("user", t) for t in prompt), (response, "w1"), "s")
    tokenizer, rule = word_tokenizer(WORDS), get_template("words")
    start, tokens, _ = expected(comparison, tokenizer, "words")
    assert tokenizer.encode(rule.prompt(comparison) + rule.responses(comparison)[0]).ids == start + tokens
    assert len(start) == sum(len(t.split()) for t in prompt) and len(tokens) == len(response.split()) + 1
    assert tokens[-1] == tokenizer.token_to_id("<|end|>")


def test_roles_reach_the_tokens(bpe):
    def prompt(role: str) -> list[int]:
        return expected(Comparison((Message(role, "hi"),), ("a", "b"), "s"), bpe, "chat")[0]

    assert len({tuple(prompt(role)) for role in ("system", "user", "assistant")}) == 3
    with pytest.raises(DataError, match=r"roles \['tool'\].*'chat' knows \['assistant', 'system', 'user'\]"):
        prompt("tool")


@pytest.mark.parametrize("where", ["prompt", "response"])
def test_a_special_token_written_out_in_a_text_is_refused(where):
    """It would become the token: a text could end itself, or speak for the other side."""
    words = {"prompt": "w1", "response": "w2"} | {where: "w3<|response|>w4"}
    comparison = Comparison((Message("user", words["prompt"]),), ("w1", words["response"]), "s")
    for template in TEMPLATES.values():
        with pytest.raises(DataError, match=rf"{comparison.id} holds the special token '<\|response\|>'"):
            "".join([template.prompt(comparison), *template.responses(comparison)])


def test_an_unknown_template_is_named():
    with pytest.raises(DataError, match=r"unknown template 'chta'; known: \['chat', 'words'\]"):
        get_template("chta")
    assert all(name == template.name for name, template in TEMPLATES.items())


# --- views under a Hugging Face tokenizer and its template ---------------------------------------------


@pytest.fixture(scope="module")
def talks():
    turns = (Message("system", "Be brief."), Message("user", "Is tea warm? 茶"))
    return [
        Comparison(turns, ("Yes.", "No, it is cold."), "s"),
        Comparison(turns[1:], ("<think>Hm.</think>7", "7", "12"), "s"),
        Comparison(turns, ("Yes.", "Yes."), "s"),
    ]


@pytest.fixture(scope="module")
def talk_corpus(tmp_path_factory, talks):
    return write_corpus(tmp_path_factory.mktemp("talks") / "corpus", talks, about={})


@pytest.fixture(params=["llama3_directory", "qwen3_directory"])
def chat(request, tmp_path):
    return load_chat_tokenizer(
        getattr(tokenizers_small, request.param)(tmp_path / "chat"), date="01 Jan 2025"
    )


def test_a_chat_view_holds_the_ids_of_whole_conversations(talk_corpus, talks, chat):
    view = build_view(talk_corpus, chat)
    store = TokenStore(view)
    flat, starts = store.gather(np.arange(len(talks)))
    for row, comparison in enumerate(talks):
        lengths = view.lengths[row]
        assert (lengths > 0).sum() == 1 + len(comparison.responses)
        parts = np.split(flat[starts[row] :], np.cumsum(lengths))
        for response, ids in zip(comparison.responses, parts[1:], strict=False):
            wanted = chat.encode([*comparison.prompt, Message("assistant", response)])
            assert [*parts[0], *ids] == wanted
    assert view.vocab_size == chat.vocab_size and build_view(talk_corpus, chat).key == view.key


def test_a_chat_view_records_what_a_model_needs_and_gives_its_tokenizer_back(talk_corpus, chat):
    view = build_view(talk_corpus, chat)
    record = json.loads((view.directory / "view.json").read_text())
    kept = ("chat", "template", "tokenizer", "date", "pad_token", "pad_token_id")
    assert [record[name] for name in kept] == [
        chat.key,
        chat.template_hash,
        chat.tokenizer_hash,
        "01 Jan 2025",
        chat.pad_token,
        chat.pad_token_id,
    ]
    assert record["reward_token"] == {
        "id": chat.reward_token.id,
        "text": chat.reward_token.text,
        "closing": chat.reward_token.closing,
    }
    again = open_chat_tokenizer(view)
    assert again.key == chat.key and again.files == chat.files


def test_the_tokenizer_of_a_chat_view_cannot_change_unseen(talk_corpus, chat):
    view = build_view(talk_corpus, chat)
    path = view.directory / "chat_template.jinja"
    path.write_text(path.read_text() + "{# other #}")
    try:
        with pytest.raises(
            DataError, match=r"was changed after it was written; delete .* and build it again"
        ):
            open_chat_tokenizer(view)
    finally:
        shutil.rmtree(view.directory)


def test_the_key_of_a_chat_view_covers_corpus_and_chat(talk_corpus, corpus, chat, tmp_path):
    smaller = tokenizers_small.qwen3_directory(tmp_path / "smaller", vocab_size=500)
    keys = {
        view_key(talk_corpus, chat),
        view_key(corpus, chat),
        view_key(talk_corpus, load_chat_tokenizer(smaller)),
        view_key(talk_corpus, dataclasses.replace(chat, date="02 Jan 2025")),
    }
    assert len(keys) == 4


def test_one_template_a_view(talk_corpus, chat, view3):
    with pytest.raises(DataError, match="chat tokenizer brings its template; 'chat' cannot be used"):
        build_view(talk_corpus, chat, "chat")
    with pytest.raises(DataError, match=r"unknown template ''; known: \['chat', 'words'\]"):
        build_view(talk_corpus, word_tokenizer(WORDS))
    with pytest.raises(DataError, match="our template 'words', which has no chat form"):
        open_chat_tokenizer(view3)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (Comparison((Message("user", "Hi"),), ("", "Yes."), "s"), "response 0 is empty"),
        (Comparison((Message("critic", "Hi"),), ("No.", "Yes."), "s"), "no such role: critic"),
        (
            Comparison((Message("user", "<|im_end|><|eot_id|>"),), ("No.", "Yes."), "s"),
            "hold the special token",
        ),
    ],
)
def test_a_comparison_that_cannot_be_encoded_is_named_and_leaves_no_view(tmp_path, talks, chat, bad, message):
    corpus = write_corpus(tmp_path / "corpus", [*talks, bad], about={})
    with pytest.raises(DataError, match=f"corpus: comparison {bad.id}: .*{message}"):
        build_view(corpus, chat)
    assert not list((corpus.directory / "views").iterdir())


BPE = """
import os, sys
os.environ["RAYON_NUM_THREADS"] = sys.argv[1]
from rewardscale.data.templates import tokenizer_hash, train_bpe
texts = [f"{a} {b} {a}{b}" for a in ("tea", "téa", "dogs", "don't") for b in ("warms", "guard", "the house")]
tokenizer = train_bpe(texts * 40, 320)
print(tokenizer_hash(tokenizer), tokenizer.encode("the dogs don't guard téa").ids)
"""


def test_the_same_texts_give_the_same_bpe_tokenizer(python):
    one, four = (python(BPE, threads).stdout for threads in (1, 4))
    assert one == four and len(one.split()) > 3
    assert tokenizer_hash(train_bpe(TEXTS, 300)) != tokenizer_hash(train_bpe(TEXTS, 280))
