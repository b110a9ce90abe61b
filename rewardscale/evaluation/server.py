"""HTTP around a scoring service: routes, limits on bodies and time, a bearer token, metrics, a graceful end."""

import asyncio
import contextlib
import dataclasses
import hmac
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import rewardscale
from rewardscale import web
from rewardscale.evaluation import metrics
from rewardscale.evaluation.protocols import (
    RequestError,
    Wanted,
    classify_request,
    get_reward_request,
    score_request,
)
from rewardscale.evaluation.reward_scorer import RewardScorer
from rewardscale.evaluation.service import Limits, Service

Parse = Callable[[Mapping[str, Any], RewardScorer], Wanted]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is served, and how.

    Attributes:
      model, revision, mesh, dtype, max_length, batch_tokens: as in RewardScorer.load.
      too_long, allow_special_text: as in RewardScorer.prepare.
      name: the model's name in answers ("": the directory's).
      host, port: where to listen (port 0: any free one). token: what clients must bear ("": nothing).
      wait_seconds: how long a request waits for others to share its batch.
    """

    model: str
    revision: str | None = None
    mesh: tuple[int, int, int] = (-1, 1, 1)
    dtype: str = "float32"
    max_length: int = 0
    batch_tokens: int = 8192
    too_long: str = "refuse"
    allow_special_text: bool = False
    name: str = ""
    host: str = "127.0.0.1"
    port: int = 8000
    token: str = ""
    wait_seconds: float = 0.005
    limits: Limits = Limits()  # noqa: RUF009

    def load(self) -> RewardScorer:
        """The scorer of these settings."""
        scorer = RewardScorer.load(
            self.model, revision=self.revision, mesh=self.mesh, dtype=self.dtype,
            max_length=self.max_length, batch_tokens=self.batch_tokens,
        )  # fmt: skip
        return dataclasses.replace(scorer, name=self.name) if self.name else scorer


def serve(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT, then answers what it has accepted and returns, to end the process.

    Raises ConfigError for an address that cannot be listened at, and whatever loading the model raises.
    """
    service = Service(
        settings.load, limits=settings.limits, batch_tokens=settings.batch_tokens,
        wait_seconds=settings.wait_seconds, too_long=settings.too_long,
        allow_special_text=settings.allow_special_text,
    )  # fmt: skip
    listening = web.listen(settings.host, settings.port)

    def started() -> None:
        print(f"listening on {web.address(settings.host, listening)}", flush=True)
        if not settings.token and settings.host not in ("127.0.0.1", "::1", "localhost"):
            print("warning: open to the network without a token (--token_file)", file=sys.stderr, flush=True)
        service.start()

    before = web.run(
        make_app(service, settings.token), listening, stop=service.drain, started=started,
        stopping=lambda: service.phase == "draining", finished=lambda: service.finished,
    )  # fmt: skip
    ended = service.close()
    for (
        sig,
        handler,
    ) in before.items():  # a second signal while the interpreter ends would make this a failure
        signal.signal(sig, signal.SIG_IGN if service.failure is None else handler)
    if service.failure is not None:
        raise service.failure
    print(f"stopped: {service.accepted} requests accepted, {service.answered} answered", flush=True)
    if not ended:
        # The scoring thread is inside a compilation or a batch that nobody waits for; the interpreter would wait.
        sys.stdout.flush()
        os._exit(0)


