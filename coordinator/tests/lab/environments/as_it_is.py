"""An OpenEnv application of its own for tests: episodes that end, and replies that are large.

Environment variables: DONE_AFTER, steps of an episode (0: without an end); REPLY_BYTES of text in each observation;
NEEDS, a text that an action must have; MAX_CONCURRENT_ENVS, READY_DIR as in the benchmark application.
"""

import os
import time
from pathlib import Path

from openenv.core.env_server.http_server import create_app
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import Action, Observation, State
from pydantic import create_model

DONE_AFTER = int(os.environ.get("DONE_AFTER", "0"))
TEXT = "x" * int(os.environ.get("REPLY_BYTES", "0"))


class Wait(Action):
    wait_seconds: float = 0.0


if needs := os.environ.get("NEEDS"):
    Wait = create_model("Wait", __base__=Wait, **{needs: (str, ...)})


class Seen(Observation):
    # Names of the benchmark environment with other meanings.
    pid: str = "worker-3"
    session_hash: int = 12345
    text: str = ""


class AsItIs(Environment):
    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self):
        super().__init__()
        self._state = State(episode_id="e", step_count=0)

    def reset(self, seed=None, episode_id=None, **_):
        self._state.step_count = 0
        return Seen(text=TEXT)

    def step(self, action, timeout_s=None, **_):
        if DONE_AFTER and self._state.step_count >= DONE_AFTER:
            raise RuntimeError("the episode is over")
        self._state.step_count += 1
        time.sleep(action.wait_seconds)
        return Seen(text=TEXT, done=self._state.step_count == DONE_AFTER)

    @property
    def state(self):
        return self._state


app = create_app(AsItIs, Wait, Seen, env_name="as_it_is", max_concurrent_envs=int(os.environ["MAX_CONCURRENT_ENVS"]))

if ready_dir := os.environ.get("READY_DIR"):
    Path(ready_dir, str(os.getpid())).touch()
