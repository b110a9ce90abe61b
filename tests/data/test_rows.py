"""rows.assemble against a slow twin that places one token at a time and spells out what it may see."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardscale.data import rows as tree_rows
from rewardscale.data.corpus import write_corpus
from rewardscale.data.packing import make_plan
from rewardscale.data.rows import ABSENT, TokenTable, Trees, assemble, fit_to, pair_trees
from rewardscale.data.templates import word_tokenizer
from rewardscale.data.tokenised import TokenStore, build_view
from tests.models import branched

WIDTH = 48


@pytest.fixture(scope="module")
def stored(tmp_path_factory, comparisons):
    """A view of comparisons with 2 or 3 responses, its store, and each one's tokens [[prompt], [response], ...]."""
    made = comparisons(60, seed=3, responses=(2, 3))
    corpus = write_corpus(tmp_path_factory.mktemp("rows") / "corpus", made, about={})
    tokenizer = word_tokenizer([f"w{i}" for i in range(50)])
    view = build_view(corpus, tokenizer, "words")
    texts = [[c.prompt[0].content, *(r + "<|end|>" for r in c.responses)] for c in made]
    tokens = [[tokenizer.encode(text).ids for text in parts] for parts in texts]
    return view, TokenStore(view), tokens


def twin(tokens, trees: Trees, row, offset, slot, shape, slots):
    """The same arrays, a token at a time. A token sees the prompt up to itself and its own response up to itself."""
    count, width = shape
    out: dict[str, np.ndarray] = {name: np.zeros(shape, np.int32) for name in ("tokens", "positions")}
    sees = [[{i} for i in range(width)] for _ in range(count)]
    out |= {name: np.zeros((count, slots), np.int32) for name in ("left_at", "right_at")}
    out["segments"] = np.zeros((count, slots, 3, 2), np.int32)
    for i in range(len(trees)):
        parts = tokens[trees.rows[i]]
        prompt = parts[0][trees.skip[i] :]
        left = [] if trees.left[i] == ABSENT else parts[1 + trees.left[i]]
        right = parts[1 + trees.right[i]]
        r, at, s = row[i], int(offset[i]), slot[i]
        p0, p1 = at + len(left), at + len(left) + len(prompt)
        # (column of each token, in the order of reading) of the prompt and of the two responses
        prompt_at = [p0 + j for j in range(len(prompt))]
        left_at = [p0 - 1 - j for j in range(len(left))]
        right_at = [p1 + j for j in range(len(right))]
        for words, columns, before in (
            (prompt, prompt_at, []),
            (left, left_at, prompt_at),
            (right, right_at, prompt_at),
        ):
            for j, (word, column) in enumerate(zip(words, columns, strict=True)):
                out["tokens"][r, column] = word
                out["positions"][r, column] = len(before) + j
                sees[r][column] = {*before, *columns[: j + 1]}
        out["left_at"][r, s] = left_at[-1] if left else 0
        out["right_at"][r, s] = right_at[-1]
        out["segments"][r, s] = [[at, len(left)], [p0, len(prompt)], [p1, len(right)]]
    return out, sees


@st.composite
def packed_trees(draw, table: np.ndarray):
    """Trees of the view, some truncated, some with one response, packed by a plan."""
    rows = np.array(draw(st.lists(st.integers(0, len(table) - 1), min_size=0, max_size=12)), np.int64)
    right = np.array([draw(st.integers(0, int((table[r, 1:] > 0).sum()) - 1)) for r in rows], np.int64)
    left = np.array(
        [
            draw(st.sampled_from([ABSENT, *(k for k in range((table[r, 1:] > 0).sum()) if k != q)]))
            for r, q in zip(rows, right, strict=True)
        ],
        np.int64,
    )
    skip = np.array([draw(st.integers(0, int(table[r, 0]) - 1)) for r in rows], np.int64)
    return Trees(rows, left, right, skip)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_it_equals_the_slow_twin(stored, data):
    view, store, tokens = stored
    trees = data.draw(packed_trees(view.lengths))
    spare = data.draw(st.integers(0, 2))
    left, prompt, right = trees.sizes(view.lengths)
    plan = make_plan(left + prompt + right, batch=99, row_length=WIDTH, rows_per_microbatch=1)
    shape, slots = (int(plan.row.max(initial=0)) + 1 + spare, WIDTH), plan.trees_per_row + spare
    fast = assemble(store, view.lengths, trees, plan.row, plan.offset, plan.slot, shape=shape, slots=slots)
    slow, sees = twin(tokens, trees, plan.row, plan.offset, plan.slot, shape, slots)

    assert set(fast) == {*slow, "lo", "hi"}
    for name, values in slow.items():
        assert fast[name].dtype == np.int32, name
        np.testing.assert_array_equal(fast[name], values, err_msg=name)
    for r in range(shape[0]):
        for column in range(WIDTH):
            assert set(range(fast["lo"][r, column], fast["hi"][r, column])) == sees[r][column], (r, column)


