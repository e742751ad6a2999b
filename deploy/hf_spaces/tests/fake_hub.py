"""A stand-in for the Hub on the loopback: just enough of its API for deploy.sh to deploy a Space to it.

Usage: fake_hub.py FILE. Prints "hub on URL" once it accepts. Writes what it was asked, a line of JSON each, to FILE. The token
hf_good may do everything, hf_readonly may only say who it is, any other is not valid. The Space builds for two looks and
then runs; what is served as the Space is this same server.
"""

import base64
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from typing import Any

BUILDING_LOOKS = 2
# What a Space of somebody else's making may hold already.
OLD_FILES = [".gitattributes", "README.md", "old/app.py"]


class Hub(ThreadingHTTPServer):
    def __init__(self, log_path: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.log = open(log_path, "w", encoding="utf-8")  # noqa: SIM115 - it lives as long as the server
        self.lock = Lock()
        self.looks = 0

    def note(self, **asked: Any) -> None:
        with self.lock:
            print(json.dumps(asked), file=self.log, flush=True)


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer(b"")

    def do_POST(self) -> None:
        self.answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def answer(self, body: bytes) -> None:
        path = self.path.split("?")[0]
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if path == "/health":
            return self.reply(200, {"status": "healthy"})
        if token not in ("hf_good", "hf_readonly"):
            return self.reply(401, {"error": "Invalid credentials"})
        if path == "/api/whoami-v2":
            return self.reply(200, {"type": "user", "name": "somebody", "auth": {"type": "access_token"}})
        if self.command == "POST" and token == "hf_readonly":
            return self.reply(403, {"error": "You don't have the rights to create a space under this namespace"})
        if self.command == "POST":
            self.server.note(path=path, body=readable(path, body))
        return self.reply(200, self.space(path, body))

    def space(self, path: str, body: bytes) -> Any:
        if path == "/api/repos/create":
            asked = json.loads(body)
            return {"url": f"{self.server.url}/spaces/{asked.get('organization', 'somebody')}/{asked['name']}"}
        if path == "/api/validate-yaml":
            return {"errors": [], "warnings": []}
        if "/preupload/" in path:
            how = {"uploadMode": "regular", "shouldIgnore": False}
            return {"files": [{"path": file["path"], **how} for file in json.loads(body)["files"]]}
        if "/commit/" in path:
            repo = "/".join(path.split("/")[2:5])
            return {"commitUrl": f"{self.server.url}/{repo}/commit/1", "commitOid": "1" * 40, "success": True}
        if "/tree/" in path:
            return [{"type": "file", "path": name, "size": 1, "oid": "0" * 40} for name in OLD_FILES]
        if path.endswith("/variables"):
            return {}
        if path.endswith(("/runtime", "/hardware")):
            if path.endswith("/runtime"):
                self.server.looks += 1
            stage = "RUNNING" if self.server.looks > BUILDING_LOOKS else "BUILDING"
            return {"stage": stage, "hardware": {"current": "cpu-basic", "requested": "cpu-basic"}}
        return {
            "_id": "1",
            "id": "/".join(path.split("/")[3:5]),
            "sha": "0" * 40,
            "private": False,
            "likes": 0,
            "tags": [],
            "host": self.server.url,
            "subdomain": "somebody-space",
            "siblings": [{"rfilename": name} for name in OLD_FILES],
        }

    def reply(self, status: int, content: Any) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """What was asked is in the log file."""


def readable(path: str, body: bytes) -> Any:
    """A commit's files as names with the text that they were given; everything else as it came."""
    if "/commit/" not in path:
        return json.loads(body)
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
