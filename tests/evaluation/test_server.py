"""The server's answers, limits and refusals over real HTTP, with a scorer that can be held back."""

import dataclasses
import json
import shlex
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import uvicorn

from rewardscale.config import ConfigError
from rewardscale.data.records import parse_item
from rewardscale.evaluation.protocols import RequestError, numbers
from rewardscale.evaluation.reward_scorer import Prepared, RewardScorer
from rewardscale.evaluation.server import make_app
from rewardscale.evaluation.service import Limits, Service
from tests import scoring_small

ITEMS = scoring_small.comparisons(8, seed=3)
ASK = {"prompt": "Is tea warm?", "responses": ["yes", "no"]}


@dataclasses.dataclass(frozen=True, eq=False)
class Held(RewardScorer):
    """Scores when it is let."""

    go: threading.Event = dataclasses.field(default_factory=threading.Event)
    began: threading.Event = dataclasses.field(default_factory=threading.Event)
    seen: list[int] = dataclasses.field(default_factory=list)

    def score(self, items, *, done=None):
        self.seen.append(len(items))
        self.began.set()
        assert self.go.wait(30)
        return super().score(items, done=done)

    def warm_up(self):
        return ()


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    return scoring_small.model_directory(tmp_path_factory.mktemp("model") / "small")


@pytest.fixture(scope="module")
def scorer(directory: Path) -> RewardScorer:
    return RewardScorer.load(directory, mesh=scoring_small.one_device(), batch_tokens=512)


class Running:
    """A server in threads of this process."""

    def __init__(
        self, scorer: RewardScorer, *, token: str = "", loading: threading.Event | None = None, **limits
    ):
        fields = {field.name: getattr(scorer, field.name) for field in dataclasses.fields(scorer)}
        self.scorer = Held(**fields)
        self.scorer.go.set()

        def load() -> RewardScorer:
            assert loading is None or loading.wait(30)
            return self.scorer

        self.service = Service(load, limits=Limits(**limits), batch_tokens=512, wait_seconds=0.002)
        config = uvicorn.Config(
            make_app(self.service, token),
            port=0,
            lifespan="off",
            log_level="error",
            timeout_graceful_shutdown=5,
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)

    def __enter__(self) -> "Running":
        self.service.start()
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        port = self.server.servers[0].sockets[0].getsockname()[1]
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)
        return self

    def __exit__(self, *_) -> None:
        self.scorer.go.set()
        self.server.should_exit = True
        self.thread.join(20)
        assert self.service.close()
        assert self.service.accepted == self.service.answered

    def ready(self) -> "Running":
        while self.client.get("/health").status_code != 200:
            time.sleep(0.01)
        return self

    def post(self, path: str, body, **more) -> httpx.Response:
        return self.client.post(path, json=body, **more)

    def in_background(self, path: str, body) -> tuple[threading.Thread, list[httpx.Response]]:
        """Posts from a thread; the answer will be in the list."""
        answers: list[httpx.Response] = []
        url = self.client.base_url
        thread = threading.Thread(
            target=lambda: answers.append(httpx.post(f"{url}{path}", json=body, timeout=30))
        )
        thread.start()
        return thread, answers

    def metric(self, name: str) -> float:
        lines = self.client.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


@pytest.fixture(scope="module")
def running(scorer: RewardScorer) -> Iterator[Running]:
    with Running(scorer, body_bytes=20_000, rewards=16) as server:
        yield server.ready()


def offline(scorer: RewardScorer, items=ITEMS) -> list[np.ndarray]:
    found = scorer.prepare([parse_item({"prompt": p, "responses": r}) for p, r in items])
    return scorer.score([one for one in found if isinstance(one, Prepared)])


def test_the_examples_of_the_documentation_work(running: Running) -> None:
    text = (Path(__file__).parents[2] / "docs" / "scoring.md").read_text()
    examples = [shlex.split(line) for line in text.splitlines() if line.startswith("curl ")]
    assert len(examples) == 9
    for _, url, *data in examples:
        path = url.removeprefix("localhost:8000")
        answer = running.client.post(path, content=data[1]) if data else running.client.get(path)
        assert answer.status_code == 200, (path, answer.text)


