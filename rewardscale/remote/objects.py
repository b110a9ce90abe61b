"""Objects below a URL: read, put whole, put if absent, list.

s3:// and gs:// go through tensorstore, which orbax brings along: it has their conditional puts, and repeats what fails
for a passing reason (timeouts, 429, 5xx, broken connections) with exponential backoff and jitter. Any other scheme goes
through its fsspec driver.
"""

import errno
import functools
import os
import random
import re
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import fsspec

RETRIES_VARIABLE = "REWARDSCALE_STORE_RETRIES"
_RETRIES = 8  # 0.5 s, 1 s, 2 s, ... at most 16 s: about a minute in all
_FIRST_SECONDS, _LONGEST_SECONDS = 0.5, 16.0
_HUNG_SECONDS, _BYTES_A_SECOND = 60.0, 1e6  # an answer that takes longer will not come
_MOST_HUNG = 3
_AT_ONCE = 8
_DRIVERS = {"az": "adlfs", "abfs": "adlfs", "abfss": "adlfs", "hf": "huggingface_hub", "oss": "ossfs"}


# What a reason that passes begins with: ABORTED is tensorstore's word when it has tried as often as it may.
_PASSING = ("ABORTED", "UNAVAILABLE", "DEADLINE_EXCEEDED")
_PASSING_ERRNO = (
    *(errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE, errno.ETIMEDOUT),
    *(errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH),
)


class StoreError(OSError):
    """A store that does not answer, refuses, or cannot be opened; the message names the URL.

    Args:
      passes: it may be well later: `errno` is then that of a host that is away, else None.
    """

    def __init__(self, message: str, *, passes: bool = False):
        super().__init__(message)
        if passes:
            self.errno = errno.EHOSTUNREACH


class _Backend(Protocol):
    def get(self, name: str) -> bytes | None: ...
    def put(self, name: str, data: bytes) -> None: ...
    def put_if_absent(self, name: str, data: bytes) -> bool: ...
    def delete(self, name: str) -> None: ...
    def find(self, prefix: str) -> list[str]: ...
    def children(self) -> list[str]: ...


class Objects:
    """The objects below `url`. Every method raises StoreError once the store has failed it for about a minute."""

    def __init__(self, url: str):
        self.url = url.rstrip("/")
        scheme = self.url.partition("://")[0]
        self._backend: _Backend = (
            _Tensorstore(self.url) if scheme in ("s3", "gs", "gcs") else _Fsspec(self.url)
        )

    def read(self, name: str) -> bytes | None:
        """The object's content; None if there is none."""
        return self._do(name, lambda: self._backend.get(name))

    def write(self, name: str, data: bytes) -> None:
        """Puts the object, over any that is there. A reader sees the old one or the new one."""
        self._do(name, lambda: self._backend.put(name, data))

    def create(self, name: str, data: bytes) -> bool:
        """Puts the object if there is none; whether it is this one. Of many at once one alone is told True.

        The data must be the caller's alone: a put whose answer was lost is known by it when it is tried again.
        """
        return self._do(name, lambda: self._backend.put_if_absent(name, data)) or self.read(name) == data

    def delete(self, *names: str) -> None:
        """Removes objects; those that are not there are none."""
        self.each(names, lambda name: self._do(name, lambda: self._backend.delete(name)))

    def names(self, prefix: str = "") -> list[str]:
        """The names of all objects below `prefix` (empty, or with a slash at its end), sorted."""
        return sorted(self._do(prefix, lambda: self._backend.find(prefix)))

    def children(self) -> list[str]:
        """The names of the objects right below the URL, sorted: those without a slash."""
        return sorted(self._do("", self._backend.children))

    def check(self) -> None:
        """Raises StoreError if the store does not answer, or there is no such bucket."""
        self._do("", lambda: self._backend.find(".none/"))

    def read_all(self, names: Iterable[str]) -> dict[str, bytes | None]:
        """`read` of many, several at a time."""
        names = list(names)
        return dict(zip(names, self.each(names, self.read), strict=True))

    def each[T, R](self, things: Iterable[T], do: Callable[[T], R]) -> list[R]:
        """`do` of each thing, several at a time, in order. Raises what the first to fail raises."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(do, things))

    def _do[T](self, name: str, call: Callable[[], T]) -> T:
        """`call()`, again where it hung or the connection broke; tensorstore has tried again itself."""
        for attempt in range(_MOST_HUNG):
            try:
                return call()
            except (TimeoutError, ConnectionError) as error:
                if attempt == _MOST_HUNG - 1:
                    message = f"{self._at(name)} cannot be reached: no answer ({error})"
                    raise StoreError(message, passes=True) from error
                time.sleep(min(_LONGEST_SECONDS, _FIRST_SECONDS * 2**attempt) * random.uniform(0.5, 1.5))
            except StoreError:
                raise
            except (OSError, ValueError, NotImplementedError) as error:  # tensorstore's are ValueErrors
                message = f"{self._at(name)} cannot be reached: {_line(error)}"
                raise StoreError(message, passes=_passes(error)) from error
        raise AssertionError

    def _at(self, name: str) -> str:
        return f"{self.url}/{name}".rstrip("/")


def is_url(place: Any) -> bool:
    """Whether `place` names an object store, and not a folder that can be mounted."""
    return isinstance(place, str) and "://" in place and not place.startswith("file://")


class _Tensorstore:
    """A key-value store of tensorstore's."""

    def __init__(self, url: str):
        self._store, self._absent = _open(url)

    def get(self, name: str) -> bytes | None:
        found = self._store.read(name).result(timeout=_HUNG_SECONDS * 5)
        return bytes(found.value) if found.state == "value" else None

    def put(self, name: str, data: bytes) -> None:
        self._store.write(name, data).result(timeout=_HUNG_SECONDS + len(data) / _BYTES_A_SECOND)

    def put_if_absent(self, name: str, data: bytes) -> bool:
        written = self._store.write(name, data, if_equal=self._absent).result(timeout=_HUNG_SECONDS)
        return bool(written.generation)

    def delete(self, name: str) -> None:
        self._store.write(name, None).result(timeout=_HUNG_SECONDS)

    def find(self, prefix: str) -> list[str]:
        from tensorstore import KvStore

        keys = KvStore.KeyRange(prefix, f"{prefix[:-1]}0" if prefix else "")  # "0" follows "/"
        return [key.decode() for key in self._store.list(keys).result(timeout=_HUNG_SECONDS * 5)]

    def children(self) -> list[str]:
        return [name for name in self.find("") if "/" not in name]


