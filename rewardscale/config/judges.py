"""Which LLM judges are asked, where, how, and what may be spent on them. Keys stand elsewhere: here only where."""

import dataclasses
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from rewardscale.config.base import ConfigError, choice

TIES = ("tie", "cannot_say")
SWITCH = ("auto", "always", "never")
LENGTH_FIELDS = ("max_tokens", "max_completion_tokens")
PICO = 10**12  # money is counted in whole millionths of a millionth of the unit, so sums are exact


@dataclasses.dataclass(frozen=True)
class EndpointConfig:
    """One OpenAI-compatible server.

    Attributes:
      url: up to and with the version, as in "https://api.example.com/v1"; no user, password or query.
      weight: its share of the calls among the judge's endpoints.
      key_env, key_file: environment variable, or file, that holds the API key; at most one of them, none for a
        server without keys.
      requests_per_minute, tokens_per_minute: limits that are kept; 0 for none.
      concurrency: calls under way at once.
    """

    url: str = ""
    weight: float = 1.0
    key_env: str = ""
    key_file: str = ""
    requests_per_minute: float = 0.0
    tokens_per_minute: float = 0.0
    concurrency: int = 32

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"endpoint url={_public(self.url)!r} must be http(s)://HOST[:PORT]/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ConfigError(
                f"endpoint url of {parts.hostname} holds a user, password or query; name the key's environment "
                "variable in key_env instead"
            )
        if self.key_env and self.key_file:
            raise ConfigError(f"endpoint {self.url}: give key_env or key_file, not both")
        if self.key_env and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.key_env):
            raise ConfigError(
                f"endpoint {self.url}: key_env must be the name of an environment variable, not a key"
            )
        if self.weight <= 0 or self.concurrency < 1:
            raise ConfigError(f"endpoint {self.url}: weight must be greater than 0, concurrency at least 1")
        if self.requests_per_minute < 0 or self.tokens_per_minute < 0:
            raise ConfigError(f"endpoint {self.url}: limits must not be negative (0 means none)")


def _public(url: str) -> str:
    """Without what may be secret."""
    return re.sub(r"//[^/@]*@", "//...@", url.partition("?")[0])


@dataclasses.dataclass(frozen=True)
class RetryConfig:
    """How long a call is tried.

    Attributes:
      attempts: of one call, the first one too.
      base_seconds, cap_seconds: before attempt k + 1 a random time up to min(cap, base * 2^k) is waited (full jitter).
      connect_seconds, total_seconds: of one attempt.
      breaker_failures: in a row that close an endpoint for breaker_seconds, doubled each time up to 16-fold.
      patience_seconds: without one answer while calls fail; then the endpoints are given up with an error.
      grace_seconds: that calls under way have to finish when work is stopped.
    """

    attempts: int = 6
    base_seconds: float = 0.5
    cap_seconds: float = 30.0
    connect_seconds: float = 10.0
    total_seconds: float = 120.0
    breaker_failures: int = 8
    breaker_seconds: float = 15.0
    patience_seconds: float = 600.0
    grace_seconds: float = 20.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if not getattr(self, field.name) > 0:
                raise ConfigError(f"retry.{field.name}={getattr(self, field.name)} must be greater than 0")


@dataclasses.dataclass(frozen=True)
class JudgeConfig:
    """One LLM judge.

    Attributes:
      name: of its verdicts. model: as its endpoints call it.
      votes: answers a question, half of them with the responses in the other order.
      temperature, top_p, max_tokens, seed: sampling. Vote i sends seed + i, unless send_seed is off.
      length_field: what the server calls max_tokens.
      tie: the verdict where as many votes say first as second (curation/merging.py:within).
      re_asks: after an unreadable answer.
      structured: whether a JSON schema is sent: "auto" tries it once and remembers.
      many: whether votes of one order are asked in one request (`n`): "auto" tries it once and remembers.
      prompt: a file of prompts/, or a path that ends in .md. guideline: for all pairs; the attributes' comes on top.
      prompt_chars, response_chars, example_chars: longer texts are cut in the middle, visibly, and counted.
    """

    name: str = "judge"
    model: str = ""
    endpoints: tuple[EndpointConfig, ...] = ()
    votes: int = 4
    temperature: float = 0.7
    top_p: float = 1.0
    max_tokens: int = 512
    seed: int = 0
    send_seed: bool = True
    length_field: str = "max_tokens"
    tie: str = "tie"
    re_asks: int = 1
    structured: str = "auto"
    many: str = "auto"
    prompt: str = "judge"
    guideline: str = ""
    prompt_chars: int = 24_000
    response_chars: int = 16_000
    example_chars: int = 3_000
    retry: RetryConfig = dataclasses.field(default_factory=RetryConfig)

    def __post_init__(self) -> None:
        where = f"judge {self.name!r}"
        if not self.name or not self.model or not self.endpoints:
            raise ConfigError(f"{where} needs a name, a model and at least one endpoint")
        choice(f"{where}: tie", self.tie, TIES)
        choice(f"{where}: structured", self.structured, SWITCH)
        choice(f"{where}: many", self.many, SWITCH)
        choice(f"{where}: length_field", self.length_field, LENGTH_FIELDS)
        if not 1 <= self.votes <= 128 or self.max_tokens < 1 or self.re_asks < 0:
            raise ConfigError(f"{where}: votes must be 1 to 128, max_tokens at least 1, re_asks at least 0")
        if self.votes > 1 and self.temperature <= 0 and self.votes != 2:
            raise ConfigError(f"{where}: {self.votes} votes at temperature 0 repeat two; take votes=2")
        if min(self.prompt_chars, self.response_chars, self.example_chars) < 200:
            raise ConfigError(f"{where}: prompt_chars, response_chars and example_chars must be at least 200")

    @property
    def sampling(self) -> tuple[str | float | bool, ...]:
        """What decides an answer beside the messages; a part of its key in the call log."""
        return self.model, self.temperature, self.top_p, self.max_tokens, self.seed, self.send_seed