def test_score_one_and_many(running: Running, scorer: RewardScorer) -> None:
    expected = offline(scorer)
    for (prompt, responses), rewards in zip(ITEMS, expected, strict=True):
        for key in ("prompt", "messages"):
            answer = running.post("/score", {key: prompt, "responses": responses})
            assert answer.status_code == 200
            body = answer.json()
            np.testing.assert_allclose(body["rewards"], rewards, atol=1e-5)
            assert (
                body["model"] == "small" and not body["truncated"] and len(body["tokens"]) == len(responses)
            )
    some = [{"prompt": p, "responses": r} for p, r in ITEMS[:4]]
    results = running.post("/score", {"comparisons": some}).json()["results"]
    for result, rewards in zip(results, expected, strict=False):
        np.testing.assert_allclose(result["rewards"], rewards, atol=1e-5)
    pair = running.post("/score", {"prompt": "Is tea warm?", "chosen": "yes", "rejected": "no"}).json()
    assert pair["rewards"] == running.post("/score", ASK).json()["rewards"]


def test_classify_in_the_shape_of_vllm(running: Running, scorer: RewardScorer) -> None:
    conversations = [[*p, {"role": "assistant", "content": r[0]}] for p, r in ITEMS[:3]]
    expected = [rewards[0] for rewards in offline(scorer, ITEMS[:3])]
    texts = [scorer.chat.render(c) for c in conversations]
    ids = [scorer.chat.encode(c) for c in conversations]
    for given in (texts, ids):
        body = running.post("/classify", {"model": "small", "input": given}).json()
        assert body["object"] == "list" and body["id"].startswith("classify-") and body["model"] == "small"
        assert [d["index"] for d in body["data"]] == [0, 1, 2]
        assert all(d["num_classes"] == len(d["probs"]) == 1 and d["label"] == "reward" for d in body["data"])
        np.testing.assert_allclose([d["probs"][0] for d in body["data"]], expected, atol=1e-5)
        assert body["usage"]["prompt_tokens"] == body["usage"]["total_tokens"] == sum(map(len, ids))
    for one in ({"input": texts[0]}, {"input": ids[0]}, {"messages": conversations[0]}):
        body = running.post("/v1/classify", {**one, "use_activation": True}).json()
        np.testing.assert_allclose(body["data"][0]["probs"], [1 / (1 + np.exp(-expected[0]))], atol=1e-6)


def test_get_reward_in_the_shape_of_openrlhf(running: Running, scorer: RewardScorer) -> None:
    texts = [scorer.chat.render([*p, {"role": "assistant", "content": r[0]}]) for p, r in ITEMS[:3]]
    body = running.post("/get_reward", {"query": texts, "prompts": ["a"] * 3, "labels": []}).json()
    np.testing.assert_allclose(body["rewards"], [r[0] for r in offline(scorer, ITEMS[:3])], atol=1e-5)
    assert body["scores"] == body["rewards"] and len(body["extra_logs"]["tokens"]) == 3


