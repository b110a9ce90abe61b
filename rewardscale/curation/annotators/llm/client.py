"""One judge's calls over OpenAI's chat-completions wire format: endpoints, limits, retries, budget, call log."""

import asyncio
import dataclasses
import datetime
import email.utils
import os
import random
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import aiohttp
import orjson

from rewardscale.config import ConfigError
from rewardscale.config.judges import EndpointConfig, JudgeConfig
from rewardscale.curation.annotators.llm.budget import Reservation
from rewardscale.curation.annotators.llm.calls import CallLog
from rewardscale.curation.annotators.llm.limits import Breaker, Bucket
from rewardscale.curation.annotators.llm.prompts import Messages

TEMPLATE_TOKENS = 64  # that a chat template may add to two messages
_BODY_BYTES = 16 * 2**20
_REFUSED_IN_A_ROW = 20  # answers of 400 without one success, before it is the request's form and not a text


class EndpointError(RuntimeError):
    """An endpoint that cannot be used; the message names it and the mend. Never holds a key."""


class CallFailed(RuntimeError):
    """One call was given up; the text is a short reason for counting."""


class Stopped(RuntimeError):
    """Work is being stopped: nothing more is sent."""


class _Retry(Exception):
    """why: for counting. lost: the server may have billed it. after: seconds it asked for. fault: the endpoint's."""

    def __init__(self, why: str, *, lost: bool = False, after: float = 0.0, fault: bool = True):
        super().__init__(why)
        self.why, self.lost, self.after, self.fault = why, lost, after, fault


class Endpoint:
    """One server: its key, limits, breaker, and what it was found to understand."""

    def __init__(self, config: EndpointConfig, judge: JudgeConfig):
        self.config = config
        self.url = config.url.rstrip("/") + "/chat/completions"
        self.requests, self.tokens = Bucket(config.requests_per_minute), Bucket(config.tokens_per_minute)
        self.breaker = Breaker(judge.retry.breaker_failures, judge.retry.breaker_seconds)
        self.under_way = 0
        self.paused_until = 0.0
        self.credit = 0.0  # of the weighted round
        self.refused = 0
        self.structured = {"auto": None, "always": True, "never": False}[judge.structured]
        self.many = {"auto": None, "always": True, "never": False}[judge.many]
        self.headers = {"Content-Type": "application/json", **_authorization(config)}
        self.proxy = _proxy(self.url)
        self.probing = asyncio.Lock()
        self.known = False  # whether one call has succeeded

    def wait(self, now: float) -> float:
        """Seconds until a call may start; infinite while only another call's end can tell."""
        if self.under_way >= self.config.concurrency:
            return float("inf")
        return max(
            self.breaker.wait(now), self.paused_until - now, self.requests.wait(now), self.tokens.wait(now)
        )


def _proxy(url: str) -> str | None:
    """The environment's (https_proxy, no_proxy), looked up once: aiohttp does so each time, and reads a netrc file, for
    about a quarter of a call's CPU."""
    parts = urlsplit(url)
    found = urllib.request.getproxies().get(parts.scheme)
    return None if not found or urllib.request.proxy_bypass(parts.netloc) else found


