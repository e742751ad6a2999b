"""A stand-in for the Hub on the loopback, with just enough of its API for deploy.sh to deploy a Space to it.

Usage: fake_hub.py FILE. Prints "hub on URL" once it accepts connections. Writes each requested change to FILE, as one line of JSON.
The token hf_good may do everything, hf_readonly may only read, hf_blind sees no Space; any other token is not valid. The first
Space reports that it builds for two queries and then runs. This same server also acts as the Space, under the Space's name; it
serves a private Space only with a token. At the start there are somebody/chess and somebody/stuck, whose content is not ours. The
second one stays public whatever is requested.
"""

import base64
import hashlib
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from typing import Any

BUILDING_LOOKS = 2
# The files of a new Space, and of a Space that somebody else has made.
FRONT = "---\ntitle: Space\nsdk: docker\npinned: false\n---\n\n"
FIRST_FILES = {
    ".gitattributes": "",
    "README.md": FRONT + "Check out the configuration reference at https://huggingface.co/docs/hub/spaces-config-reference\n",
}
OLD_FILES = {".gitattributes": "", "README.md": FRONT + "# Chess\n", "old/app.py": "print('check')\n"}
STUCK = "somebody/stuck"
PAID = "a100-large"


class Space:
    def __init__(self, private: bool, files: dict[str, str]) -> None:
        self.private = private
        self.files = dict(files)


class Hub(ThreadingHTTPServer):
    def __init__(self, log_path: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.log = open(log_path, "w", encoding="utf-8")  # noqa: SIM115 - it lives as long as the server
        self.lock = Lock()
        self.looks = 0
        self.spaces = {name: Space(False, OLD_FILES) for name in ("somebody/chess", STUCK)}

    def note(self, **asked: Any) -> None:
        with self.lock:
            print(json.dumps(asked), file=self.log, flush=True)


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer(b"")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self.answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    do_PUT = do_POST

    def answer(self, body: bytes) -> None:
        parts = self.path.split("?")[0].strip("/").split("/")
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if parts[0] == "run":
            space = self.server.spaces.get("/".join(parts[1:3]))
            if space is None or (space.private and token != "hf_good"):
                return self.reply(404, {"error": "Not Found"})
            return self.reply(200, {"status": "healthy"})
        if token not in ("hf_good", "hf_readonly", "hf_blind"):
            return self.reply(401, {"error": "Invalid credentials"})
        if parts == ["api", "whoami-v2"]:
            return self.reply(200, {"type": "user", "name": "somebody", "auth": {"type": "access_token"}})
        if parts == ["api", "validate-yaml"]:
            return self.reply(200, {"errors": [], "warnings": []})
        if self.command in ("POST", "PUT"):
            if token == "hf_readonly":
                return self.reply(403, {"error": "You don't have the rights to create a space under this namespace"})
            if parts == ["api", "repos", "create"]:
                return self.create(json.loads(body))
        if parts[0] == "api":
            parts = parts[1:]
        name = "/".join(parts[1:3])
        space = self.server.spaces.get(name)
        if parts[0] != "spaces" or space is None or token == "hf_blind":
            return self.reply(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        return self.of_space(name, space, parts[3:], body)

    def create(self, asked: Any) -> None:
        name = f"{asked.get('organization', 'somebody')}/{asked['name']}"
        url = f"{self.server.url}/spaces/{name}"
        if name in self.server.spaces:
            return self.reply(409, {"error": "You already created this space repo", "url": url})
        self.server.note(call="create", space=name, body=asked)
        self.server.spaces[name] = Space(asked.get("visibility") == "private", FIRST_FILES)
        return self.reply(200, {"url": url})

    def of_space(self, name: str, space: Space, call: list[str], body: bytes) -> None:
        what = call[0] if call else "info"
        if what == "resolve":
            text = space.files["/".join(call[2:])].encode()
            return self.send(200, text, {"X-Repo-Commit": "0" * 40, "ETag": hashlib.sha1(text).hexdigest()})
        if what == "preupload":
            how = {"uploadMode": "regular", "shouldIgnore": False}
            return self.reply(200, {"files": [{"path": file["path"], **how} for file in json.loads(body)["files"]]})
        if what == "tree":
            return self.reply(
                200, [{"type": "file", "path": path, "size": 1, "oid": "0" * 40} for path in sorted(space.files)]
            )
        if what == "hardware" and json.loads(body)["flavor"] == PAID:
            return self.reply(402, {"error": "Payment required"})
        if self.command in ("POST", "PUT"):
            asked = commit(body) if what == "commit" else json.loads(body)
            self.server.note(call=what, space=name, body=asked)
        if what == "commit":
            space.files = {path: text for path, text in space.files.items() if path not in asked["deleted"]}
            space.files.update(asked["files"])
            url = f"{self.server.url}/spaces/{name}/commit/1"
            return self.reply(200, {"commitUrl": url, "commitOid": "1" * 40, "success": True})
        if what == "settings":
            space.private = asked["visibility"] == "private" and name != STUCK
            return self.reply(200, {})
        if what == "variables":
            return self.reply(200, {})
        if what in ("runtime", "hardware"):
            if what == "runtime":
                self.server.looks += 1
            stage = "RUNNING" if self.server.looks > BUILDING_LOOKS else "BUILDING"
            return self.reply(200, {"stage": stage, "hardware": {"current": "cpu-basic", "requested": "cpu-basic"}})
        return self.reply(
            200,
            {
                "_id": "1",
                "id": name,
                "sha": "0" * 40,
                "private": space.private,
                "likes": 0,
                "tags": [],
                "host": f"{self.server.url}/run/{name}",
                "subdomain": name.replace("/", "-"),
                "siblings": [{"rfilename": path} for path in sorted(space.files)],
            },
        )

    def reply(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        self.send(status, json.dumps(content).encode(), {"Content-Type": "application/json", **(headers or {})})

    def send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """No output: the requests are in the log file."""


def commit(body: bytes) -> dict[str, Any]:
    """The uploaded files by name with their text, and the deleted files."""
    files, deleted = {}, []
    for line in filter(None, body.decode().split("\n")):
        entry = json.loads(line)
        if entry["key"] == "file":
            files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"]).decode()
        elif entry["key"] == "deletedFile":
            deleted.append(entry["value"]["path"])
    return {"files": files, "deleted": deleted}


hub = Hub(sys.argv[1])
print(f"hub on {hub.url}", flush=True)
hub.serve_forever()
