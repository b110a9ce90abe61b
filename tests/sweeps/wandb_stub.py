"""A stub of the wandb server, for what cannot run here: W&B's own is a Docker image, and no other has sweeps.

It speaks the part of the HTTP API that `wandb sweep`, `wandb agent` and `wandb.init` of wandb 0.31 use, keeps all it
is told, and gives a grid's values out as W&B's server does: each once, in order, and again only where a run said that
it was preempted and then ended with another code than 0 (docs.wandb.ai, "Resume preemptible sweeps runs").
"""

import contextlib
import gzip
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

ENTITY = "team"
PROJECT = {"id": "p1", "name": "rewardscale", "entity": {"id": "e1", "name": ENTITY}}


@dataclass
class Run:
    """What the server knows of a run."""

    id: str
    config: dict[str, Any] = field(default_factory=dict)
    name: str = ""
    sweep: str = ""
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    preempting: bool = False
    ends: list[int] = field(default_factory=list)  # exit codes, one each time it ran


@dataclass
class StubWandb:
    """The server's memory: one sweep, its runs and what was asked."""

    url: str = ""
    sweep: dict[str, Any] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    unknown: list[str] = field(default_factory=list)
    told: list[dict[str, Any]] = field(default_factory=list)  # commands to agents
    _waiting: list[dict[str, Any]] = field(default_factory=list)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def graphql(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """Answers one operation."""
        found = re.search(r"\b(query|mutation)\s+(\w+)", query)
        operation = found.group(2) if found else query[:60]
        with self._lock:
            self.asked.append(operation)
            answer = getattr(self, f"_{operation}", None)
            if answer is None:
                self.unknown.append(operation)
                return {"errors": [{"message": f"the stub knows no {operation}"}]}
            return {"data": answer(variables)}

    def stream(self, run_id: str, sent: dict[str, Any]) -> dict[str, Any]:
        """Takes a piece of a run's history and summary, and its end."""
        with self._lock:
            run = self.runs[run_id]
            files = sent.get("files") or {}
            for line in files.get("wandb-history.jsonl", {}).get("content", []):
                run.history.append(json.loads(line))
            for line in files.get("wandb-summary.json", {}).get("content", []):
                run.summary |= json.loads(line)
            run.preempting |= bool(sent.get("preempting"))
            if sent.get("complete"):
                run.ends.append(int(sent.get("exitcode") or 0))
                if run.ends[-1] and run.preempting:
                    run.preempting = False
                    self._waiting.insert(0, self._command("resume", run))
        return {}

    def _command(self, kind: str, run: Run) -> dict[str, Any]:
        own = {"cell": {"value": run.config["cell"]["value"]}}
        return {"type": kind, "run_id": run.id, "args": own, "program": self.sweep["config"].get("program")}

    def _Viewer(self, _: dict[str, Any]) -> dict[str, Any]:
        own = {"id": "u1", "username": "tester", "entity": ENTITY, "flags": "{}", "email": "", "admin": False}
        return {"viewer": own | {"teams": {"edges": [{"node": {"name": ENTITY}}]}}}

    def _ServerFeaturesQuery(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def _UpsertSweep(self, given: dict[str, Any]) -> dict[str, Any]:
        config = yaml.safe_load(given["config"])
        self.sweep = {"id": "s1", "name": "sweep001", "config": config, "yaml": given["config"]}
        self.sweep |= {"project": given["projectName"], "entity": given["entityName"]}
        for i, value in enumerate(config["parameters"]["cell"]["values"]):
            run = self.runs[f"agentrun{i}"] = Run(
                f"agentrun{i}", {"cell": {"value": value}}, sweep="sweep001"
            )
            self._waiting.append(self._command("run", run))
        return {
            "upsertSweep": {"sweep": {"name": "sweep001", "project": PROJECT}, "configValidationWarnings": []}
        }

    def _SweepWithRuns(self, given: dict[str, Any]) -> dict[str, Any]:
        if given["sweep"] != self.sweep.get("name"):
            return {"project": {"sweep": None}}
        sweep = {"id": "s1", "name": "sweep001", "method": "grid", "state": "RUNNING"}
        return {"project": {"sweep": sweep | {"config": self.sweep["yaml"], "runs": {"edges": []}}}}

    def _CreateAgent(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"createAgent": {"agent": {"id": f"agent{self.asked.count('CreateAgent')}"}}}

    def _Heartbeat(self, given: dict[str, Any]) -> dict[str, Any]:
        """One run at a time to each agent; exit once all are given out, to an agent that runs none."""
        commands: list[dict[str, Any]] = []
        if not json.loads(given["runState"]):
            commands = [self._waiting.pop(0) if self._waiting else {"type": "exit"}]
        self.told += commands
        return {"agentHeartbeat": {"agent": {"id": given["id"]}, "commands": json.dumps(commands)}}

    def _RunResumeStatus(self, given: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.get(given["name"])
        if run is None or not run.name:
            return {"model": {"id": "p1", "name": "rewardscale", "entity": PROJECT["entity"], "bucket": None}}
        bucket = {
            "id": run.id, "name": run.id, "displayName": run.name, "config": json.dumps(run.config),
            "summaryMetrics": json.dumps(run.summary), "historyLineCount": len(run.history), "eventsLineCount": 0,
            "logLineCount": 0, "historyTail": json.dumps([json.dumps(r) for r in run.history[-1:]]),
            "eventsTail": "[]", "tags": [], "wandbConfig": json.dumps({"t": {}}),
        }  # fmt: skip
        return {"model": {"id": "p1", "name": "rewardscale", "entity": PROJECT["entity"], "bucket": bucket}}

    def _UpsertBucket(self, given: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.setdefault(given["name"], Run(given["name"]))
        run.name = given.get("displayName") or run.name or run.id
        run.sweep = given.get("sweep") or run.sweep
        run.config |= json.loads(given.get("config") or "{}")
        bucket = {
            "id": run.id, "name": run.id, "displayName": run.name, "description": "", "config": json.dumps(run.config),
            "sweepName": run.sweep or None, "project": PROJECT, "historyLineCount": len(run.history),
        }  # fmt: skip
        return {"upsertBucket": {"bucket": bucket, "inserted": True}}

    def _CreateRunFiles(self, given: dict[str, Any]) -> dict[str, Any]:
        files = [{"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in given["files"]]
        return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}


def _handler(stub: StubWandb) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle(self) -> None:
            with contextlib.suppress(ConnectionError):  # clients that end without saying so
                super().handle()

        def do_POST(self) -> None:
            body = self._body()
            stub.keys.add(self.headers.get("Authorization", ""))
            if self.path.endswith("/graphql"):
                sent = json.loads(body)
                self._answer(stub.graphql(sent["query"], sent.get("variables") or {}))
            elif self.path.endswith("/file_stream"):
                self._answer(stub.stream(self.path.split("/")[-2], json.loads(body)))
            else:
                if not self.path.startswith("/sdk/otel"):  # wandb's own telemetry
                    stub.unknown.append(self.path)
                self._answer({})

        def do_PUT(self) -> None:
            self._body()
            self._answer({})

        def do_GET(self) -> None:
            self._answer({})

        def _body(self) -> bytes:
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            return gzip.decompress(data) if self.headers.get("Content-Encoding") == "gzip" else data

        def _answer(self, value: dict[str, Any]) -> None:
            data = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


@contextlib.contextmanager
def serving() -> Iterator[StubWandb]:
    """A stub that listens on a port of this machine."""
    stub = StubWandb()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(stub))
    stub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