def _authorization(config: EndpointConfig) -> dict[str, str]:
    """Read when work starts and kept in memory alone."""
    if config.key_env:
        key = os.environ.get(config.key_env, "").strip()
        mend = f"set the environment variable {config.key_env}"
    elif config.key_file:
        mend = f"write the key into {config.key_file}"
        try:
            key = Path(config.key_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            key = ""
    else:
        return {}
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(f"endpoint {config.url}: no usable API key; {mend}")
    return {"Authorization": f"Bearer {key}"}


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """What one call asks: messages, a vote's key each (in the order of its choices), the first one's seed, a schema.

    comparison, swapped: whom it is about, for the log.
    """

    messages: Messages
    keys: Sequence[str]
    seed: int
    schema: Mapping[str, Any]
    comparison: str = ""
    swapped: bool = False


class Client:
    """Asks one judge's endpoints. Belongs to one event loop; `close` ends its connections.

    `ask` returns when at least one of the request's keys has a further answer in the log.
    """

    def __init__(self, config: JudgeConfig, log: CallLog):
        self.config, self.log, self.budget = config, log, log.budget
        self.price = self.budget.config.price(config.model)
        self.endpoints = [Endpoint(endpoint, config) for endpoint in config.endpoints]
        self.stopped = False
        self._freed = asyncio.Event()
        self._answered = time.monotonic()
        retry = config.retry
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=300),
            timeout=aiohttp.ClientTimeout(total=retry.total_seconds, sock_connect=retry.connect_seconds),
            max_line_size=2**15,
        )
        self._jitter = random.Random()

    async def close(self) -> None:
        await self._session.close()

    async def ask(self, request: Request) -> None:
        """Sends until an answer is in the log.

        Raises CallFailed (given up, logged), BudgetSpent, Stopped, or EndpointError (nothing more can be asked).
        """
        why = ""
        for attempt in range(self.config.retry.attempts):
            endpoint = await self._place()
            try:
                await self._once(endpoint, request)
                return
            except _Retry as error:
                why = error.why
            except _Refusal as error:
                await self._failed(str(error))
            self._check_patience(why)
            ceiling = min(self.config.retry.cap_seconds, self.config.retry.base_seconds * 2**attempt)
            if attempt + 1 < self.config.retry.attempts:
                # What the server itself asked for (Retry-After) comes on top: it is `paused_until` then.
                await asyncio.sleep(self._jitter.uniform(0, ceiling))
        await self._failed(why)

    async def _failed(self, why: str) -> NoReturn:
        await self.log.add({"t": "failed", "judge": self.config.name, "model": self.config.model, "why": why})
        raise CallFailed(why)

    def _check_patience(self, why: str) -> None:
        silent = time.monotonic() - self._answered
        if silent > self.config.retry.patience_seconds:
            names = ", ".join(e.config.url for e in self.endpoints)
            raise EndpointError(
                f"judge {self.config.name!r}: no answer from {names} for {silent:.0f} s (last: {why}); "
                "mend the endpoint and run again: what was answered is kept"
            )

    # --- where ---------------------------------------------------------------------------------------

    async def _place(self) -> Endpoint:
        """An endpoint that may be asked now, by weight; its `under_way` counts this call."""
        while True:
            if self.stopped:
                raise Stopped
            now = time.monotonic()
            waits = [(endpoint.wait(now), endpoint) for endpoint in self.endpoints]
            free = [endpoint for wait, endpoint in waits if wait <= 0]
            if free:
                endpoint = _weighted(free)
                endpoint.requests.take(now)
                endpoint.under_way += 1
                endpoint.breaker.start()
                return endpoint
            self._check_patience("none is free")
            self._freed.clear()
            soonest = min(wait for wait, _ in waits)
            try:
                await asyncio.wait_for(self._freed.wait(), min(soonest, 5.0))
            except TimeoutError:
                continue

    # --- one attempt ---------------------------------------------------------------------------------

    async def _once(self, endpoint: Endpoint, request: Request) -> None:
        """One attempt, or two or three while it is found out what the endpoint understands."""
        try:
            if endpoint.known:
                await self._send(endpoint, request)
                return
            async with endpoint.probing:  # the first call goes alone
                if self.stopped:
                    raise Stopped
                if not endpoint.known:
                    await self._probe(endpoint, request)
                    return
            await self._send(endpoint, request)
        except EndpointError:
            self.stopped = True
            raise
        finally:
            endpoint.under_way -= 1
            endpoint.breaker.dropped()
            self._freed.set()

    async def _probe(self, endpoint: Endpoint, request: Request) -> None:
        """Sends with all that is wanted; where that is refused, without the schema, then without `n` too."""
        while True:
            try:
                await self._send(endpoint, request)
                return
            except EndpointError:
                if endpoint.refused and endpoint.structured is None:
                    endpoint.structured = False
                elif endpoint.refused and endpoint.many is None and len(request.keys) > 1:
                    endpoint.many = False
                else:
                    raise

    def _body(self, endpoint: Endpoint, request: Request, wanted: int) -> bytes:
        config = self.config
        body: dict[str, Any] = {
            "model": config.model,
            "messages": [
                {"role": "system", "content": request.messages.system},
                {"role": "user", "content": request.messages.user},
            ],
            "temperature": config.temperature,
            config.length_field: config.max_tokens,
        }
        if config.top_p != 1:
            body["top_p"] = config.top_p
        if config.send_seed:
            body["seed"] = request.seed
        if wanted > 1:
            body["n"] = wanted
        if endpoint.structured is not False:
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "answer", "strict": True, "schema": request.schema},
            }
        return orjson.dumps(body)

    async def _send(self, endpoint: Endpoint, request: Request) -> None:
        wanted = len(request.keys) if endpoint.many is not False else 1
        tokens_in, tokens_out = request.messages.size + TEMPLATE_TOKENS, wanted * self.config.max_tokens
        reservation = await self.budget.wait_for(self.price.pico(tokens_in, tokens_out))
        open_reservation: Reservation | None = reservation
        guess = tokens_in / 3 + tokens_out
        endpoint.tokens.take(time.monotonic(), guess)
        sent = False
        started = time.monotonic()
        try:
            body = self._body(endpoint, request, wanted)
            await self.log.hold()
            sent = True
            status, headers, data = await self._post(endpoint, body)
            if status != 200:
                sent = False  # refused: not billed
                self._refused(endpoint, status, headers, data)
            texts, used = _choices(data)
            endpoint.breaker.succeeded()
            self._answered = time.monotonic()
            endpoint.refused = 0
            self._learn(endpoint, wanted, len(texts))
            texts = texts[:wanted]
            pico = self.price.pico(*used)
            endpoint.tokens.give_back(guess - sum(used))
            self.budget.settle(reservation, pico)
            open_reservation = None
            await self.log.add(
                {
                    "t": "answer",
                    "judge": self.config.name,
                    "model": self.config.model,
                    "keys": list(request.keys[: len(texts)]),
                    "texts": texts,
                    "in": used[0],
                    "out": used[1],
                    "pico": pico,
                    "prices": self.budget.config.prices_version,
                    "s": round(self._answered - started, 3),
                    "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
                    "pair": request.comparison,
                    "swapped": request.swapped,
                    "bytes": request.messages.size,
                    "cut": request.messages.cut,
                }
            )
        except (_Retry, aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            failure = _transport(error)
            sent = sent and failure.lost
            endpoint.paused_until = max(endpoint.paused_until, time.monotonic() + failure.after)
            if failure.fault:
                endpoint.breaker.failed(time.monotonic())
            raise failure from None
        finally:
            if open_reservation is not None:
                await self._unsettled(open_reservation, sent)

    async def _unsettled(self, reservation: Reservation, sent: bool) -> None:
        """Where no usage was read: nothing if the server refused, else the upper bound is set aside."""
        if not sent:
            self.budget.release(reservation)
            return
        self.budget.settle(reservation, None, doubtful=True)
        record = {
            "t": "lost",
            "judge": self.config.name,
            "model": self.config.model,
            "pico": reservation.pico,
        }
        await self.log.add(record)

    async def _post(self, endpoint: Endpoint, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        async with self._session.post(
            endpoint.url, data=body, headers=endpoint.headers, allow_redirects=False, proxy=endpoint.proxy
        ) as response:
            if (response.content_length or 0) > _BODY_BYTES:
                raise _Retry("answer too large", lost=True)
            return response.status, response.headers, await response.read()

    def _learn(self, endpoint: Endpoint, wanted: int, got: int) -> None:
        if endpoint.structured is None:
            endpoint.structured = True
        if endpoint.many is None and wanted > 1:
            endpoint.many = got > 1
        endpoint.known = True

    def _refused(self, endpoint: Endpoint, status: int, headers: Mapping[str, str], data: bytes) -> NoReturn:
        """Raises what a status that is not 200 means."""
        if status == 429:
            raise _Retry("429", after=_retry_after(headers), fault=False)
        if status in (408, 409, 425) or status >= 500:
            raise _Retry(str(status), after=_retry_after(headers))
        said = _said(data, endpoint)
        if status in (400, 413, 422):
            endpoint.refused += 1
            if endpoint.known and endpoint.refused < _REFUSED_IN_A_ROW:
                raise _Refusal(f"{status}")  # of this text: too long, filtered
        mend = {
            400: "check model, max_tokens and length_field",
            401: "check the key that key_env or key_file names",
            403: "check what the key may do",
            404: "check url (it ends in /v1 as a rule) and model",
        }.get(status, "check url and model")
        raise EndpointError(
            f"judge {self.config.name!r}: {endpoint.config.url} answered {status} to model "
            f"{self.config.model!r}: {mend}. It said: {said}"
        )


class _Refusal(CallFailed):
    """The server answered well before, and does not take this one text."""


def _weighted(free: Sequence[Endpoint]) -> Endpoint:
    """Smooth weighted round robin: exact shares, evenly spread."""
    if len(free) == 1:
        return free[0]
    total = 0.0
    for endpoint in free:
        endpoint.credit += endpoint.config.weight
        total += endpoint.config.weight
    best = max(free, key=lambda endpoint: endpoint.credit)
    best.credit -= total
    return best


def _transport(error: Exception) -> _Retry:
    if isinstance(error, _Retry):
        return error
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return _Retry("no connection in time")
    if isinstance(error, TimeoutError):
        return _Retry("timeout", lost=True)
    if isinstance(error, aiohttp.ClientConnectorError):
        return _Retry("no connection")
    return _Retry("cut connection", lost=True)


def _choices(data: bytes) -> tuple[list[str], tuple[int, int]]:
    """(texts, (tokens in, out)) of an answer. Raises _Retry if it has no usage: what it cost is then unknown."""
    try:
        answer = orjson.loads(data)
        used = answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]
        if not all(type(n) is int and 0 <= n < 2**32 for n in used):
            raise ValueError
        contents = [choice["message"].get("content") for choice in answer["choices"]]
        if not contents:
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _Retry("broken answer", lost=True) from error
    # No content (a refusal, a tool call) is an answer that was paid and cannot be read.
    return [text if isinstance(text, str) else "" for text in contents], used


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds, from seconds or a date; at most an hour, 0 where there is none."""
    text = headers.get("Retry-After", "").strip()
    try:
        seconds = float(text)
    except ValueError:
        try:
            then = email.utils.parsedate_to_datetime(text)
            seconds = then.timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return 0.0
    return min(max(seconds, 0.0), 3600.0) if seconds == seconds else 0.0


def _said(data: bytes, endpoint: Endpoint) -> str:
    """What the server said, short, on one line, without the key."""
    text = " ".join(data[:2000].decode("utf-8", "replace").split())[:300]
    key = endpoint.headers.get("Authorization", "").removeprefix("Bearer ")
    return text.replace(key, "***") if key else text
