"""A store of its own for each test: in this process's memory, and on a real S3 server."""

import uuid
from collections.abc import Iterator

import pytest

from rewardscale.remote import objects
from tests import object_store


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The endpoint of an S3 server."""
    if not object_store.PYTHON.exists():
        pytest.skip("no S3 server in an environment of its own: make s3-server")
    with object_store.server() as endpoint:
        yield endpoint


@pytest.fixture
def at(monkeypatch):
    """Makes the objects below a URL of the S3 server at an endpoint, with as many retries as given."""

    def make(endpoint: str, *, retries: int = 8, url: str = "") -> objects.Objects:
        for name, value in object_store.environment(endpoint).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv(objects.RETRIES_VARIABLE, str(retries))
        return objects.Objects(url or f"s3://{object_store.BUCKET}/{uuid.uuid4().hex}")

    objects._open.cache_clear()
    yield make
    objects._open.cache_clear()


@pytest.fixture(params=["memory", "s3"])
def store(request, at) -> objects.Objects:
    if request.param == "memory":
        return objects.Objects(f"memory:///{uuid.uuid4().hex}")
    return at(request.getfixturevalue("s3"))
