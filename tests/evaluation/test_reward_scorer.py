"""A loaded reward model: rewards do not depend on company, and equal the plain decoder's on whole conversations."""

import dataclasses
import itertools
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from rewardscale.config import ConfigError
from rewardscale.data.comparison import DataError
from rewardscale.data.records import parse_item
from rewardscale.data.rows import ABSENT, TokenTable
from rewardscale.evaluation.reward_scorer import Prepared, RewardScorer
from rewardscale.evaluation.shapes import deal, make_ladder, trees_that_fit
from tests import scoring_small

ITEMS = scoring_small.comparisons(24)


@pytest.fixture(scope="module", params=["llama", "qwen3"])
def directory(request, tmp_path_factory) -> Path:
    return scoring_small.model_directory(tmp_path_factory.mktemp("model") / "small", family=request.param)


@pytest.fixture(scope="module")
def scorer(directory: Path) -> RewardScorer:
    made = RewardScorer.load(directory, mesh=scoring_small.one_device(), batch_tokens=512)
    return dataclasses.replace(
        made, ladder=dataclasses.replace(made.ladder, width=4096)
    )  # sharing a prompt pays


def prepared(scorer: RewardScorer, items=ITEMS, **options) -> list[Prepared]:
    found = scorer.prepare([parse_item({"prompt": p, "responses": r}) for p, r in items], **options)
    assert not any(isinstance(one, DataError) for one in found), found
    return [one for one in found if isinstance(one, Prepared)]


def test_rewards_are_the_plain_decoders_of_whole_conversations(directory: Path, scorer: RewardScorer) -> None:
    items = ITEMS[:6]
    whole = [
        scorer.chat.encode([*prompt, {"role": "assistant", "content": response}])
        for prompt, responses in items
        for response in responses
    ]
    ours = np.concatenate(scorer.score(prepared(scorer, items)))
    np.testing.assert_allclose(ours, scoring_small.plain_rewards(directory, whole), atol=2e-5, rtol=1e-5)
    assert ours.std() > 0.1
    assert [n for p in prepared(scorer, items) for n in p.lengths] == [len(ids) for ids in whole]


def test_company_does_not_change_a_reward(scorer: RewardScorer) -> None:
    items = prepared(scorer)
    together = scorer.score(items)
    for order in (np.arange(len(items))[::-1], np.random.default_rng(1).permutation(len(items))):
        for start in range(0, len(items), 5):
            some = order[start : start + 5]
            for i, found in zip(some, scorer.score([items[i] for i in some]), strict=True):
                np.testing.assert_allclose(found, together[i], atol=1e-5)
    for i in range(0, len(items), 7):
        np.testing.assert_allclose(scorer.score([items[i]])[0], together[i], atol=1e-5)


def test_other_meshes_and_batches_give_the_same(directory: Path, scorer: RewardScorer) -> None:
    expected = np.concatenate(scorer.score(prepared(scorer)))
    other = RewardScorer.load(directory, mesh=(2, 2, 2), batch_tokens=2048)
    assert other.ladder != scorer.ladder
    np.testing.assert_allclose(np.concatenate(other.score(prepared(other))), expected, atol=1e-5)


def test_bfloat16_is_near(directory: Path, scorer: RewardScorer) -> None:
    expected = np.concatenate(scorer.score(prepared(scorer)))
    coarse = RewardScorer.load(directory, mesh=scoring_small.one_device(), dtype="bfloat16")
    found = np.concatenate(coarse.score(prepared(coarse)))
    assert found.dtype == np.float32
    assert 1e-6 < np.abs(found - expected).max() < 0.1 * np.abs(expected).max()


def test_responses_that_share_no_row_are_scored_apart(directory: Path, scorer: RewardScorer) -> None:
    prompt = [{"role": "user", "content": "Is tea warm?"}]
    long = " ".join(["coffee"] * 130)
    (item,) = prepared(scorer, [(prompt, [f"{long} tea", f"{long} dogs", "no"])])
    assert len(item.encoded.prompt) + sum(map(len, item.encoded.responses[:2])) > scorer.ladder.longest
    apart = [
        scorer.score(prepared(scorer, [(prompt, [response])]))[0][0]
        for response in (f"{long} tea", f"{long} dogs", "no")
    ]
    np.testing.assert_allclose(scorer.score([item])[0], apart, atol=1e-5)