def make_app(service: Service, token: str = "") -> Starlette:
    """The routes; see docs/scoring.md."""

    def scoring(path: str, parse: Parse) -> Route:
        async def endpoint(request: Request) -> Response:
            return await _timed(service, token, path, lambda: _scored(service, request, parse), request)

        return Route(path, endpoint, methods=["POST"])

    def reading(path: str, give: Callable[[], Response], *, open_to_all: bool = False) -> Route:
        async def answer() -> Response:
            return give()

        async def endpoint(request: Request) -> Response:
            return await _timed(service, "" if open_to_all else token, path, answer, request)

        return Route(path, endpoint, methods=["GET"])

    def health() -> Response:
        return JSONResponse({"status": service.phase}, 200 if service.phase == "ready" else 503)

    def about() -> Response:
        scorer = service.scorer
        read = scorer.chat.reward_token
        return JSONResponse(
            {
                "model": scorer.name,
                "version": rewardscale.__version__,
                "dtype": scorer.dtype,
                "max_length": scorer.max_length,
                "reward_token": {"id": read.id, "text": read.text},
                "template_hash": scorer.chat.template_hash,
                "tokenizer_hash": scorer.chat.tokenizer_hash,
                "template_date": scorer.chat.date,
            }
        )

    def models() -> Response:
        model = {"id": service.scorer.name, "object": "model", "owned_by": "rewardscale"}
        return JSONResponse({"object": "list", "data": [model]})

    def unknown(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        kind = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "error")
        return JSONResponse(
            RequestError(
                error.status_code, kind, f"{request.method} {request.url.path}: {error.detail}"
            ).body,
            error.status_code,
            error.headers,
        )

    return Starlette(
        routes=[
            scoring("/score", score_request),
            scoring("/classify", classify_request),
            scoring("/v1/classify", classify_request),
            scoring("/get_reward", get_reward_request),
            reading("/health", health, open_to_all=True),
            reading("/metrics", lambda: Response(service.metrics.text(), media_type=metrics.CONTENT_TYPE)),
            reading("/", about),
            reading("/version", about),
            reading("/v1/models", models),
        ],
        exception_handlers={HTTPException: unknown},
    )


async def _timed(
    service: Service, token: str, path: str, answer: Callable[[], Any], request: Request
) -> Response:
    """Answers, whatever happens, and counts it."""
    started = time.monotonic()
    try:
        _authorise(request, token)
        response = await answer()
    except RequestError as error:
        service.metrics.refused(error.kind)
        response = JSONResponse(error.body, error.status, _headers(error))
    except Exception as error:
        print(f"error: {path}: {error!r}", file=sys.stderr, flush=True)
        service.metrics.refused("internal")
        response = JSONResponse(
            RequestError(500, "internal", "scoring failed; see the server's log").body, 500
        )
    service.metrics.answered(path, response.status_code, time.monotonic() - started)
    return response


async def _scored(service: Service, request: Request, parse: Parse) -> Response:
    """One scoring request, from its body to its answer."""
    with service.admitted():
        try:
            async with asyncio.timeout(service.limits.seconds):
                body = await _body(request, service.limits.body_bytes)
                content = await service.answer(parse(body, service.scorer), lambda: _gone(request))
                return JSONResponse(content)
        except TimeoutError:
            raise RequestError(504, "timeout", f"not answered within {service.limits.seconds:g} s") from None
        except ClientDisconnect:
            raise RequestError(499, "client_closed_request", "the client has left") from None


async def _body(request: Request, most: int) -> Mapping[str, Any]:
    """The body as a JSON object. Raises RequestError."""
    too_large = RequestError(413, "body_too_large", f"the body is larger than {most} bytes")
    with contextlib.suppress(ValueError):
        if int(request.headers.get("content-length", "0")) > most:
            raise too_large
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > most:
            raise too_large
    try:
        body = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise RequestError(400, "invalid_json", f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise RequestError(400, "invalid_request", "the body must be a JSON object")
    return body


async def _gone(request: Request) -> None:
    """Returns when the client has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _authorise(request: Request, token: str) -> None:
    kind, _, given = request.headers.get("authorization", "").partition(" ")
    right = hmac.compare_digest(given.strip().encode(), token.encode())  # takes as long for any wrong one
    if token and not (kind.lower() == "bearer" and right):
        raise RequestError(401, "unauthorized", "give the header 'Authorization: Bearer <token>'")


def _headers(error: RequestError) -> dict[str, str]:
    if error.status == 503:
        return {"Retry-After": "1"} | ({"Connection": "close"} if error.kind == "draining" else {})
    return {"WWW-Authenticate": "Bearer"} if error.status == 401 else {}
