"""What deploy.sh asks of the Hub: a list of calls, which a dry run prints and a real one makes.

Everything comes from deploy.sh, checked: the folder to push as the argument, the rest as environment variables. A dry run
imports nothing but the standard library.
"""

import json
import os
import re
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

REPO_ID = os.environ["REPO_ID"]
HARDWARE = os.environ["HARDWARE"]
VARIABLES = {name: os.environ[name] for name in ("WORKERS", "MAX_CONCURRENT_ENVS")}
PRIVATE = os.environ["PRIVATE"] == "1"
POLL_SECONDS = 2.0

Call = tuple[str, dict[str, Any]]


def calls(folder: Path) -> list[Call]:
    """In order. Variables come before the files, since a change of them starts a running Space anew."""
    of_space = {"repo_id": REPO_ID}
    made: list[Call] = [
        (
            "create_repo",
            {**of_space, "repo_type": "space", "space_sdk": "docker", "private": PRIVATE, "exist_ok": True},
        )
    ]
    for key, value in VARIABLES.items():
        made.append(("add_space_variable", {**of_space, "key": key, "value": value}))
    if HARDWARE:
        # Apart from create_repo, which leaves a Space alone that is there already.
        made.append(("request_space_hardware", {**of_space, "hardware": HARDWARE}))
    made.append(
        (
            "upload_folder",
            {
                **of_space,
                "repo_type": "space",
                "folder_path": str(folder),
                "delete_patterns": "*",
                "commit_message": "Deploy the OpenEnv benchmark environment",
            },
        )
    )
    return made


def expected_url() -> str:
    """Where the Hub puts a Space, unless it says otherwise."""
    return "https://" + re.sub(r"[^a-z0-9]+", "-", REPO_ID.lower()) + ".hf.space"


def connection(url: str) -> str:
    lines = {
        "urls": [url],
        "workers": int(VARIABLES["WORKERS"]),
        "max_concurrent_envs": int(VARIABLES["MAX_CONCURRENT_ENVS"]),
        "nodes": 1,
        "backends": [REPO_ID],
        "start_command": os.environ["START_COMMAND"],
    }
    # These are strings, numbers and lists of them: JSON writes them as TOML does.
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in lines.items())


def dry_run(folder: Path) -> None:
    print("dry run: nothing is sent")
    print(f"\nfiles of https://huggingface.co/spaces/{REPO_ID}")
    total = 0
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        size = path.stat().st_size
        total += size
        print(f"{size:>8}  {path.relative_to(folder)}")
    print(f"{total:>8}  in all")
    print(f"\ncalls of HfApi ({os.environ['LIBRARY']})")
    print("  whoami()")
    for name, arguments in calls(folder):
        shown = {**arguments, **({"folder_path": "the files above"} if "folder_path" in arguments else {})}
        print(f"  {name}({', '.join(f'{key}={value!r}' for key, value in shown.items())})")
    print("  get_space_runtime, until it runs")
    print(f"\nthen {os.environ['CONNECTION_FILE']}, with the url that the Hub tells")
    print("".join(f"  {line}\n" for line in connection(expected_url()).splitlines()), end="")


def served(api: Any, deadline: float) -> str:
    """The Space's url, once it answers."""
    from huggingface_hub import constants
    from huggingface_hub._space_api import INTERMEDIATE_SPACE_STAGES

    page = f"{constants.ENDPOINT}/spaces/{REPO_ID}"
    said = None
    while True:
        runtime = api.get_space_runtime(REPO_ID)
        if runtime.stage != said:
            said = runtime.stage
            print(f"the Space is {said}", file=sys.stderr)
        if said == "RUNNING":
            url = (api.space_info(REPO_ID).host or expected_url()).rstrip("/")
            try:
                request = urllib.request.Request(f"{url}/health")
                if PRIVATE:
                    request.add_header("Authorization", f"Bearer {api.token or token_of_login()}")
                with urllib.request.urlopen(request, timeout=10) as reply:
                    if reply.status == 200:
                        return url
            except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
                # Running, but not yet behind the proxy; the deadline ends it.
                reason = error
            else:
                reason = f"status {reply.status}"
        elif said not in INTERMEDIATE_SPACE_STAGES:
            sys.exit(f"deploy.sh: the Space is {said} and won't serve; its log is on {page}")
        else:
            reason = f"it is {said}"
        if time.monotonic() > deadline:
            sys.exit(
                f"deploy.sh: the Space did not serve in time ({reason}); START_SECONDS_MAX gives it more, its log is on "
                f"{page}"
            )
        time.sleep(POLL_SECONDS)


def token_of_login() -> str | None:
    from huggingface_hub import get_token

    return get_token()


def deploy(folder: Path) -> None:
    from httpx2 import HTTPError
    from huggingface_hub import HfApi, SpaceHardware
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    flavours = [flavour.value for flavour in SpaceHardware]
    if HARDWARE and HARDWARE not in flavours:
        sys.exit(f"deploy.sh: --hardware {HARDWARE}: there is no such flavour; there are {', '.join(flavours)}")
    deadline = time.monotonic() + float(os.environ["START_SECONDS_MAX"])
    api = HfApi()
    step = "whoami"
    try:
        # A token that is wrong is told before anything is made.
        api.whoami()
        for name, arguments in calls(folder):
            step = name
            print(f"{name} ...", file=sys.stderr)
            getattr(api, name)(**arguments)
        step = "get_space_runtime"
        url = served(api, deadline)
    except LocalTokenNotFoundError:
        sys.exit(
            "deploy.sh: no token of the Hub: make one with write access on its settings page, then `hf auth login` or "
            "HF_TOKEN=..."
        )
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "no answer"
        hint = {
            401: "the token is not valid: `hf auth login`, or HF_TOKEN=...",
            403: f"the token may not do this to {REPO_ID}: it needs write access, and the owner must be you or an "
            "organisation of yours",
            402: "this hardware has to be paid for: set up billing, or leave --hardware out",
        }.get(status, "try again later")
        sys.exit(f"deploy.sh: {step}: the Hub answers {status} ({' '.join(str(error).split())[:300]}); {hint}")
    except (HTTPError, OSError) as error:
        sys.exit(f"deploy.sh: {step}: {error}; is the Hub reachable from here?")
    target = Path(os.environ["CONNECTION_FILE"])
    # In the same folder, so that the move is atomic.
    with tempfile.NamedTemporaryFile("w", dir=target.parent, delete=False) as file:
        file.write(connection(url))
    os.chmod(file.name, 0o644)
    os.replace(file.name, target)
    print(f"serving {url}; connection file: {target}")
    if PRIVATE:
        print("the Space is private: Muster's agents send no token and will be refused; make it public for a run")


if __name__ == "__main__":
    space = Path(sys.argv[1])
    if os.environ["DRY_RUN"] == "1":
        dry_run(space)
    else:
        deploy(space)
