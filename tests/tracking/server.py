"""A W&B server that remembers: as much of its protocol as `wandb sync` speaks."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TEAM = "team"


@dataclass
class Kept:
    """What a server has got.

    Attributes:
        url: its address.
        runs: id -> what was said of it at its beginning (groupName, jobType, displayName, …).
        history: id -> line number -> row.
        artifacts: name of an artifact -> digest of its contents, of every version.
        files: content of the files of artifacts, by name.
    """

    url: str = ""
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    history: dict[str, dict[int, dict[str, Any]]] = field(default_factory=dict)
    artifacts: dict[str, list[str]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)

    def answer(self, operation: str, given: dict[str, Any]) -> dict[str, Any]:
        """The data of a GraphQL operation."""
        if operation == "UpsertBucket":
            return self._upsert(given)
        if operation == "CreateArtifact":
            return self._artifact(given["input"])
        if operation == "CreateArtifactManifest":
            place = {"id": "file", "uploadUrl": f"{self.url}/upload/manifest", "uploadHeaders": []}
            return {"createArtifactManifest": {"artifactManifest": {"id": "manifest", "file": place}}}
        if operation == "CreateArtifactFiles":
            nodes = [self._upload(file["name"]) for file in given["input"]["artifactFiles"]]
            return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}
        if operation == "CommitArtifact":
            return {"commitArtifact": {"artifact": {"id": given["artifactID"], "digest": ""}}}
        if operation == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": f"{self.url}/upload/run/{name}"} for name in given["files"]]
            return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}
        if operation == "ServerFeaturesQuery":
            return {"serverInfo": {"features": []}}
        return {}

    def _upsert(self, given: dict[str, Any]) -> dict[str, Any]:
        name = given["name"]
        new = name not in self.runs
        known = {key: value for key, value in given.items() if value is not None}
        known["config"] = json.loads(given["config"])
        known["config"].pop("_wandb", None)  # about the sending program
        self.runs.setdefault(name, {}).update(known)
        project = {"id": "project", "name": given["project"], "entity": {"id": TEAM, "name": TEAM}}
        bucket = {"id": name, "name": name, "displayName": "", "project": project, "historyLineCount": 0}
        return {"upsertBucket": {"bucket": bucket, "inserted": new}}

    def _artifact(self, given: dict[str, Any]) -> dict[str, Any]:
        # A digest that is there is the version that is there.
        versions = self.artifacts.setdefault(given["artifactCollectionName"], [])
        known = given["digest"] in versions
        if not known:
            versions.append(given["digest"])
        state = "COMMITTED" if known else "PENDING"
        sequence = {"id": "sequence", "latestArtifact": None}
        return {
            "createArtifact": {
                "artifact": {"id": given["digest"], "state": state, "artifactSequence": sequence}
            }
        }

    def _upload(self, name: str) -> dict[str, Any]:
        url = f"{self.url}/upload/artifact/{name}"
        return {
            "id": name,
            "name": name,
            "displayName": name,
            "uploadUrl": url,
            "uploadHeaders": [],
            "storagePath": name,
            "artifact": {"id": "artifact"},
        }

    def stream(self, run: str, sent: dict[str, Any]) -> None:
        """Lines of a run's files, from an offset on."""
        rows = (sent.get("files") or {}).get("wandb-history.jsonl")
        for number, line in enumerate(rows["content"] if rows else ()):
            self.history.setdefault(run, {})[rows["offset"] + number] = json.loads(line)


@contextmanager
def server() -> Iterator[Kept]:
    """A server on this machine, gone afterwards."""
    kept = Kept()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def handle(self) -> None:
            with suppress(ConnectionError):  # W&B ends without closing its connections
                super().handle()

        def _body(self) -> bytes:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

        def _say(self, answer: dict[str, Any]) -> None:
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_PUT(self) -> None:
            body = self._body()
            before, found, name = self.path.partition("/upload/artifact/")
            if found and not before:
                kept.files[name] = body
            self._say({})

        def do_POST(self) -> None:
            body = self._body()
            if self.path == "/graphql":
                asked = json.loads(body)
                given = asked.get("variables") or {}
                self._say({"data": kept.answer(asked.get("operationName") or "", given)})
                return
            if self.path.endswith("/file_stream"):
                kept.stream(self.path.split("/")[-2], json.loads(body))
            self._say({})

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        kept.url = f"http://127.0.0.1:{serving.server_port}"
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        try:
            yield kept
        finally:
            serving.shutdown()
            thread.join()
