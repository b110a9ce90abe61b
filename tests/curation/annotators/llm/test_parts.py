"""What judges are made of: parsing, budget, limits, log, prompts, merging."""

import asyncio
import concurrent.futures
import email.utils
import random
import time

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardscale.config import ConfigError
from rewardscale.config.judges import PICO, BudgetConfig, EndpointConfig, JudgeConfig, PriceConfig
from rewardscale.curation.annotators.base import Example, Question
from rewardscale.curation.annotators.llm import attributes, prompts
from rewardscale.curation.annotators.llm.budget import Budget, BudgetSpent
from rewardscale.curation.annotators.llm.client import _retry_after
from rewardscale.curation.annotators.llm.judge import preference
from rewardscale.curation.annotators.llm.limits import Breaker, Bucket
from rewardscale.curation.annotators.llm.log import GroupLog
from rewardscale.curation.annotators.llm.parse import Answer, Unreadable, parse
from rewardscale.data.comparison import Comparison, Message
from rewardscale.data.ledger.schema import Attributes

GOOD = '{"reason": "r: {x}", "verdict": "1", "confidence": 0.5}'
CONFIG = JudgeConfig(model="m", endpoints=(EndpointConfig("http://x/v1"),))
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text() | st.sampled_from(["verdict", "confidence", "reason"]), inner)
    ),
    max_leaves=8,
)


@pytest.mark.parametrize("text", [GOOD, f"\n {GOOD} \n", f"```json\n{GOOD}\n```", f"```\n{GOOD}\n```"])
def test_an_answer_in_form_is_read(text):
    assert parse(text) == Answer("1", 0.5, "r: {x}")


@pytest.mark.parametrize(
    "text",
    [
        "", "1", "[]", "null", "The better one is 1.", f"Sure! {GOOD}", f"{GOOD}\n{GOOD}", GOOD[:-1], GOOD + "}",
        '{"verdict": "1", "confidence": 0.5}',
        '{"reason": "", "verdict": 1, "confidence": 0.5}',
        '{"reason": "", "verdict": "first", "confidence": 0.5}',
        '{"reason": "", "verdict": "1", "confidence": true}',
        '{"reason": "", "verdict": "1", "confidence": 1.01}',
        '{"reason": "", "verdict": "1", "confidence": NaN}',
        '{"reason": "", "verdict": "1", "verdict": "2", "confidence": 0.5}',
        '{"reason": "\\u003a", "verdict": "1", "verdict": "2", "confidence": 0.5}',
        '{"reason": "", "verdict": "1", "confidence": 0.5, "and": 1}',
        "[" * 100_000, None, 3,
    ],
)  # fmt: skip
def test_anything_else_is_unreadable(text):
    with pytest.raises(Unreadable):
        parse(text)
    with pytest.raises(Unreadable):
        attributes.parse(text, "a")


@given(
    st.text()
    | JSON.map(
        lambda value: orjson.dumps(value, default=str).decode("utf-8", "replace") if _plain(value) else ""
    )
)
def test_nonsense_never_becomes_a_verdict(text):
    try:
        found = parse(text)
    except Unreadable:
        return
    assert orjson.loads(text.strip("` \njson"))["verdict"] == found.verdict and 0 <= found.confidence <= 1


def _plain(value) -> bool:
    try:
        orjson.dumps(value)
    except TypeError:
        return False
    return True


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 500), st.floats(0, 1), st.booleans()), min_size=1, max_size=60),
    st.integers(0, 3000),
)
def test_under_threads_the_budget_is_never_overspent(calls, limit):
    budget = Budget(BudgetConfig(money=limit / PICO, calls=40))

    def call(what):
        pico, share, lost = what
        held = budget.reserve(pico)
        if held is None:
            return 0
        assert budget.spent + budget.doubtful + budget.reserved <= limit
        cost = int(pico * share)
        budget.settle(held, None if lost else cost, doubtful=lost)
        return pico if lost else cost

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        spent = sum(pool.map(call, calls))
    assert spent == budget.spent + budget.doubtful <= limit
    assert budget.reserved == budget.calls_reserved == 0 and budget.calls <= 40


def test_a_call_waits_for_what_others_may_give_back_and_no_longer():
    async def run():
        budget = Budget(BudgetConfig(money=100 / PICO))
        first = await budget.wait_for(80)
        second = asyncio.create_task(budget.wait_for(60))
        await asyncio.sleep(0)
        assert not second.done()
        budget.settle(first, 10)
        assert (await second).pico == 60
        third = asyncio.create_task(budget.wait_for(50))
        await asyncio.sleep(0)
        budget.settle(await second, 60)
        with pytest.raises(BudgetSpent):
            await third

    asyncio.run(run())


def test_costs_are_exact_integers():
    price = PriceConfig(0.15, 0.6)
    assert (
        sum(price.pico(1, 1) for _ in range(10**4)) == 10**4 * 750_000 and price.pico(10**6, 0) == 0.15 * PICO
    )