def test_any_number_of_responses_has_the_rewards_that_they_have_alone(
    directory: Path, scorer: RewardScorer
) -> None:
    random = np.random.default_rng(3)
    items = []
    for many in (1, 2, 3, 8, 33):
        prompt = [{"role": "user", "content": scoring_small.text(random, 20, 30)}]
        items.append((prompt, [f"{scoring_small.text(random, 1, 12)} {k}" for k in range(many)]))
    together = prepared(scorer, items)
    computed: list[int] = []
    found = scorer.score(together, done=computed.append)
    assert sum(computed) == scorer.tokens(together)
    whole = [
        scorer.chat.encode([*prompt, {"role": "assistant", "content": response}])
        for prompt, responses in items
        for response in responses
    ]
    expected = scoring_small.plain_rewards(directory, whole)
    np.testing.assert_allclose(np.concatenate(found), expected, atol=2e-5, rtol=1e-5)
    for item, rewards in zip(together, found, strict=True):
        np.testing.assert_allclose(scorer.score([item])[0], rewards, atol=1e-5)
    pairs = dataclasses.replace(scorer, responses_per_tree=2)
    for one, other in zip(pairs.score(together), found, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_tokens_are_those_that_are_computed(scorer: RewardScorer) -> None:
    prompt = [{"role": "user", "content": "tea and coffee " * 20}]
    responses = [f"{k} warms" for k in range(8)]
    (item,) = prepared(scorer, [(prompt, [*responses, *responses[:3]])])
    long, short = len(item.encoded.prompt), sum(map(len, item.encoded.responses[:8]))
    assert scorer.tokens([item]) == long + short  # the prompt once, and what is there twice once
    assert dataclasses.replace(scorer, responses_per_tree=2).tokens([item]) == 4 * long + short
    many = prepared(scorer, [(prompt, [f"{responses[k % 8]} {k}" for k in range(60)])])[0]
    short = sum(map(len, many.encoded.responses))
    copies, rest = divmod(scorer.tokens([many]) - short, long)
    assert (
        long + short > scorer.ladder.longest and rest == 0
    )  # it is split, and the prompt computed for each part
    assert copies == -(-short // (scorer.ladder.longest - long))
    assert scorer.tokens([item, many]) == scorer.tokens([item]) + scorer.tokens([many])


def test_what_is_too_long_is_refused_or_loses_the_oldest_of_its_prompt(scorer: RewardScorer) -> None:
    random = np.random.default_rng(2)
    item = parse_item({"prompt": scoring_small.text(random, 300, 300), "responses": ["tea", "coffee wakes"]})
    (refused,) = scorer.prepare([item])
    assert isinstance(refused, DataError) and f"{scoring_small.CONTEXT} are allowed" in str(refused)
    (cut,) = scorer.prepare([item], too_long="truncate_left_of_prompt")
    assert isinstance(cut, Prepared) and max(cut.lengths) == scoring_small.CONTEXT and cut.skip > 0
    ids = cut.encoded.prompt[cut.skip :] + cut.encoded.responses[0]
    (alone,) = scorer.prepare_texts([ids], add_special_tokens=False)
    assert isinstance(alone, Prepared)
    np.testing.assert_allclose(scorer.score([alone])[0][0], scorer.score([cut])[0][0], atol=1e-5)
    hopeless = parse_item({"prompt": "tea", "responses": [scoring_small.text(random, 300, 300)]})
    (refused,) = scorer.prepare([hopeless], too_long="truncate_left_of_prompt")
    assert isinstance(refused, DataError) and "leaves no room" in str(refused)


def test_rendered_texts_score_as_their_conversations(scorer: RewardScorer) -> None:
    conversations = [[*p, {"role": "assistant", "content": r[0]}] for p, r in ITEMS[:5]]
    expected = [r[0] for r in scorer.score(prepared(scorer, ITEMS[:5]))]
    texts = [scorer.chat.render(c) for c in conversations]
    pad = scorer.chat.pad_token
    for add in (False, True):  # a BOS that the tokenizer adds is not doubled; trailing pads are not read
        found = scorer.prepare_texts([texts[0], *[t + pad for t in texts[1:]]], add_special_tokens=add)
        assert all(isinstance(one, Prepared) for one in found)
        ours = np.concatenate(scorer.score([one for one in found if isinstance(one, Prepared)]))
        np.testing.assert_allclose(ours, expected, atol=1e-5)
    ids = [scorer.chat.encode(c) for c in conversations]
    found = [p for p in scorer.prepare_texts(ids, add_special_tokens=False) if isinstance(p, Prepared)]
    np.testing.assert_allclose(np.concatenate(scorer.score(found)), expected, atol=1e-5)
    for text, message in (
        ("", "empty"),
        (pad, "empty"),
        ([10**6], "token id 1000000"),
        ([-1], "token id -1"),
        ([], "empty"),
    ):
        (one,) = scorer.prepare_texts([text], add_special_tokens=False)
        assert isinstance(one, DataError) and message in str(one)


def test_conversations_that_part_early_are_scored_whole(scorer: RewardScorer) -> None:
    def talk(*turns: str) -> list[dict]:
        return [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]

    chosen, rejected = talk("tea", "warms", "and coffee", "wakes"), talk("tea", "calms", "why", "they say")
    found = scorer.prepare([parse_item({"chosen": chosen, "rejected": rejected})])
    assert isinstance(found[0], Prepared) and found[0].pair
    alone = prepared(scorer, [(c[:-1], [c[-1]["content"]]) for c in (chosen, rejected)])
    np.testing.assert_allclose(scorer.score([found[0]])[0], np.concatenate(scorer.score(alone)), atol=1e-5)


def test_a_bad_item_leaves_its_neighbours(scorer: RewardScorer) -> None:
    good = {"prompt": "Is tea warm?", "responses": ["yes", "no"]}
    bad = [
        {"prompt": "tea", "responses": ["yes", " \n"]},
        {"prompt": "tea \ud800", "responses": ["yes", "no"]},
        {"prompt": "tea", "responses": [f"no {scorer.chat.eos_token} yes", "no"]},
        {"prompt": [{"role": "nobody", "content": "tea"}], "responses": ["yes", "no"]},
    ]
    found = scorer.prepare([parse_item(one) for one in (good, *bad, good)])
    assert [isinstance(one, DataError) for one in found] == [False, True, True, True, True, False]
    np.testing.assert_allclose(*scorer.score([found[0], found[-1]]), atol=1e-5)  # type: ignore[list-item]


def test_the_same_response_twice_has_exactly_the_same_reward(scorer: RewardScorer) -> None:
    item = parse_item(
        {"prompt": "tea", "responses": ["coffee wakes", "tea calms", "coffee wakes", "tea calms"]}
    )
    (found,) = scorer.prepare([item])
    assert isinstance(found, Prepared)
    a, b, c, d = scorer.score([found])[0]
    assert a == c and b == d and a != b


def test_nothing_to_score(scorer: RewardScorer) -> None:
    assert scorer.score([]) == [] and scorer.prepare([]) == []


def test_nothing_is_compiled_after_warming_up(scorer: RewardScorer) -> None:
    assert list(scorer.warm_up()) == scorer.ladder.shapes
    compiled: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event) if "backend_compile" in event else None
    )
    scorer.score(prepared(scorer))
    assert not compiled
    jax.jit(lambda x: x + len(compiled))(np.ones(7))
    assert compiled  # the listener listens