@functools.lru_cache(maxsize=32)
def _open(url: str) -> tuple[Any, bytes]:
    """The store, and the generation of an object that is not there, which makes a put conditional."""
    import tensorstore

    scheme, _, rest = url.partition("://")
    bucket, _, path = rest.partition("/")
    driver = "s3" if scheme == "s3" else "gcs"
    retries = {
        "max_retries": int(os.environ.get(RETRIES_VARIABLE, _RETRIES)),
        "initial_delay": f"{_FIRST_SECONDS}s",
        "max_delay": f"{_LONGEST_SECONDS}s",
    }
    spec: dict[str, Any] = {
        "driver": driver,
        "bucket": bucket,
        "path": f"{path}/" if path else "",
        "context": {f"{driver}_request_retries": retries},
    }
    if driver == "s3":
        spec["use_conditional_write"] = True
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        if endpoint:
            spec |= {"endpoint": endpoint.rstrip("/"), "aws_region": region or "us-east-1"}
        elif region:
            spec["aws_region"] = region
        if os.environ.get("AWS_ACCESS_KEY_ID"):
            spec["context"]["aws_credentials"] = {"type": "environment"}
    try:
        nothing = tensorstore.KvStore.open({"driver": "memory"}).result().read("nothing").result()
        return tensorstore.KvStore.open(spec).result(timeout=_HUNG_SECONDS), nothing.stamp.generation
    except (ValueError, TimeoutError) as error:
        raise StoreError(f"{url} cannot be opened: {_line(error)}", passes=_passes(error)) from error


class _Fsspec:
    """A file system of fsspec's that has exclusive puts."""

    def __init__(self, url: str):
        try:
            self._system, path = fsspec.core.url_to_fs(url)
        except ImportError as error:
            scheme = url.partition("://")[0]
            package = _DRIVERS.get(scheme, "its fsspec driver")
            raise StoreError(f"{url} needs a package that is not here: pip install {package}") from error
        except ValueError as error:
            raise StoreError(f"{url} cannot be opened: {error}") from error
        self._root = path.rstrip("/")

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}".rstrip("/")

    def get(self, name: str) -> bytes | None:
        try:
            return self._system.cat_file(self._path(name))
        except FileNotFoundError:
            return None

    def put(self, name: str, data: bytes) -> None:
        self._system.pipe_file(self._path(name), data)

    def put_if_absent(self, name: str, data: bytes) -> bool:
        try:
            self._system.pipe_file(self._path(name), data, mode="create")
        except FileExistsError:
            return False
        return True

    def delete(self, name: str) -> None:
        try:
            self._system.rm_file(self._path(name))
        except FileNotFoundError:
            return

    def find(self, prefix: str) -> list[str]:
        self._system.invalidate_cache()
        found = self._system.find(self._path(prefix))
        return [str(path).removeprefix(self._root).lstrip("/") for path in found]

    def children(self) -> list[str]:
        self._system.invalidate_cache()
        try:
            found = self._system.ls(self._root, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [str(one["name"]).rpartition("/")[2] for one in found if one["type"] == "file"]


def _passes(error: BaseException) -> bool:
    """Whether the store may answer later, and not refuse again: what it is asked for may be right."""
    if isinstance(error, OSError):
        return isinstance(error, TimeoutError | ConnectionError) or error.errno in _PASSING_ERRNO
    return str(error).startswith(_PASSING)


def _line(error: BaseException) -> str:
    """The error in a line, without where in tensorstore's sources it came from."""
    text = " ".join(str(error).split()) or type(error).__name__
    return re.split(r" \[(?:source locations|http_response_body)=", text)[0][:300]
