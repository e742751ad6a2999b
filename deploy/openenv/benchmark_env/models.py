"""What goes over the wire."""

from openenv.core.env_server.types import Action, Observation
from pydantic import Field


class BenchmarkAction(Action):
    """One step."""

    wait_seconds: float = Field(default=0.0, ge=0.0, allow_inf_nan=False, description="How long the step sleeps")


class BenchmarkObservation(Observation):
    """Who answered, and for how long it had been asked to wait."""

    waited_seconds: float = Field(default=0.0, description="The wait that was requested, not the one measured")
    pid: int = Field(default=0, description="Process id of the worker")
    session_hash: str = Field(default="", description="First 12 hex digits of the SHA-256 of the episode id")
    host_url: str = Field(default="", description="Host name and port of the server")
    step_count: int = Field(default=0, description="Steps since the last reset, this one included")
