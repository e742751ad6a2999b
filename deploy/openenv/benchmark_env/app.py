"""The ASGI application: `python -m uvicorn benchmark_env.app:app --workers N`.

Environment variables: MAX_CONCURRENT_ENVS, sessions at a time in each worker (100); PORT, told in observations (8000);
READY_DIR, a folder in which each worker leaves a file named after its pid once it can serve.
"""

import os
from pathlib import Path

from openenv.core.env_server.http_server import create_app

from .environment import BenchmarkEnvironment
from .models import BenchmarkAction, BenchmarkObservation

app = create_app(
    BenchmarkEnvironment,
    BenchmarkAction,
    BenchmarkObservation,
    env_name="benchmark",
    max_concurrent_envs=int(os.environ.get("MAX_CONCURRENT_ENVS", "100")),
)

# Importing the above is nearly all of a worker's start. Workers accept on one shared socket, so from outside it cannot
# be seen how many of them have got this far.
if ready_dir := os.environ.get("READY_DIR"):
    Path(ready_dir, str(os.getpid())).touch()