@pytest.mark.parametrize(
    ("path", "body", "status", "kind", "message"),
    [
        ("/score", b"{", 400, "invalid_json", "not JSON"),
        ("/score", b"\xff", 400, "invalid_json", "not JSON"),
        ("/score", b"[" * 15_000, 400, "invalid_json", "not JSON"),
        ("/score", [], 400, "invalid_request", "must be a JSON object"),
        ("/score", {}, 400, "invalid_request", "found none of them"),
        ("/score", {"comparisons": [ASK, {}]}, 400, "invalid_request", "comparison 1: an item needs"),
        ("/score", {"comparisons": []}, 400, "invalid_request", "'comparisons' must be a list"),
        (
            "/score",
            {"prompt": "tea", "responses": ["a"] * 17},
            400,
            "too_many_items",
            "17 rewards in one request",
        ),
        ("/score", {"prompt": "tea", "responses": ["a", ""]}, 422, "unprocessable", "response 1 is empty"),
        ("/score", {"prompt": "tea " * 300, "responses": ["a"]}, 422, "too_long", "256 are allowed"),
        (
            "/score",
            {"comparisons": [ASK, {"prompt": "tea", "responses": [" "]}]},
            422,
            "unprocessable",
            "item 1: ",
        ),
        ("/score", {"prompt": "tea", "responses": ["a<|eot_id|>"]}, 422, "unprocessable", "special token"),
        ("/score", rb'{"prompt": "\ud800", "responses": ["a"]}', 422, "unprocessable", "Unicode"),
        ("/score", {"prompt": "tea", "responses": ["x" * 30_000]}, 413, "body_too_large", "20000 bytes"),
        ("/classify", {}, 400, "invalid_request", "there is no 'input'"),
        ("/classify", {"input": []}, 400, "invalid_request", "'input' must be"),
        ("/classify", {"input": [True]}, 400, "invalid_request", "'input' must be"),
        ("/classify", {"input": "a", "model": "gpt"}, 404, "model_not_found", "'small' is"),
        ("/classify", {"input": "a", "truncate_prompt_tokens": 5}, 400, "invalid_request", "not supported"),
        ("/classify", {"input": [[1, 10**6]]}, 422, "unprocessable", "token id 1000000"),
        (
            "/classify",
            {"messages": [{"role": "user", "content": "a"}]},
            400,
            "invalid_request",
            "must end with",
        ),
        ("/classify", {"input": "a", "use_activation": "yes"}, 400, "invalid_request", "true or false"),
        ("/get_reward", {"prompts": ["a"]}, 400, "invalid_request", "'query' must be"),
        ("/get_reward", {"query": ["a"], "prompts": ["a", "b"]}, 400, "invalid_request", "1 'query', but 2"),
        ("/get_reward", {"query": ["a", ""]}, 422, "unprocessable", "item 1: the text is empty"),
        ("/nowhere", {}, 404, "not_found", "/nowhere"),
        ("/health", {}, 405, "method_not_allowed", "/health"),
    ],
)
def test_refusals_say_why(running: Running, path, body, status: int, kind: str, message: str) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = running.client.post(path, content=content)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["type"] == kind and message in error["message"] and error["code"] == status
    assert running.post("/score", ASK).status_code == 200


def test_a_body_without_a_length_is_cut_off(running: Running) -> None:
    answer = running.client.post("/score", content=(b"x" * 1000 for _ in range(1000)))
    assert answer.status_code == 413


def test_what_is_served(running: Running, scorer: RewardScorer) -> None:
    about = running.client.get("/").json()
    assert about == running.client.get("/version").json()
    assert about["template_hash"] == scorer.chat.template_hash and about["dtype"] == "float32"
    assert about["reward_token"]["text"] == "<|eot_id|>" and about["max_length"] == scoring_small.CONTEXT
    assert running.client.get("/v1/models").json()["data"][0]["id"] == "small"


def test_metrics_count_what_was_done(running: Running) -> None:
    names = ("rewardscale_rewards_total", 'rewardscale_requests_total{endpoint="/score",status="200"}',
             'rewardscale_refused_total{reason="too_long"}', "rewardscale_tokens_total")  # fmt: skip
    before = [running.metric(name) for name in names]
    tokens = sum(running.post("/score", {"prompt": "tea", "responses": ["a", "b", "c"]}).json()["tokens"])
    assert running.post("/score", {"prompt": "tea " * 300, "responses": ["a"]}).status_code == 422
    after = [running.metric(name) for name in names]
    assert [b - a for a, b in zip(before, after, strict=True)][:3] == [3, 1, 1]
    assert 0 < after[3] - before[3] < tokens  # the shared prompt is computed once
    assert running.metric("rewardscale_in_progress") == running.metric("rewardscale_queue_tokens") == 0
    assert running.metric("rewardscale_batch_tokens_count") > 0


def test_not_ready_until_loaded(scorer: RewardScorer) -> None:
    loaded = threading.Event()
    with Running(scorer, loading=loaded) as server:
        health = server.client.get("/health")
        assert health.status_code == 503 and health.json() == {"status": "loading"}
        for answer in (server.post("/score", ASK), server.client.get("/version")):
            assert answer.status_code == 503 and answer.json()["error"]["type"] == "loading"
            assert answer.headers["Retry-After"]
        loaded.set()
        assert server.ready().post("/score", ASK).status_code == 200


def test_the_token_is_asked_for(scorer: RewardScorer) -> None:
    with Running(scorer, token="a secret") as server:
        server.ready()
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic a secret"},
                        {"Authorization": "a secret"}, {"Authorization": "Bearer"}):  # fmt: skip
            answer = server.post("/score", ASK, headers=headers)
            assert answer.status_code == 401 and answer.headers["WWW-Authenticate"] == "Bearer"
            assert server.client.get("/metrics", headers=headers).status_code == 401
        assert server.post("/score", ASK, headers={"Authorization": "bearer a secret"}).status_code == 200
        assert server.client.get("/health").status_code == 200


