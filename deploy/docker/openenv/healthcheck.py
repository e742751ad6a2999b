"""Whether every worker of this container serves: 0 if so, 1 and what is wrong if not."""

import os
import sys
import urllib.request

SECONDS_MAX = 5


def main() -> str | None:
    workers, port = int(os.environ["WORKERS"]), os.environ["PORT"]
    # Workers accept on one shared socket: /health alone says that one of them is there.
    ready = [pid for pid in os.listdir(os.environ["READY_DIR"]) if os.path.exists(f"/proc/{pid}")]
    if len(ready) < workers:
        return f"{len(ready)} of {workers} workers serve"
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=SECONDS_MAX) as reply:
        return None if reply.status == 200 else f"/health answers {reply.status}"


try:
    fault = main()
except OSError as error:
    fault = f"the server does not answer: {error}"
if fault:
    sys.exit(fault)