@given(st.floats(2, 5000), st.integers(0, 2**32))
def test_no_minute_holds_more_than_the_limit(limit, seed):
    draw, bucket, now, taken = random.Random(seed), Bucket(limit), 0.0, []
    for _ in range(min(300, int(3 * limit))):
        now += draw.choice([0.0, draw.expovariate(limit / 60)]) + bucket.wait(now)
        bucket.take(now)
        taken.append(now)
    for i, start in enumerate(taken):
        assert sum(start <= t < start + 60 - 1e-6 for t in taken[i:]) <= limit + 1e-6


def test_the_breaker_opens_tries_one_and_closes():
    breaker = Breaker(2, 10.0)
    breaker.failed(0.0)
    assert breaker.wait(0.0) == 0
    breaker.failed(0.0)
    breaker.failed(5.0)  # was under way: does not prolong
    assert breaker.wait(1.0) == 9
    breaker.start()
    assert breaker.wait(10.0) == float("inf")
    breaker.failed(10.0)
    assert breaker.wait(10.0) == 20
    breaker.start()
    breaker.succeeded()
    assert breaker.wait(11.0) == 0


def test_retry_after_in_seconds_and_as_a_date():
    assert _retry_after({"Retry-After": "2.5"}) == 2.5
    assert _retry_after(
        {"Retry-After": email.utils.formatdate(time.time() + 30, usegmt=True)}
    ) == pytest.approx(30, abs=2)
    assert [_retry_after({"Retry-After": text}) for text in ("", "soon", "-3", "nan")] == [0, 0, 0, 0]
    assert _retry_after({"Retry-After": "1e9"}) == 3600


def test_records_of_one_moment_are_all_on_disk_and_two_runs_have_a_file_each(tmp_path):
    async def run():
        await asyncio.gather(*(first.append(number) for number in range(20)))

    first, second = (GroupLog(tmp_path, name, lambda record: None) for name in ("a", "b"))
    asyncio.run(run())
    second.write_now("other")
    found = []
    third = GroupLog(tmp_path, "c", found.append)
    assert found == [*range(20), "other"]
    for log in (first, second, third):
        log.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jsonl", "b.jsonl"]


def test_a_full_disk_reaches_whoever_appends(tmp_path):
    async def run():
        log = GroupLog(tmp_path, "a", lambda record: None)
        log._log.close()
        with pytest.raises(OSError):
            await log.append(1)

    asyncio.run(run())


@given(st.lists(st.text(), max_size=5))
def test_no_text_holds_its_own_fence(texts):
    mark = prompts.fence(texts)
    assert mark == prompts.fence(texts) and not any(mark in text for text in texts)
    assert prompts.fence([*texts, mark]) != mark


@given(st.text(min_size=201, max_size=400))
def test_a_cut_is_visible_and_counts(text):
    shown = prompts.cut(text, 200)
    assert shown.startswith(text[:100]) and shown.endswith(text[-100:])
    assert f"[... {len(text) - 200} characters left out here ...]" in shown
    assert prompts.cut(text, 400) is text


def pair(left="left", right="right"):
    return Comparison((Message("user", "q"),), (left, right), "test")


def test_messages_hold_guideline_attributes_examples_and_the_pair_in_the_order_asked():
    described = Attributes(
        category="Math", objectivity="objective", controversiality="low", desired="d", guideline="g-own"
    )
    examples = tuple(Example(pair(f"e{i}", f"f{i}"), 1) for i in range(10))
    question = Question(0, pair(), described, examples)
    config = JudgeConfig(model="m", endpoints=CONFIG.endpoints, guideline="g-all", response_chars=200)
    shown = prompts.judge_messages(question, config, swapped=False)
    places = [
        shown.user.index(text)
        for text in ("g-all", "g-own", "e0", "e7", "\nleft\n", "\nright\n", "Now compare")
    ]
    assert places == sorted(places) and "e8" not in shown.user and shown.cut == 0
    other = prompts.judge_messages(question, config, swapped=True)
    assert other.user.index("\nright\n") < other.user.index("\nleft\n")
    assert shown.size == len((shown.system + shown.user).encode())
    assert prompts.judge_messages(Question(0, pair("x" * 201)), config, swapped=False).cut == 1


def test_an_answer_is_turned_back_into_the_corpus_s_order():
    assert [preference(Answer(v, 1, ""), swapped=s) for v in ("1", "2") for s in (False, True)] == [
        1,
        -1,
        -1,
        1,
    ]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"url": "http://user:pw@host/v1"}, "key_env"),
        ({"url": "https://host/v1?key=secret"}, "key_env"),
        ({"url": "host/v1"}, "http"),
        ({"url": "http://host/v1", "key_env": "sk-123"}, "name of an environment variable"),
    ],
)
def test_a_key_in_a_config_is_refused_and_not_repeated(options, message):
    with pytest.raises(ConfigError, match=message) as error:
        EndpointConfig(**options)
    assert not any(secret in str(error.value) for secret in ("pw", "secret", "sk-123"))
