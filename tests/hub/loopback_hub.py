"""What a Hugging Face Hub on this machine knows and answers; `loopback_hub.py` puts it on a port.

Model repositories, public and private; access tokens and namespaces; uploads of regular and LFS files; commits and
trees. It can be told to fail. The answers follow https://huggingface.co/docs/hub/api and the git-lfs batch API; xet is
not spoken (HF_HUB_DISABLE_XET=1).
"""

import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

TOKENS = {"hf_" + "loopbackalice" * 2: "alice", "hf_" + "loopbackbob" * 2: "bob"}
ALICE, BOB = TOKENS
LFS_SUFFIXES = {".safetensors", ".bin", ".pt", ".pth", ".png", ".onnx", ".arrow", ".parquet"}
REQUIRED_RESULT = {"task": ("type",), "dataset": ("type", "name")}


@dataclass
class Commit:
    oid: str
    message: str
    files: dict[str, bytes]


@dataclass
class Repo:
    private: bool = False
    commits: list[Commit] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.commit("initial commit", {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"})

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1].files

    def commit(self, message: str, files: dict[str, bytes]) -> Commit:
        contents = {path: hashlib.sha256(data).hexdigest() for path, data in files.items()}
        parent = self.commits[-1].oid if self.commits else ""
        oid = hashlib.sha1(json.dumps([parent, message, contents], sort_keys=True).encode()).hexdigest()
        self.commits.append(Commit(oid, message, dict(files)))
        return self.commits[-1]

    def at(self, revision: str) -> Commit | None:
        if revision == "main":
            return self.commits[-1]
        return next((commit for commit in self.commits if commit.oid == revision), None)


class RefusalError(Exception):
    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        super().__init__(message or code)
        self.status, self.code = status, code


class LoopbackHub:
    """The Hub's state and its API, but for HTTP.

    Attributes:
        repos: id -> repository.
        lfs: SHA-256 -> contents of large files that arrived whole.
        sent: SHA-256 of every large file that was sent, whole or not, in order.
        cut_off: SHA-256 -> how many of the next uploads of this file are cut off in the middle.
        refuse_commits: status with which commits are answered instead of being made; 0 for none.
        requests: "METHOD /path" of everything that was asked.
        address: what HF_ENDPOINT is to be.
        gone: whether somebody has asked for /hang-up; no connection is taken any more, and those that are open end.
    """

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.lfs: dict[str, bytes] = {}
        self.sent: list[str] = []
        self.cut_off: dict[str, int] = {}
        self.refuse_commits = 0
        self.requests: list[str] = []
        self.address = ""
        self.gone = False
        self.lock = threading.RLock()

    # ---- who may do what ----

    def user(self, headers: Mapping[str, str]) -> str | None:
        token = (headers.get("Authorization") or "").removeprefix("Bearer ").strip()
        if token and token not in TOKENS:
            raise RefusalError(401, message="Invalid credentials in Authorization header")
        return TOKENS.get(token)

    def readable(self, repo_id: str, user: str | None) -> Repo:
        repo = self.repos.get(repo_id)
        if repo is None or (repo.private and user != repo_id.split("/")[0]):
            raise RefusalError(401 if user is None else 404, "RepoNotFound", "Repository not found")
        return repo

    def writable(self, repo_id: str, user: str | None) -> Repo:
        repo = self.readable(repo_id, user)
        if user is None:
            raise RefusalError(401, message="Authentication is required")
        if user != repo_id.split("/")[0]:
            raise RefusalError(403, message="You do not have write access to this repository")
        return repo

    # ---- the API ----

    def create(self, user: str | None, asked: Mapping[str, Any]) -> dict[str, Any]:
        if user is None:
            raise RefusalError(401, message="Authentication is required")
        repo_id = f"{asked.get('organization') or user}/{asked['name']}"
        if not repo_id.startswith(f"{user}/"):
            raise RefusalError(403, message=f"You have no write access to namespace {asked.get('organization')}")
        existed = repo_id in self.repos
        if not existed:
            private = bool(asked.get("private")) or asked.get("visibility") == "private"
            self.repos[repo_id] = Repo(private)
        return {"status": 409 if existed else 200, "url": f"{self.address}/{repo_id}", "name": repo_id}

    def info(self, repo_id: str, revision: str, user: str | None) -> dict[str, Any]:
        repo = self.readable(repo_id, user)
        commit = self.revision(repo, revision)
        siblings = [{"rfilename": path} for path in sorted(commit.files)]
        return {
            "_id": repo_id, "id": repo_id, "modelId": repo_id, "author": repo_id.split("/")[0], "sha": commit.oid,
            "private": repo.private, "disabled": False, "gated": False, "downloads": 0, "likes": 0, "tags": [],
            "siblings": siblings, "createdAt": "2020-01-01T00:00:00.000Z", "lastModified": "2020-01-01T00:00:00.000Z",
        }  # fmt: skip

    def revision(self, repo: Repo, name: str) -> Commit:
        if (commit := repo.at(name)) is None:
            raise RefusalError(404, "RevisionNotFound", f"Invalid rev id: {name}")
        return commit

    def tree(self, repo_id: str, revision: str, folder: str, recursive: bool, user: str | None) -> list[dict]:
        files = self.revision(self.readable(repo_id, user), revision).files
        prefix = f"{folder}/" if folder else ""
        inside = {path: data for path, data in files.items() if path.startswith(prefix)}
        if folder and not inside:
            raise RefusalError(404, "EntryNotFound", f"{folder} does not exist")
        entries: dict[str, dict] = {}
        for path, data in sorted(inside.items()):
            parents = [str(parent) for parent in PurePosixPath(path.removeprefix(prefix)).parents][:-1]
            for parent in reversed(parents):
                entries.setdefault(prefix + parent, {"type": "directory", "path": prefix + parent, "oid": "0" * 40})
            if not parents or recursive:
                entries[path] = entry_of(path, data)
        return [entry for path, entry in entries.items() if recursive or "/" not in path.removeprefix(prefix)]

    def preupload(self, repo_id: str, user: str | None, asked: Mapping[str, Any]) -> dict[str, Any]:
        repo = self.writable(repo_id, user)
        modes = []
        for file in asked["files"]:
            data = repo.files.get(file["path"])
            oid = None if data is None else entry_of(file["path"], data)["oid"]
            mode = "lfs" if is_large(file["path"]) else "regular"
            modes.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return {"files": modes}

    def lfs_batch(self, repo_id: str, user: str | None, asked: Mapping[str, Any]) -> dict[str, Any]:
        self.writable(repo_id, user)
        objects = []
        for wanted in asked["objects"]:
            actions = {
                "upload": {"href": f"{self.address}/lfs/{wanted['oid']}", "header": {}},
                "verify": {"href": f"{self.address}/lfs-verify/{repo_id}"},
            }
            held = {} if wanted["oid"] in self.lfs else {"actions": actions}
            objects.append({"oid": wanted["oid"], "size": wanted["size"], **held})
        return {"transfer": "basic", "objects": objects}

    def commit(self, repo_id: str, user: str | None, lines: list[dict[str, Any]]) -> dict[str, Any]:
        repo = self.writable(repo_id, user)
        if self.refuse_commits:
            raise RefusalError(self.refuse_commits, message="The Hub is out of order")
        files, message = dict(repo.files), ""
        for line in lines:
            key, value = line["key"], line["value"]
            if key == "header":
                message = value["summary"]
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                if value["oid"] not in self.lfs:
                    raise RefusalError(400, message=f"LFS object {value['oid']} was never uploaded")
                files[value["path"]] = self.lfs[value["oid"]]
            elif key == "deletedFile":
                files.pop(value["path"], None)
            else:
                raise RefusalError(400, message=f"unknown operation {key}")
        made = repo.commit(message, files)
        return {"success": True, "commitOid": made.oid, "commitUrl": f"{self.address}/{repo_id}/commit/{made.oid}"}

    def commits(self, repo_id: str, revision: str, user: str | None) -> list[dict[str, Any]]:
        repo = self.readable(repo_id, user)
        self.revision(repo, revision)
        date = "2020-01-01T00:00:00.000Z"
        return [
            {"id": c.oid, "title": c.message, "message": "", "date": date, "authors": []} for c in repo.commits[::-1]
        ]


def entry_of(path: str, data: bytes) -> dict[str, Any]:
    sha = hashlib.sha256(data).hexdigest()
    oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": oid}
    if is_large(path):
        entry["lfs"] = {"oid": sha, "size": len(data), "pointerSize": 130}
    return entry


def is_large(path: str) -> bool:
    return PurePosixPath(path).suffix in LFS_SUFFIXES


def card_errors(content: str) -> list[str]:
    """What is wrong with a card's metadata, by the Hub's documented rules for `model-index` and the plain fields."""
    found = re.match(r"---\r?\n(.*?)\r?\n---", content, re.DOTALL)
    if not found:
        return []
    try:
        metadata = yaml.safe_load(found[1])
    except yaml.YAMLError as error:
        return [f"invalid YAML: {error}"]
    if not isinstance(metadata, dict):
        return ["metadata must be a mapping"]
    errors = []
    for name, kinds in {
        "license": str,
        "library_name": str,
        "pipeline_tag": str,
        "tags": list,
        "metrics": list,
    }.items():
        if name in metadata and not isinstance(metadata[name], kinds):
            errors.append(f'"{name}" must be a {kinds.__name__}')
    for i, code in enumerate(metadata.get("language") or []):
        if not re.fullmatch(r"[a-z]{2,3}|code|multilingual", str(code)):
            errors.append(f'"language[{i}]" must be an ISO 639 code, or in "language_bcp47"')
    for i, model in enumerate(metadata.get("model-index") or []):
        if not isinstance(model.get("name"), str) or not model["name"]:
            errors.append(f'"model-index[{i}].name" is required')
        for j, result in enumerate(model.get("results") or [{}]):
            where = f"model-index[{i}].results[{j}]"
            for member, fields in REQUIRED_RESULT.items():
                errors += [f'"{where}.{member}.{f}" is required' for f in fields if not result.get(member, {}).get(f)]
            for k, metric in enumerate(result.get("metrics") or [{}]):
                if not metric.get("type") or not isinstance(metric.get("value"), (int, float, str, dict, list)):
                    errors.append(f'"{where}.metrics[{k}]" needs a type and a value')
    return errors


# A Hugging Face Hub on a free port of this machine, for the real `huggingface_hub` client; nothing leaves.
#
# Standard library only, a thread for each request. `with serve() as hub:` runs one; HF_ENDPOINT is `hub.address`.


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