def test_too_much_at_once_is_refused_and_the_rest_answered(scorer: RewardScorer) -> None:
    with Running(scorer, requests=2) as server:
        server.ready().scorer.go.clear()
        running = [server.in_background("/score", ASK) for _ in range(2)]
        while server.service.in_progress < 2:
            time.sleep(0.005)
        answer = server.post("/score", ASK)
        assert answer.status_code == 503 and answer.headers["Retry-After"] == "1"
        assert answer.json()["error"]["type"] == "busy"
        server.scorer.go.set()
        for thread, answers in running:
            thread.join(30)
            assert answers[0].status_code == 200


def test_a_full_queue_refuses(scorer: RewardScorer) -> None:
    with Running(scorer, queue_tokens=50) as server:
        server.ready().scorer.go.clear()
        first = server.in_background("/score", ASK)
        assert server.scorer.began.wait(10)
        second = server.in_background("/score", ASK)
        while not server.metric("rewardscale_queue_requests"):
            time.sleep(0.005)
        answer = server.post("/score", ASK)
        assert answer.status_code == 503 and "the queue is full" in answer.json()["error"]["message"]
        server.scorer.go.set()
        for thread, answers in (first, second):
            thread.join(30)
            assert answers[0].status_code == 200


def test_what_takes_too_long_is_given_up_and_not_computed(scorer: RewardScorer) -> None:
    with Running(scorer, seconds=0.5) as server:
        server.ready().scorer.go.clear()
        first = server.in_background("/score", ASK)
        assert server.scorer.began.wait(10)
        late = server.post("/score", ASK)
        assert late.status_code == 504 and late.json()["error"]["type"] == "timeout"
        first[0].join(30)
        assert first[1][0].status_code == 504
        server.scorer.go.set()
        assert server.post("/score", ASK).status_code == 200
        assert server.scorer.seen == [1, 1]  # the first, and the last; never the one that had not begun


def test_a_client_that_leaves_is_not_computed(scorer: RewardScorer) -> None:
    with Running(scorer) as server:
        server.ready().scorer.go.clear()
        first = server.in_background("/score", ASK)
        assert server.scorer.began.wait(10)
        with pytest.raises(httpx.ReadTimeout):
            server.post("/score", ASK, timeout=0.3)
        while server.service.in_progress > 1:
            time.sleep(0.01)
        server.scorer.go.set()
        first[0].join(30)
        assert first[1][0].status_code == 200 and server.scorer.seen == [1]
        assert server.metric('rewardscale_requests_total{endpoint="/score",status="499"}') == 1


@pytest.mark.parametrize("patient", [True, False])
def test_draining_answers_what_was_accepted_within_the_grace_time(
    scorer: RewardScorer, patient: bool
) -> None:
    with Running(scorer, grace_seconds=20 if patient else 0.2) as server:
        server.ready().scorer.go.clear()
        first = server.in_background("/score", ASK)
        assert server.scorer.began.wait(10)
        second = server.in_background("/score", ASK)
        while server.service.in_progress < 2:
            time.sleep(0.005)
        server.service.drain()
        refused = server.post("/score", ASK)
        assert refused.status_code == 503 and refused.json()["error"]["type"] == "draining"
        assert server.client.get("/health").status_code == 503 and not server.service.finished
        if not patient:
            time.sleep(0.3)
            assert server.service.finished  # what had not begun is given up, and told so
            second[0].join(30)
        server.scorer.go.set()
        for thread, _ in (first, second):
            thread.join(30)
        assert [answers[0].status_code for _, answers in (first, second)] == [200, 200 if patient else 503]
        assert server.service.finished


def test_a_reward_that_is_not_finite_is_an_error() -> None:
    with pytest.raises(RequestError, match="not finite") as caught:
        numbers(np.array([1.0, np.nan], np.float32))
    assert caught.value.status == 500
    assert numbers(np.array([0.1, -3], np.float32)) == [0.1, -3.0]


def test_limits_are_positive() -> None:
    with pytest.raises(ConfigError, match="queue_tokens=0"):
        Limits(queue_tokens=0)
