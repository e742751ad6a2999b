"""The environment itself."""

import hashlib
import os
import socket
import time
import uuid
from typing import Any

from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import State

from .models import BenchmarkAction, BenchmarkObservation

HOST_URL = f"{socket.gethostname()}:{os.environ.get('PORT', '8000')}"


class BenchmarkEnvironment(Environment):
    """Sleeps in `step`. Its identity is made once and survives resets."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self) -> None:
        super().__init__()
        episode_id = str(uuid.uuid4())
        self._state = State(episode_id=episode_id, step_count=0)
        self._session_hash = hashlib.sha256(episode_id.encode()).hexdigest()[:12]

    def reset(self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any) -> BenchmarkObservation:
        self._state.step_count = 0
        return self._observe(waited_seconds=0.0)

    def step(self, action: BenchmarkAction, timeout_s: float | None = None, **kwargs: Any) -> BenchmarkObservation:
        self._state.step_count += 1
        # Blocking on purpose: each WebSocket session has a thread of its own, and what that costs is measured.
        time.sleep(action.wait_seconds)
        return self._observe(action.wait_seconds)

    @property
    def state(self) -> State:
        return self._state

    def _observe(self, waited_seconds: float) -> BenchmarkObservation:
        return BenchmarkObservation(
            waited_seconds=waited_seconds,
            pid=os.getpid(),
            session_hash=self._session_hash,
            host_url=HOST_URL,
            step_count=self._state.step_count,
        )
