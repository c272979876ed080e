"""A Hugging Face Hub on a free port of this machine, for the real `huggingface_hub` client; nothing leaves.

Standard library only, a thread for each request. `with serve() as hub:` runs one; HF_ENDPOINT is `hub.address`.
"""

import hashlib
import json
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.hub.loopback_hub import LoopbackHub, RefusalError, card_errors, entry_of


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: LoopbackHub  # set by serve()

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.handle_request()

    do_POST = do_PUT = do_HEAD = do_GET  # noqa: N815

    def handle_request(self) -> None:
        url = urlsplit(self.path)
        path, query = unquote(url.path), parse_qs(url.query)
        hub = self.hub
        if hub.gone:
            self.close_connection = True
            return None
        hub.requests.append(f"{self.command} {path}")
        if self.command == "PUT" and path.startswith("/lfs/"):
            return self.receive_large(path.removeprefix("/lfs/"))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            with hub.lock:
                user = hub.user(self.headers)
                if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                    return self.send_file(*found.groups(), user)
                answer = self.hang_up() if path == "/hang-up" else self.route(path, query, user, body)
        except RefusalError as refusal:
            return self.send(refusal.status, {"error": str(refusal)}, {"X-Error-Code": refusal.code})
        status = answer.pop("status", 200) if isinstance(answer, dict) else 200
        return self.send(status, answer)

    def route(self, path: str, query: Mapping[str, list[str]], user: str | None, body: bytes) -> Any:
        hub = self.hub
        if path == "/api/whoami-v2":
            if user is None:
                raise RefusalError(401, message="Invalid username or password.")
            return {"type": "user", "name": user, "orgs": [], "auth": {"type": "access_token"}}
        if path == "/api/repos/create":
            return hub.create(user, json.loads(body))
        if path == "/api/validate-yaml":
            errors = [{"message": message} for message in card_errors(json.loads(body)["content"])]
            return {"status": 400 if errors else 200, "errors": errors, "warnings": []}
        if found := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            return hub.lfs_batch(found[1], user, json.loads(body))
        if found := re.fullmatch(r"/lfs-verify/([^/]+/[^/]+)", path):
            asked = json.loads(body)
            if len(hub.lfs.get(asked["oid"], b"")) != asked["size"]:
                raise RefusalError(404, message="the object is not there")
            return {}
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/([^/]+)", path):
            return hub.preupload(found[1], user, json.loads(body))
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/([^/]+)", path):
            return hub.commit(found[1], user, [json.loads(line) for line in body.splitlines()])
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commits/([^/]+)", path):
            return hub.commits(found[1], found[2], user)
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)/?(.*)", path):
            recursive = query.get("recursive", ["false"])[0].lower() in ("true", "1")
            return hub.tree(found[1], found[2], found[3], recursive, user)
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path):
            return hub.info(found[1], found[2] or "main", user)
        raise RefusalError(404, message=f"no such endpoint: {path}")

    def hang_up(self) -> dict[str, Any]:
        """From now on nobody is here."""
        self.hub.gone = True
        self.server.shutdown()
        self.server.server_close()
        return {}

    def receive_large(self, oid: str) -> None:
        size = int(self.headers["Content-Length"])
        with self.hub.lock:
            self.hub.sent.append(oid)
            cut = self.hub.cut_off.get(oid, 0) > 0
            self.hub.cut_off[oid] = self.hub.cut_off.get(oid, 0) - cut
        if cut:
            self.rfile.read(size // 2)
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        data = self.rfile.read(size)
        if len(data) == size and hashlib.sha256(data).hexdigest() == oid:
            with self.hub.lock:
                self.hub.lfs[oid] = data
            self.send(200, {})
        else:
            self.send(400, {"error": "contents do not match the announced SHA-256"})

    def send_file(self, repo_id: str, revision: str, path: str, user: str | None) -> None:
        commit = self.hub.revision(self.hub.readable(repo_id, user), revision)
        if path not in commit.files:
            headers = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit.oid}
            return self.send(404, {"error": "Entry not found"}, headers)
        data = commit.files[path]
        entry = entry_of(path, data)
        etag = entry["lfs"]["oid"] if "lfs" in entry else entry["oid"]
        headers = {
            "X-Repo-Commit": commit.oid, "ETag": f'"{etag}"', "X-Linked-ETag": f'"{etag}"',
            "X-Linked-Size": str(len(data)), "Content-Type": "application/octet-stream",
        }  # fmt: skip
        self.send(200, data, headers)

    def send(self, status: int, content: Any, headers: Mapping[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            if value:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@contextmanager
def serve() -> Iterator[LoopbackHub]:
    """A running Hub on a free port of this machine; it ends with the block."""
    hub = LoopbackHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
