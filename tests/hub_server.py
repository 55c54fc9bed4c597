"""A stand-in for the Hugging Face Hub on the loopback address: what `huggingface_hub` asks for to fetch and upload."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "c" * 40


@dataclass
class Hub:
    """The repositories, by name, and what was asked for."""

    url: str = ""
    models: dict[str, dict[str, bytes]] = field(default_factory=dict)  # name -> path -> content
    fetched: list[str] = field(default_factory=list)  # the paths of files that were downloaded
    created: list[dict[str, Any]] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)  # of uploads
    refused: bool = False  # every request is answered with 403

    def add(self, name: str, folder: Path) -> None:
        """A model with the files of a folder."""
        files = (path for path in sorted(folder.rglob("*")) if path.is_file())
        self.models[name] = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_: Any) -> None:
        """Nothing."""

    def _answer(self, body: Any, status: int = 200, **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _missing(self, code: str) -> None:
        self._answer({"error": code}, 404, X_Error_Code=code, X_Repo_Commit=COMMIT)

    def do_GET(self) -> None:
        if self.hub.refused:
            self._answer({"error": "refused"}, 403)
            return
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts[0] == "api":
            self._described("/".join(parts[2:4]), *parts[4:])
            return
        files = self.hub.models.get("/".join(parts[:2]), {})
        path = "/".join(parts[4:])
        if path not in files:
            self._missing("EntryNotFound")
            return
        if self.command == "GET":
            self.hub.fetched.append(path)
        etag = hashlib.sha1(files[path]).hexdigest()
        self._answer(files[path], X_Repo_Commit=COMMIT, ETag=f'"{etag}"')

    do_HEAD = do_GET

    def _described(self, name: str, kind: str = "", revision: str = "", *_: str) -> None:
        if name not in self.hub.models:
            self._missing("RepoNotFound")
        elif revision not in ("main", "v1", COMMIT):
            self._missing("RevisionNotFound")
        elif kind == "revision":
            self._answer({"id": name, "sha": COMMIT, "siblings": []})
        else:
            files = self.hub.models[name].items()
            oids = {path: hashlib.sha1(content).hexdigest() for path, content in files}
            self._answer([{"type": "file", "path": path, "size": len(own), "oid": oids[path]} for path, own in files])

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = urlsplit(self.path).path.strip("/").split("/")
        if self.hub.refused or "Authorization" not in self.headers:
            self._answer({"error": "refused"}, 401)
        elif parts == ["api", "validate-yaml"]:
            self._answer({"errors": [], "warnings": []})
        elif parts[:3] == ["api", "repos", "create"]:
            self.hub.created.append(json.loads(body))
            name = f"{self.hub.created[-1]['organization']}/{self.hub.created[-1]['name']}"
            self.hub.models.setdefault(name, {})
            self._answer({"url": f"{self.hub.url}/{name}", "id": name})
        elif parts[4] == "preupload":
            files = json.loads(body)["files"]
            modes = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]
            self._answer({"files": modes})
        else:
            self.hub.tokens.add(self.headers["Authorization"])
            for line in map(json.loads, body.decode().splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.hub.models["/".join(parts[2:4])][line["value"]["path"]] = content
            self._answer({"commitUrl": f"{self.hub.url}/{'/'.join(parts[2:4])}/commit/{COMMIT}", "commitOid": COMMIT})


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub that answers while the context lasts."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