def test_settings_that_cannot_be_used(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"max_length=999 must lie within 1\.\.256"):
        RewardScorer.load(directory, mesh=scoring_small.one_device(), max_length=999)
    with pytest.raises(ConfigError, match="dtype='float64' must be one of float32, bfloat16"):
        RewardScorer.load(directory, mesh=scoring_small.one_device(), dtype="float64")
    with pytest.raises(ConfigError, match="nowhere"):
        RewardScorer.load(tmp_path / "nowhere")


def changed(directory: Path, to: Path, **config: object) -> Path:
    """A copy of a model with some of config.json changed."""
    shutil.copytree(directory, to)
    described = json.loads((to / "config.json").read_text()) | config
    (to / "config.json").write_text(json.dumps(described))
    return to


def test_a_language_model_without_a_head_is_refused(directory: Path, tmp_path: Path) -> None:
    architecture = json.loads((directory / "config.json").read_text())["architectures"][0]
    other = changed(
        directory, tmp_path / "m", architectures=[architecture.replace("SequenceClassification", "CausalLM")]
    )
    tensors = load_file(other / "model.safetensors")
    del tensors["score.weight"]
    save_file(tensors, other / "model.safetensors")
    with pytest.raises(ConfigError, match="without a reward head"):
        RewardScorer.load(other, mesh=scoring_small.one_device())


