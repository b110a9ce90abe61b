"""The bodies of HTTP requests and answers, by endpoint: ours, vLLM's and OpenRLHF's.

    POST /score       {"prompt" | "messages", "responses"}, {"chosen", "rejected"}, or {"comparisons": [these]}
    POST /classify    vLLM's (vllm/entrypoints/pooling/classify): {"input" | "messages"}; raw logits unless asked
    POST /get_reward  OpenRLHF's (openrlhf/cli/serve_rm.py): {"query": [texts]}

Texts of /classify and /get_reward are rendered already; their special tokens are read as such.
"""

import dataclasses
import math
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rewardscale.data.comparison import DataError
from rewardscale.data.records import Item, parse_item, parse_messages, split_answer
from rewardscale.evaluation.reward_scorer import Prepared, RewardScorer

# What vLLM's requests may hold and we do not do: refused, for ignoring it would change the reward unseen.
_NOT_DONE = (
    "truncate_prompt_tokens",
    "chat_template",
    "chat_template_kwargs",
    "continue_final_message",
    "add_generation_prompt",
)


class RequestError(Exception):
    """A request that is not answered with rewards.

    Args:
      status: HTTP status. kind: of the error, for programs. message: for people.
    """

    def __init__(self, status: int, kind: str, message: str):
        super().__init__(message)
        self.status, self.kind = status, kind

    @property
    def body(self) -> dict[str, Any]:
        """What the client gets."""
        return {"error": {"message": str(self), "type": self.kind, "code": self.status}}


Answer = Callable[[Sequence[Prepared], Sequence[np.ndarray]], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What a request asks for: conversations, or texts that are rendered already.

    Attributes:
      answer: prepared items and their rewards -> the body of the answer.
      named: whether an error should say which item it means.
    """

    answer: Answer
    items: Sequence[Item] = ()
    texts: Sequence[str | list[int]] = ()
    add_special_tokens: bool = False
    named: bool = False

    @property
    def rewards(self) -> int:
        """Rewards asked for."""
        return len(self.texts) + sum(len(responses) for item in self.items for _, responses in item.parts)


def score_request(body: Mapping[str, Any], scorer: RewardScorer) -> Wanted:
    """POST /score. Raises RequestError."""
    many = "comparisons" in body
    given = body["comparisons"] if many else [body]
    if not isinstance(given, list) or not given:
        raise RequestError(400, "invalid_request", "'comparisons' must be a list, at least one")
    items = [
        _checked(lambda one=one: parse_item(one), f"comparison {i}: " if many else "")
        for i, one in enumerate(given)
    ]

    def answer(prepared: Sequence[Prepared], rewards: Sequence[np.ndarray]) -> dict[str, Any]:
        results = [
            {"rewards": numbers(values), "tokens": one.lengths, "truncated": one.skip > 0}
            for one, values in zip(prepared, rewards, strict=True)
        ]
        return {"model": scorer.name} | ({"results": results} if many else results[0])

    return Wanted(answer, items=items, named=many)


def classify_request(body: Mapping[str, Any], scorer: RewardScorer) -> Wanted:
    """POST /classify. Raises RequestError."""
    model = body.get("model")
    if model is not None and model != scorer.name:
        raise RequestError(404, "model_not_found", f"the model {model!r} is not served; {scorer.name!r} is")
    for key in _NOT_DONE:
        if body.get(key):
            raise RequestError(400, "invalid_request", f"{key!r} is not supported")
    activate, add = body.get("use_activation") or False, body.get("add_special_tokens", True)
    if not isinstance(activate, bool) or not isinstance(add, bool):
        raise RequestError(
            400, "invalid_request", "'use_activation' and 'add_special_tokens' must be true or false"
        )

    def answer(prepared: Sequence[Prepared], rewards: Sequence[np.ndarray]) -> dict[str, Any]:
        values = [numbers(one)[0] for one in rewards]
        tokens = sum(n for one in prepared for n in one.lengths)
        return {
            "id": f"classify-{uuid.uuid4().hex}",
            "object": "list",
            "created": int(time.time()),
            "model": scorer.name,
            "data": [
                {"index": i, "label": scorer.label, "probs": [_sigmoid(v) if activate else v], "num_classes": 1}
                for i, v in enumerate(values)
            ],
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0,
                      "prompt_tokens_details": None},
        }  # fmt: skip

    if "messages" in body:
        if "input" in body:
            raise RequestError(400, "invalid_request", "give either 'input' or 'messages', not both")
        return Wanted(answer, items=[_checked(lambda: _conversation(body))])
    if "input" not in body:
        raise RequestError(
            400, "invalid_request", "there is no 'input': a text, a list of texts, or token ids"
        )
    texts = _texts(body["input"], "input", ids=True)
    return Wanted(answer, texts=texts, add_special_tokens=add, named=len(texts) > 1)


def get_reward_request(body: Mapping[str, Any], scorer: RewardScorer) -> Wanted:
    """POST /get_reward. Raises RequestError."""
    del scorer
    texts = _texts(body.get("query"), "query", ids=False)
    for key in ("prompts", "labels"):
        if isinstance(body.get(key), list) and len(body[key]) not in (0, len(texts)):
            raise RequestError(400, "invalid_request", f"{len(texts)} 'query', but {len(body[key])} {key!r}")

    def answer(prepared: Sequence[Prepared], rewards: Sequence[np.ndarray]) -> dict[str, Any]:
        values = [numbers(one)[0] for one in rewards]
        return {
            "rewards": values,
            "scores": values,
            "extra_logs": {"tokens": [p.lengths[0] for p in prepared]},
        }

    return Wanted(answer, texts=texts, named=True)


def numbers(rewards: np.ndarray) -> list[float]:
    """float32 as the shortest decimals that are read as the same float32. Raises RequestError if one is not finite."""
    if not np.isfinite(rewards).all():
        raise RequestError(500, "not_finite", "the model gave a reward that is not finite")
    return [float(str(value)) for value in rewards]


def _conversation(body: Mapping[str, Any]) -> Item:
    prompt, response = split_answer(parse_messages(body["messages"], "messages"), "messages")
    tools = body.get("tools")
    return parse_item({"prompt": list(prompt), "responses": [response], "tools": tools})


def _texts(value: Any, key: str, *, ids: bool) -> list[str | list[int]]:
    def is_ids(one: Any) -> bool:
        return (
            ids and isinstance(one, list) and all(isinstance(i, int) and not isinstance(i, bool) for i in one)
        )

    if isinstance(value, str) or (value and is_ids(value)):
        return [value]
    if isinstance(value, list) and value and all(isinstance(one, str) or is_ids(one) for one in value):
        return value
    also = ", or token ids" if ids else ""
    raise RequestError(
        400, "invalid_request", f"{key!r} must be a text or a list of texts{also}, at least one"
    )


def _checked(parse: Callable[[], Item], where: str = "") -> Item:
    try:
        return parse()
    except DataError as error:
        raise RequestError(400, "invalid_request", f"{where}{error}") from error


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
