"""Objects and commits on a real S3 server that is well, that throttles, that loses answers, and that is gone."""

import http.server
import json
import socket
import threading
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor

import pytest

from rewardscale.remote import commits, objects, publish
from rewardscale.remote.objects import Objects, StoreError, is_url
from tests import object_store


def test_objects_are_read_written_listed_and_deleted(store):
    assert store.read("a/one") is None and store.names() == []
    store.write("a/one", b"1")
    store.write("a/one", b"2")
    store.write("a-b", b"")
    store.write("b/c/two", b"x" * 3_000_000)
    assert store.read("a/one") == b"2" and len(store.read("b/c/two") or b"") == 3_000_000
    assert store.names() == ["a-b", "a/one", "b/c/two"]
    assert store.names("a/") == ["a/one"] and store.names("b/c/") == ["b/c/two"]
    store.delete("a/one", "not there")
    assert store.names("a/") == []


def test_of_many_that_create_one_object_one_alone_is_told_that_it_did(store):
    for name in ("first", "second", "third"):
        with ThreadPoolExecutor(16) as pool:
            made = list(pool.map(lambda i, name=name: store.create(name, b"%d" % i), range(16)))
        assert sum(made) == 1
        assert store.read(name) == b"%d" % made.index(True)


def test_errors_that_pass_are_tried_again(s3, at):
    refused: list[tuple[str, int]] = []

    def fate(method: str, path: str, number: int) -> int | None:
        if number % 2:
            refused.append((method, (503, 500, 429)[number // 2 % 3]))
            return refused[-1][1]
        return None

    with object_store.proxy(s3, fate) as endpoint:
        store = at(endpoint)
        store.write("x", b"data")
        assert store.read("x") == b"data" and store.names() == ["x"]
        assert not store.create("x", b"other") and store.create("y", b"other")
    assert {("GET", 500), ("GET", 429), ("PUT", 503)} <= set(refused)


def test_a_put_whose_answer_was_lost_is_known_to_be_ones_own(s3, at):
    def fate(method: str, path: str, number: int) -> int | None:
        return 503 if method == "PUT" and number == 1 else None

    with object_store.proxy(s3, fate, after=True) as endpoint:
        store = at(endpoint)
        assert store.create("x", b"mine")
        assert not store.create("x", b"another's")


def test_an_answer_that_does_not_come_is_asked_for_again(s3, at, monkeypatch):
    monkeypatch.setattr(objects, "_HUNG_SECONDS", 1.0)
    hung: list[str] = []

    def fate(method: str, path: str, number: int) -> int | None:
        if len(hung) < 2 and number % 2:
            hung.append(method)
            time.sleep(4.0)
        return None

    with object_store.proxy(s3, fate) as endpoint:
        store = at(endpoint)
        began = time.monotonic()
        assert store.create("x", b"mine")
        assert time.monotonic() - began < 4.0 and hung == ["PUT"]


def test_a_store_that_never_recovers_is_one_error_that_names_it(s3, at):
    asked: list[int] = []

    def fate(method: str, path: str, number: int) -> int | None:
        asked.append(number)
        return 503

    with object_store.proxy(s3, fate) as endpoint:
        store = at(endpoint, retries=2)
        began = time.monotonic()
        with pytest.raises(
            StoreError, match=r"^s3://bucket/\w+/x cannot be reached: .* 2 retry attempts"
        ) as caught:
            store.write("x", b"")
    assert "\n" not in str(caught.value) and len(asked) == 3 and time.monotonic() - began < 30


def test_a_store_that_is_not_there_is_one_error_that_names_it(at):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = at(f"http://127.0.0.1:{port}", retries=1)
    with pytest.raises(StoreError, match=r"^s3://bucket/\w+/x cannot be reached"):
        store.read("x")


def test_a_bucket_that_is_not_there_is_found_by_listing(s3, at):
    with pytest.raises(StoreError, match="s3://no-such-bucket/x cannot be reached"):
        at(s3, url="s3://no-such-bucket/x").names()


@pytest.mark.parametrize(
    ("url", "message"), [("abfs://box/x", "pip install adlfs"), ("nosuch://x/y", "nosuch")]
)
def test_a_missing_driver_is_one_error_that_names_the_package(url, message):
    with pytest.raises(StoreError, match=message):
        Objects(url)


def test_what_is_a_url():
    assert is_url("s3://b/x") and is_url("gs://b") and not is_url("runs/x") and not is_url("file:///x")


def files(folder, **content: bytes):
    folder.mkdir()
    for name, data in content.items():
        (folder / name).write_bytes(data)
    return folder


def test_a_commit_comes_back_whole_and_the_first_one_stays(store, tmp_path):
    one = files(tmp_path / "one", a=b"first", b=b"")
    two = files(tmp_path / "two", a=b"second", b=b"")
    assert commits.read(store, "run/done") is None
    assert commits.commit(store, "run/done", one, ["a", "b"])
    before = store.names()
    assert not commits.commit(store, "run/done", two, ["a", "b"])
    assert store.names() == before  # what lost has gone
    record = commits.read(store, "run/done")
    assert record is not None
    commits.fetch(store, "run/done", record, tmp_path / "there", last="a")
    assert (tmp_path / "there" / "a").read_bytes() == b"first"
    assert sorted(p.name for p in (tmp_path / "there").iterdir()) == ["a", "b"]


def test_files_without_a_record_are_nobodys(s3, at, tmp_path):
    """A store that goes away between the files and the record leaves nothing that is used."""
    folder = files(tmp_path / "one", a=b"1", b=b"2")

    def fate(method: str, path: str, number: int) -> int | None:
        return 503 if method == "PUT" and path.endswith("done.json") else None

    with object_store.proxy(s3, fate) as endpoint:
        store = at(endpoint, retries=1)
        with pytest.raises(StoreError, match=r"done\.json"):
            commits.commit(store, "run/done", folder, ["a", "b"])
        assert len(store.names()) == 2 and commits.read(store, "run/done") is None


def test_an_object_that_is_not_what_was_committed_is_not_taken(store, tmp_path):
    folder = files(tmp_path / "one", a=b"first", b=b"other")
    commits.commit(store, "run/done", folder, ["a", "b"])
    record = commits.read(store, "run/done")
    assert record is not None
    store.write(f"{record['at']}/b", b"oth3r")
    with pytest.raises(StoreError, match=r"run/done\.\w+/b is not the file that was committed"):
        commits.fetch(store, "run/done", record, tmp_path / "there")
    assert not (tmp_path / "there" / "b").exists()
    store.write("run/done.json", json.dumps({"at": "run", "files": {"../x": [0, ""]}}).encode())
    record = commits.read(store, "run/done")
    assert record is not None
    with pytest.raises(StoreError):
        commits.fetch(store, "run/done", record, tmp_path / "there")
    assert not (tmp_path / "x").exists()
    store.write("run/done.json", b"{")
    with pytest.raises(StoreError, match=r"run/done\.json is no record"):
        commits.read(store, "run/done")


def test_a_published_folder_has_its_records_last(s3, at, tmp_path):
    order: list[str] = []

    def fate(method: str, path: str, number: int) -> int | None:
        if method == "PUT":
            order.append(path.rpartition("/")[2])
        return None

    files(tmp_path / "corpus", **{"z.bin": b"z", "corpus.json": b"{}", "a.bin": b"a"})
    (tmp_path / "build.json").write_bytes(b"{}")
    with object_store.proxy(s3, fate) as endpoint:
        store = at(endpoint)
        found = commits.files_below(tmp_path)
        publish.publish(store, tmp_path, found, last=("corpus.json", "build.json"))
        assert set(order[:2]) == {"a.bin", "z.bin"} and order[2:] == ["corpus.json", "build.json"]
        publish.bring_folder(store, tmp_path / "there", "corpus")
    assert (tmp_path / "there" / "corpus" / "z.bin").read_bytes() == b"z"


def test_google_is_asked_to_create_only_what_is_not_there(monkeypatch):
    """What a stand-in for Google's store hears: the condition of a put that a lease depends on."""
    heard: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            first = not heard
            heard.append(self.path)
            made = {
                "name": "run/leases/1", "bucket": "bucket", "generation": "7", "metageneration": "1", "size": "15",
                "timeCreated": "2026-01-01T00:00:00Z", "updated": "2026-01-01T00:00:00Z",
            }  # fmt: skip
            self._answer(200 if first else 412, json.dumps(made if first else {}).encode())

        def do_GET(self) -> None:
            self._answer(200, b"the first one's")

        def _answer(self, status: int, data: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", f"http://127.0.0.1:{made.server_address[1]}")
    try:
        store = Objects("gs://bucket/run")
        assert store.create("leases/1", b"the first one's") and not store.create("leases/1", b"another's")
    finally:
        made.shutdown()
        made.server_close()
    assert len(heard) == 2
    for path in heard:
        asked = urllib.parse.parse_qs(urllib.parse.urlsplit(path).query)
        assert asked["ifGenerationMatch"] == ["0"] and asked["name"] == ["run/leases/1"]