def test_one_row_one_can_read(stored):
    view, store, tokens = stored
    parts = tokens[0]
    (a, b), prompt = parts[1:3], parts[0][1:]
    assert len(prompt) >= 2
    trees = pair_trees(np.array([0]), np.array([-1]), np.array([1]))  # the second response is the chosen one
    out = assemble(
        store, view.lengths, trees, np.array([1]), np.array([3]), np.array([0]), shape=(2, WIDTH), slots=2
    )
    whole = [*b[::-1], *prompt, *a]
    end = 3 + len(whole)
    assert out["tokens"][1].tolist() == [0] * 3 + whole + [0] * (WIDTH - end)
    p, n = len(b), len(prompt)
    assert out["positions"][1, 3:end].tolist() == [
        *range(n + p - 1, n - 1, -1),
        *range(n),
        *range(n, n + len(a)),
    ]
    assert out["left_at"].tolist() == [[0, 0], [3, 0]] and out["right_at"].tolist() == [[0, 0], [end - 1, 0]]
    index = np.arange(WIDTH)
    for row, columns in ((0, index), (1, np.r_[0:3, end:WIDTH])):  # padding attends to itself only
        assert out["lo"][row, columns].tolist() == columns.tolist()
        assert out["hi"][row, columns].tolist() == (columns + 1).tolist()


def test_not_shared_a_tree_is_its_two_halves_side_by_side(stored):
    """Each half is what the tree of that response alone is, and the left one reversed."""
    view, store, _ = stored
    trees = pair_trees(np.array([4, 0]), np.array([-1, 1]), np.array([1, 0]))
    sizes = trees.tokens(view.lengths, shared=False)
    left, prompt, right = trees.sizes(view.lengths)
    np.testing.assert_array_equal(sizes, left + 2 * prompt + right)
    row, offset, slot = np.array([0, 0]), np.array([2, 2 + sizes[0]]), np.array([0, 1])
    width = int(sizes.sum()) + 5
    out = assemble(store, view.lengths, trees, row, offset, slot, shape=(1, width), slots=2, shared=False)
    for tree in range(2):
        middle = offset[tree] + left[tree] + prompt[tree]
        for response, begin, at in (
            (trees.right, middle, out["right_at"][0, tree]),
            (trees.left, offset[tree], out["left_at"][0, tree]),
        ):
            alone = Trees(trees.rows, np.full(2, ABSENT), response, trees.skip)[tree : tree + 1]
            size = int(alone.tokens(view.lengths)[0])
            want = assemble(store, view.lengths, alone, *np.zeros((3, 1), int), shape=(1, size), slots=1)
            here = slice(begin, begin + size)
            is_left = response is trees.left
            # a left half reads [response reversed | prompt]: the tree alone read by positions
            order = np.argsort(out["positions"][0, here]) if is_left else np.arange(size)
            np.testing.assert_array_equal(out["tokens"][0, here][order], want["tokens"][0])
            np.testing.assert_array_equal(out["positions"][0, here][order], want["positions"][0])
            assert out["positions"][0, at] == size - 1
            for name in ("lo", "hi"):
                assert (out[name][0, here] >= begin).all() and (out[name][0, here] <= begin + size).all()
            seen = (out["hi"] - out["lo"])[0, here][order]
            of_prompt = int(prompt[tree])
            np.testing.assert_array_equal(seen[of_prompt:], np.arange(of_prompt + 1, size + 1))
        np.testing.assert_array_equal(out["segments"][0, 2 * tree, :, 1], [left[tree], prompt[tree], 0])
        np.testing.assert_array_equal(out["segments"][0, 2 * tree + 1, :, 1], [0, prompt[tree], right[tree]])
        assert out["segments"][0, 2 * tree + 1, 1, 0] == middle