def test_the_pad_token_is_that_of_the_weights(directory: Path, scorer: RewardScorer, tmp_path: Path) -> None:
    chat = scorer.chat
    own = {"<|reserved_special_token_0|>", "<|vision_pad|>"} & chat.special_tokens  # one that no text holds
    pad = chat.tokenizer.token_to_id(own.pop())
    other = RewardScorer.load(
        changed(directory, tmp_path / "m", pad_token_id=pad), mesh=scoring_small.one_device()
    )
    assert other.chat.pad_token_id == pad != chat.pad_token_id
    eos = chat.tokenizer.token_to_id(chat.eos_token or "")
    with pytest.raises(DataError, match="pad token"):
        RewardScorer.load(
            changed(directory, tmp_path / "n", pad_token_id=eos), mesh=scoring_small.one_device()
        )


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=60),
    st.integers(16, 4096),
    st.integers(1, 3),
    st.sampled_from([1, 3]),
)
def test_every_tree_has_a_place_of_its_own(sizes, batch_tokens, width, multiple) -> None:
    ladder = make_ladder(300, batch_tokens, width=64 * width, multiple=multiple)
    seen = np.zeros(len(sizes), int)
    for batch in deal(np.array(sizes), ladder):
        assert batch.shape in ladder.shapes and batch.shape.rows % multiple == 0 and len(batch.trees)
        assert batch.shape.rows == multiple or batch.shape.rows * batch.shape.length <= batch_tokens
        taken = np.zeros((batch.shape.rows, batch.shape.length), int)
        for tree, row, offset in zip(batch.trees, batch.row, batch.offset, strict=True):
            assert offset >= 0 and offset + sizes[tree] <= batch.shape.length
            taken[row, offset : offset + sizes[tree]] += 1
            seen[tree] += 1
        assert taken.max() == 1
        places = set(zip(batch.row.tolist(), batch.slot.tolist(), strict=True))
        assert len(places) == len(batch.trees) and batch.slot.max() < batch.shape.slots
    assert (seen == 1).all()


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 200), st.lists(st.integers(1, 100), min_size=1, max_size=40)),
        min_size=1,
        max_size=8,
    ),
    st.sampled_from([0, 1, 2, 3, 8]),
    st.sampled_from([64, 4096]),
)
def test_responses_share_trees_that_fit_and_each_is_placed_once(comparisons, most, width) -> None:
    ladder = make_ladder(300, 2048, width=width)
    prompts, responses = zip(*comparisons, strict=True)
    skip = np.arange(len(comparisons))
    trees, sizes = trees_that_fit(prompts, responses, skip, ladder, most)
    np.testing.assert_array_equal(trees.skip, skip[trees.rows])
    branch = np.zeros(len(trees), int) if trees.branch is None else trees.branch
    assert (trees.branch is None) == (most in (1, 2))
    placed = [(int(c), int(k)) for side in (trees.left, trees.right) for c, k in zip(trees.rows, side, strict=True)
              if k != ABSENT]  # fmt: skip
    assert sorted(placed) == [(c, k) for c, (_, some) in enumerate(comparisons) for k in range(len(some))]
    for tree in np.split(np.arange(len(trees)), np.flatnonzero(branch == 0)[1:]):
        assert branch[tree].tolist() == list(range(len(tree))) and len(set(trees.rows[tree])) == 1
        held = (trees.left[tree] != ABSENT).sum() + len(tree)
        assert sizes[tree].sum() <= ladder.longest and held <= (most or held)
    table = TokenTable.of([[[1] * p, *([2] * n for n in some)] for p, some in comparisons])
    unskipped = dataclasses.replace(trees, skip=0 * trees.skip)
    np.testing.assert_array_equal(sizes, np.sum(unskipped.sizes(table.lengths), axis=0))
    seen = np.zeros(len(sizes), int)
    for batch in deal(sizes, ladder, trees.branch):
        taken = np.zeros((batch.shape.rows, batch.shape.length), int)
        for tree, row, offset in zip(batch.trees, batch.row, batch.offset, strict=True):
            taken[row, offset : offset + sizes[tree]] += 1
            seen[tree] += 1
        assert taken.max() <= 1
        order = np.lexsort((batch.offset, batch.row))
        slots, rows = batch.slot[order], batch.row[order]
        assert (np.diff(slots)[np.diff(rows) == 0] > 0).all() and slots.max() < batch.shape.slots
        for a, b in itertools.pairwise(order):
            if branch[batch.trees[b]]:  # it lies right behind what it is of
                assert batch.trees[b] == batch.trees[a] + 1 and batch.row[a] == batch.row[b]
                assert batch.slot[b] == batch.slot[a] + 1
                assert batch.offset[b] == batch.offset[a] + sizes[batch.trees[a]]
    assert (seen == 1).all()


def test_responses_share_a_tree_where_that_saves_operations() -> None:
    ladder = make_ladder(1024, 8192, width=512)

    def trees(prompt: int, *responses: int) -> int:
        return int((trees_that_fit([prompt], [responses], np.zeros(1, int), ladder)[0].branch == 0).sum())  # type: ignore[union-attr]

    assert trees(400, *[60] * 8) == 1  # eight rows of 512 would compute the prompt eight times
    assert trees(400, *[60] * 16) == 2  # 624 tokens beside the prompt in the longest row
    assert trees(4, *[120] * 8) == 8  # a prompt that is not worth rows in which attention costs more
    assert trees(900, 120, 120) == 2


def test_long_batches_waste_little() -> None:
    sizes = np.random.default_rng(0).lognormal(5.5, 0.6, 2000).clip(20, 2048).astype(int)
    batches = deal(sizes, make_ladder(2048, 8192, width=1024))
    computed = sum(b.shape.rows * b.shape.length for b in batches)
    assert sizes.sum() / computed > 0.85
    assert len({b.shape for b in batches}) <= 12
    assert dataclasses.astuple(batches[0].shape)[1] >= dataclasses.astuple(batches[-1].shape)[1]
