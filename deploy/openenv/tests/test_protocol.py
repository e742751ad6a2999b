"""The wire protocol as the load drivers rely on it, against a running server.

Run from deploy/openenv with the packages of requirements.txt: `python -m unittest discover tests`. With SERVER_URL set,
a server that is already running with 2 sessions in 1 worker is tested instead (the reference server, for one).
"""

import hashlib
import json
import os
import socket
import subprocess
import sys
import time
import unittest
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

FOLDER = Path(__file__).resolve().parent.parent
MAX_SESSIONS = 2
START_SECONDS_MAX = 120
REPLY_SECONDS_MAX = 30
RESET = {"type": "reset", "data": {}}
FIELDS = {"waited_seconds", "pid", "session_hash", "host_url", "step_count"}


def step(wait_seconds: Any) -> dict[str, Any]:
    return {"type": "step", "data": {"wait_seconds": wait_seconds}}


def ask(session: ClientConnection, message: Any) -> dict[str, Any]:
    session.send(message if isinstance(message, (str, bytes)) else json.dumps(message))
    return json.loads(session.recv(timeout=REPLY_SECONDS_MAX))


class ProtocolTest(unittest.TestCase):
    url: str
    server: subprocess.Popen[bytes] | None = None

    @classmethod
    def setUpClass(cls) -> None:
        if url := os.environ.get("SERVER_URL"):
            cls.url = url.rstrip("/")
            return
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        cls.url = f"http://127.0.0.1:{port}"
        environment = os.environ | {"PORT": str(port), "MAX_CONCURRENT_ENVS": str(MAX_SESSIONS)}
        command = [sys.executable, "-m", "uvicorn", "benchmark_env.app:app", "--port", str(port)]
        cls.server = subprocess.Popen([*command, "--log-level", "critical"], cwd=FOLDER, env=environment)
        cls.addClassCleanup(cls.stop)
        deadline = time.monotonic() + START_SECONDS_MAX
        while True:
            try:
                urllib.request.urlopen(f"{cls.url}/health", timeout=REPLY_SECONDS_MAX).close()
                return
            except OSError:
                if cls.server.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    @classmethod
    def stop(cls) -> None:
        if cls.server is not None:
            cls.server.terminate()
            try:
                cls.server.wait(REPLY_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                cls.server.kill()
                cls.server.wait()

    def open(self) -> ClientConnection:
        stack = ExitStack()
        self.addCleanup(stack.close)
        url = self.url.replace("http", "ws", 1) + "/ws"
        return stack.enter_context(connect(url, open_timeout=REPLY_SECONDS_MAX))

    def open_with_place(self) -> ClientConnection:
        """A session that got a place: those of earlier tests may still be ending."""
        deadline = time.monotonic() + REPLY_SECONDS_MAX
        while True:
            session = self.open()
            try:
                if ask(session, {"type": "state"})["type"] == "state":
                    return session
            except ConnectionClosed:
                pass
            self.assertLess(time.monotonic(), deadline, "no place is free")

    def call(self, method: str, path: str, body: str | None = None) -> tuple[int, Any]:
        data = None if body is None else body.encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=REPLY_SECONDS_MAX) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def assert_closed(self, session: ClientConnection, code: int) -> None:
        with self.assertRaises(ConnectionClosed) as closed:
            session.recv(timeout=REPLY_SECONDS_MAX)
        self.assertEqual(closed.exception.rcvd.code if closed.exception.rcvd else None, code)

    def test_a_session(self) -> None:
        session = self.open_with_place()
        reset = ask(session, RESET)
        self.assertEqual(reset["type"], "observation")
        self.assertEqual(set(reset["data"]), {"observation", "reward", "done"})
        self.assertIsNone(reset["data"]["reward"])
        self.assertIs(reset["data"]["done"], False)
        first = reset["data"]["observation"]
        self.assertEqual(set(first), FIELDS)
        self.assertRegex(first["session_hash"], r"\A[0-9a-f]{12}\Z")
        self.assertRegex(first["host_url"], r":\d+\Z")
        self.assertEqual(first["step_count"], 0)
        self.assertEqual(first["waited_seconds"], 0.0)
        if self.server is not None:
            self.assertEqual(first["pid"], self.server.pid)
        for count, wait_seconds in [(1, 0.0), (2, 0.01)]:
            expected = first | {"step_count": count, "waited_seconds": wait_seconds}
            self.assertEqual(ask(session, step(wait_seconds))["data"]["observation"], expected)
        state = ask(session, {"type": "state"})["data"]
        self.assertEqual(state["step_count"], 2)
        self.assertRegex(state["episode_id"], r"\A[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\Z")
        self.assertEqual(hashlib.sha256(state["episode_id"].encode()).hexdigest()[:12], first["session_hash"])
        self.assertEqual(ask(session, RESET)["data"]["observation"], first)
        self.assertEqual(ask(session, {"type": "state"})["data"], state | {"step_count": 0})
        session.send(json.dumps({"type": "close"}))
        self.assert_closed(session, 1000)

    def test_pipelined_messages_are_answered_in_order(self) -> None:
        session = self.open_with_place()
        for message in [RESET, step(0.05), step(0.0), {"type": "state"}]:
            session.send(json.dumps(message))
        replies = [json.loads(session.recv(timeout=REPLY_SECONDS_MAX)) for _ in range(4)]
        self.assertEqual([reply["type"] for reply in replies], ["observation"] * 3 + ["state"])
        self.assertEqual([reply["data"]["observation"]["step_count"] for reply in replies[:3]], [0, 1, 2])

    def test_recoverable_errors(self) -> None:
        session = self.open_with_place()
        for message, code in [
            ("nope", "INVALID_JSON"),
            ({"type": "fly"}, "UNKNOWN_TYPE"),
            ({}, "UNKNOWN_TYPE"),
            ({"type": "step"}, "VALIDATION_ERROR"),
            (step("long"), "VALIDATION_ERROR"),
            (step(-1), "VALIDATION_ERROR"),
            ({"type": "step", "data": {"wait_seconds": 0, "x": 1}}, "VALIDATION_ERROR"),
            ({"type": "state", "data": {}}, "VALIDATION_ERROR"),
            (step(1e300), "EXECUTION_ERROR"),
        ]:
            with self.subTest(message=message):
                reply = ask(session, message)
                self.assertEqual((reply["type"], reply["data"]["code"]), ("error", code))
                self.assertIsInstance(reply["data"]["message"], str)
                if code == "VALIDATION_ERROR":
                    self.assertTrue(reply["data"]["errors"])
        self.assertEqual(ask(session, {"type": "state"})["type"], "state")

    def test_fatal_errors(self) -> None:
        for message in ["[]", "null", b"{}"]:
            with self.subTest(message=message):
                session = self.open_with_place()
                self.assertEqual(ask(session, message)["data"]["code"], "SESSION_ERROR")
                self.assert_closed(session, 1000)

    def test_mcp_is_answered(self) -> None:
        session = self.open_with_place()
        reply = ask(session, {"type": "mcp", "data": {"jsonrpc": "2.0", "id": 4, "method": "nope"}})
        self.assertEqual((reply["type"], reply["data"]["id"]), ("mcp", 4))
        self.assertEqual(reply["data"]["error"]["code"], -32601)

    def test_a_full_server_accepts_then_refuses(self) -> None:
        places = [self.open_with_place() for _ in range(MAX_SESSIONS)]
        session = self.open()
        error = json.loads(session.recv(timeout=REPLY_SECONDS_MAX))
        self.assertEqual((error["type"], error["data"]["code"]), ("error", "CAPACITY_REACHED"))
        self.assertEqual(error["data"]["active_sessions"], MAX_SESSIONS)
        self.assertEqual(error["data"]["max_sessions"], MAX_SESSIONS)
        self.assert_closed(session, 1000)
        # HTTP does not need a place.
        self.assertEqual(self.call("POST", "/reset")[0], 200)
        self.assertEqual(ask(places[0], {"type": "state"})["type"], "state")

    def test_http(self) -> None:
        for body in [None, "{}"]:
            status, reply = self.call("POST", "/reset", body)
            self.assertEqual((status, set(reply)), (200, {"observation", "reward", "done"}))
            self.assertEqual((set(reply["observation"]), reply["observation"]["step_count"]), (FIELDS, 0))
        status, reply = self.call("POST", "/step", '{"action":{"wait_seconds":0.01}}')
        self.assertEqual((status, reply["observation"]["step_count"]), (200, 1))
        self.assertEqual(reply["observation"]["waited_seconds"], 0.01)
        self.assertEqual(self.call("GET", "/health"), (200, {"status": "healthy"}))
        self.assertEqual(self.call("GET", "/state")[1]["step_count"], 0)
        self.assertEqual(self.call("GET", "/metadata")[0], 200)
        self.assertLessEqual({"action", "observation", "state"}, set(self.call("GET", "/schema")[1]))

    def test_http_refusals(self) -> None:
        actions = ['{"wait_seconds":"x"}', '{"wait_seconds":-1}', '{"x":1}']
        for body in ["nope", "[]", "{}", *(f'{{"action":{action}}}' for action in actions)]:
            status, reply = self.call("POST", "/step", body)
            self.assertEqual(status, 422, body)
            self.assertIsInstance(reply["detail"], list, body)
        self.assertEqual(self.call("GET", "/step"), (405, {"detail": "Method Not Allowed"}))
        self.assertEqual(self.call("GET", "/nope"), (404, {"detail": "Not Found"}))


if __name__ == "__main__":
    unittest.main()