def test_a_table_in_memory_gives_what_a_view_gives(stored):
    view, store, tokens = stored
    table = TokenTable.of(tokens)
    np.testing.assert_array_equal(table.lengths, view.lengths)
    rows = np.array([7, 0, 7, 30])
    trees = Trees(rows, np.array([0, ABSENT, 1, 0]), np.array([1, 1, 0, 1]), np.array([0, 0, 1, 0]))
    sizes = np.sum(trees.sizes(view.lengths), axis=0)
    plan = make_plan(sizes, batch=9, row_length=64, rows_per_microbatch=1)
    places = (trees, plan.row, plan.offset, plan.slot)
    ours, expected = (
        assemble(source, view.lengths, *places, shape=(len(rows), 64), slots=4) for source in (table, store)
    )
    for name, values in expected.items():
        np.testing.assert_array_equal(ours[name], values, err_msg=name)


@settings(max_examples=60, deadline=None)
@given(branched.trees(9, 6, 9), st.integers(0, 9))
def test_tokens_of_branches_see_their_conversation_and_nothing_else(rows, seed):
    made = branched.assembled(rows, WIDTH, 8, seed)
    batch, used = made.batch, np.zeros((2, WIDTH), bool)
    assert all(array.dtype == np.int32 for array in batch.values())
    for number, conversation in enumerate(made.sequences()):
        row, places = made.where(number)
        used[row, places] = True
        read = batch[("left_at", "right_at")[made.side[number]]][row, made.slot[number]]
        assert read == places[0 if made.side[number] == 0 else -1]
        assert batch["positions"][row, read] == len(conversation) - 1
        for place in places:
            seen = {*range(batch["lo"][row, place], batch["hi"][row, place])}
            seen |= {*range(*batch["prefix"][row, place])}
            text = sorted((batch["positions"][row, key], batch["tokens"][row, key]) for key in seen)
            assert text == list(enumerate(conversation[: batch["positions"][row, place] + 1]))
    assert not batch["prefix"][~used].any()  # none of prompts and padding


def test_trees_without_branches_are_what_they_were(stored):
    view, store, _ = stored
    trees = pair_trees(np.arange(3), np.ones(3), np.zeros(3))
    places = (3 * np.arange(3) % 2, 24 * np.arange(3) // 2, np.array([0, 0, 1]))
    one, other = (
        assemble(store, view.lengths, made, *places, shape=(2, WIDTH), slots=2)
        for made in (trees, dataclasses.replace(trees, branch=np.zeros(3, np.int64)))
    )
    assert not other.pop("prefix").any() and one.keys() == other.keys()
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name])


def test_no_trees_make_inert_rows(stored):
    view, store, _ = stored
    nothing = np.zeros(0, np.int64)
    out = assemble(
        store, view.lengths, Trees(*[nothing] * 4), nothing, nothing, nothing, shape=(2, 5), slots=1
    )
    assert out["tokens"].sum() == 0 and out["lo"].tolist() == [[0, 1, 2, 3, 4]] * 2
    assert out["hi"].tolist() == [[1, 2, 3, 4, 5]] * 2 and out["segments"].shape == (2, 1, 3, 2)


def test_the_chosen_response_is_on_the_left():
    trees = pair_trees(np.array([5, 6], np.uint32), np.array([1, -1], np.int8), np.zeros(2))
    assert trees.left.tolist() == [0, 1] and trees.right.tolist() == [1, 0] and trees.rows.tolist() == [5, 6]


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)), min_size=1),
    st.integers(1, 20),
)
def test_fitting_drops_or_shortens_the_prompt_and_only_where_needed(table, most):
    lengths = np.array(table, np.uint32)
    rows = np.arange(len(table))
    longest = [p + max(a, b) for p, a, b in table]
    keep, skip = fit_to(lengths, rows, max_length=most, too_long="drop")
    assert keep.tolist() == [n <= most for n in longest] and not skip.any()
    keep, skip = fit_to(lengths, rows, max_length=most, too_long="truncate_left_of_prompt")
    for (p, a, b), n, kept, left_out in zip(table, longest, keep, skip, strict=True):
        assert kept == (1 + max(a, b) <= most)
        assert left_out == (max(0, n - most) if kept else 0)
        assert not kept or (left_out < p and n - left_out <= max(most, 0))
    assert tree_rows.fit_to(lengths, rows[:1], max_length=most, too_long="drop")[0].shape == (1,)
