"""A web server's life: it listens, answers, and ends without dropping what it has accepted."""

import signal
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn

from rewardscale.config import ConfigError


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 means any free one. Raises ConfigError for an address that cannot be had."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"cannot listen at host={host} port={port}: {error}") from error


def address(host: str, listening: socket.socket) -> str:
    """The URL of a listening socket, without a slash at its end."""
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{listening.getsockname()[1]}"


def run(
    app: Any,
    listening: socket.socket,
    *,
    stop: Callable[[], None] = lambda: None,
    stopping: Callable[[], bool] = lambda: False,
    finished: Callable[[], bool] = lambda: False,
    started: Callable[[], None] = lambda: None,
) -> dict[signal.Signals, Any]:
    """Serves the ASGI application until SIGTERM or SIGINT, answers what it has accepted, and returns.

    Args:
      stop: called at the first signal. stopping: whether it was; a signal then ends the server at once.
      finished: whether to end now; where it is not given, a signal ends the server.
      started: called once signals are looked after, before the first request is.

    Returns the signals' handlers from before, the own ones still standing: a second signal while the interpreter ends
    must not make this a failure. Access is not logged: URLs are the clients' own.
    """
    # uvicorn's own handlers come and go; a signal before or after them must not kill either.
    before = {sig: signal.signal(sig, lambda *_: stop()) for sig in (signal.SIGTERM, signal.SIGINT)}
    config = uvicorn.Config(
        app, lifespan="off", ws="none", log_config=None, log_level="warning", access_log=False,
        server_header=False, timeout_keep_alive=30, timeout_graceful_shutdown=5,
    )  # fmt: skip
    started()
    _Server(config, stop, stopping, finished).run(sockets=[listening])
    return before


class _Server(uvicorn.Server):
    """uvicorn, but a signal first lets accepted requests finish, and is no failure."""

    def __init__(
        self,
        config: uvicorn.Config,
        stop: Callable[[], None],
        stopping: Callable[[], bool],
        finished: Callable[[], bool],
    ):
        super().__init__(config)
        self._stop, self._stopping, self._finished = stop, stopping, finished

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        del sig, frame
        if self._stopping():  # asked twice: at once
            self.force_exit = self.should_exit = True
        self._stop()

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self._finished()
