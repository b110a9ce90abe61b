"""A stub of a Kubernetes API server, for what cannot run here: it keeps JobSets, and runs none of them.

It speaks the REST calls on custom objects that the executor makes through the official client: create, list (labels,
pages), delete. A test sets what a controller would write into a status.
"""

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from tests.sweeps import jobset_rules

_PREFIX = "/apis/jobset.x-k8s.io/v1alpha2/namespaces/"


@dataclass
class StubCluster:
    """The server's memory: JobSets by (namespace, name), in order, and what was asked."""

    jobsets: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    installed: bool = True  # whether it has the JobSet API
    page: int = 500  # no list is longer, whatever is asked for

    def finish(self, name: str, how: str) -> None:
        """As the controller does: "Completed" or "Failed"."""
        for (_, known), found in self.jobsets.items():
            if known == name:
                found["status"] = {
                    "terminalState": how,
                    "conditions": [{"type": how, "status": "True"}],
                }

    def names(self) -> list[str]:
        return [name for _, name in self.jobsets]

    def answer(self, method: str, url: str, body: dict[str, Any]) -> tuple[int, Any]:
        """Status code and what to send; text is sent as it is."""
        parts = urlsplit(url)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        self.asked.append((method, parts.path))
        namespace, _, rest = parts.path.removeprefix(_PREFIX).partition("/")
        if not self.installed or not parts.path.startswith(_PREFIX) or not rest.startswith("jobsets"):
            return 404, "404 page not found\n"
        name = rest.removeprefix("jobsets").lstrip("/")
        if method == "POST":
            return self._create(namespace, body)
        if method == "GET":
            return self._list(namespace, query)
        return self._delete(namespace, name, query)

    def _create(self, namespace: str, body: dict[str, Any]) -> tuple[int, Any]:
        name = body["metadata"]["name"]
        if (namespace, name) in self.jobsets:
            return 409, _status(409, "AlreadyExists", f'jobsets "{name}" already exists')
        try:
            jobset_rules.check(body)
        except (AssertionError, ValueError) as error:
            return 422, _status(422, "Invalid", str(error))
        self.jobsets[namespace, name] = body
        return 201, body

    def _list(self, namespace: str, query: dict[str, str]) -> tuple[int, Any]:
        wanted = dict(part.split("=") for part in query["labelSelector"].split(","))
        found = [
            body
            for (there, _), body in self.jobsets.items()
            if there == namespace and wanted.items() <= body["metadata"]["labels"].items()
        ]
        start = int(query.get("continue") or 0)
        end = start + min(self.page, int(query["limit"]))
        more = {"continue": str(end)} if end < len(found) else {}
        return 200, {"kind": "JobSetList", "metadata": more, "items": found[start:end]}

    def _delete(self, namespace: str, name: str, query: dict[str, str]) -> tuple[int, Any]:
        if (namespace, name) not in self.jobsets:
            return 404, _status(404, "NotFound", f'jobsets "{name}" not found')
        assert query["propagationPolicy"] == "Foreground"
        self.jobsets[namespace, name]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        return 200, self.jobsets[namespace, name]


def _status(code: int, reason: str, message: str) -> dict[str, Any]:
    return {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message}


@contextlib.contextmanager
def stub_cluster(kubeconfig: Path) -> Iterator[StubCluster]:
    """Starts it on a free port; `kubeconfig` is written so that the official client finds it."""
    stub = StubCluster()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            code, answer = stub.answer(self.command, self.path, json.loads(body or b"{}"))
            data = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
            self.send_response(code)
            kind = "text/plain" if isinstance(answer, str) else "application/json"
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = _any

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    write_kubeconfig(kubeconfig, server.server_port)
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def write_kubeconfig(path: Path, port: int, namespace: str = "science") -> None:
    """One cluster, one user without credentials, one context."""
    context = {"cluster": "stub", "user": "nobody", "namespace": namespace}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "stub", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "nobody", "user": {}}],
        "contexts": [{"name": "stub", "context": context}],
        "current-context": "stub",
    }
    path.write_text(yaml.safe_dump(config))