@dataclasses.dataclass(frozen=True)
class PriceConfig:
    """Money a million tokens, read and written. Exact to a millionth."""

    input: float
    output: float

    def __post_init__(self) -> None:
        if not (0 <= self.input < 1e6 and 0 <= self.output < 1e6):
            raise ConfigError(f"price {self.input}, {self.output}: money a million tokens, 0 or more")

    def pico(self, tokens_in: int, tokens_out: int) -> int:
        """What so many tokens cost, in millionths of a millionth."""
        return tokens_in * round(self.input * 1e6) + tokens_out * round(self.output * 1e6)


@dataclasses.dataclass(frozen=True)
class BudgetConfig:
    """What may be spent.

    Attributes:
      money: None for no limit. calls: None for no limit.
      prices: by model. prices_version: which list of prices this is; written beside every cost.
    """

    money: float | None = None
    calls: int | None = None
    prices: Mapping[str, PriceConfig] = dataclasses.field(default_factory=dict)
    prices_version: str = ""

    def __post_init__(self) -> None:
        if (self.money is not None and self.money < 0) or (self.calls is not None and self.calls < 0):
            raise ConfigError("budget: money and calls must not be negative (None means no limit)")
        if self.prices and not self.prices_version:
            raise ConfigError("budget.prices needs prices_version: which list they are from, as in 2026-11")

    def price(self, model: str) -> PriceConfig:
        """Of one model. Raises ConfigError where none is known: a local model costs PriceConfig(0, 0)."""
        if model not in self.prices:
            raise ConfigError(
                f"no price of model {model!r} in budget.prices (known: {', '.join(self.prices) or 'none'}); "
                "a model of your own is PriceConfig(0, 0)"
            )
        return self.prices[model]


@dataclasses.dataclass(frozen=True)
class JudgingConfig:
    """Where LLM judges are asked from; decides no verdict.

    Attributes:
      shards: 0 asks from this process, which holds all paid answers in memory; a number divides the corpus into as many
        parts, each a task of the stage runner. A thousand to ten thousand pairs each is right. A folder keeps it.
      engine: of the tasks: "inline", "process", "process:4", "ray", "ray:auto" or "ray:HOST:PORT".
      at_once: shards that ask at the same time, each with that part of the endpoints' limits; 0: the engine's workers.
    """

    shards: int = 0
    engine: str = "inline"
    at_once: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.shards <= 99_999 or self.at_once < 0:
            raise ConfigError("judging: shards must lie in 0 to 99999, at_once must not be negative")
        if not self.shards and (self.engine != "inline" or self.at_once):
            raise ConfigError("judging: engine and at_once are of shards; give judging.shards too")


@dataclasses.dataclass(frozen=True)
class ScoringConfig:
    """Where a reward model scores the corpus; decides no margin, beyond rounding.

    Attributes:
      shards: 0 scores all pairs in this process; a number divides the corpus into as many parts, each a task of the
        stage runner that is kept when a run is killed. Then a convex model's features are made shard by shard too.
      engine: of the tasks: "inline" (this process, on all its devices), or CPUs: "process", "process:4", "ray",
        "ray:auto" or "ray:HOST:PORT".
    """

    shards: int = 0
    engine: str = "inline"

    def __post_init__(self) -> None:
        if not 0 <= self.shards <= 99_999:
            raise ConfigError("scoring.shards must lie in 0 to 99999")
        if not self.shards and self.engine != "inline":
            raise ConfigError("scoring.engine is of shards; give scoring.shards too")
