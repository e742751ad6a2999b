"""The calls that deploy.sh makes to the Hub. A dry run prints them, a real run makes them.

deploy.sh passes checked values: the folder to upload as the argument, everything else as environment variables. A dry run
imports only the standard library.
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

# The current call, for the message if it fails.
step = "whoami"

# A README.md with this line belongs to a Space of an earlier deployment.
MARK = "<!-- muster:openenv-benchmark "
# The files that the Hub puts into a new Space, and the only text of its README.
FIRST_FILES = {".gitattributes", "README.md"}
FIRST_TEXT = "huggingface.co/docs/hub/spaces-config-reference"
OVERWRITE = os.environ["OVERWRITE"] == "1"

Call = tuple[str, dict[str, Any]]
OF_SPACE = {"repo_id": REPO_ID, "repo_type": "space"}
LOOK: Call = ("space_info", {"repo_id": REPO_ID})
# Not with exist_ok, which would accept any existing Space, even a public one or one that the token can't see.
MAKE: Call = ("create_repo", {**OF_SPACE, "space_sdk": "docker", "private": PRIVATE})
HIDE: Call = ("update_repo_settings", {**OF_SPACE, "private": True})


def readme(folder: Path | str) -> Call:
    return "hf_hub_download", {**OF_SPACE, "filename": "README.md", "local_dir": str(folder)}


def calls(folder: Path) -> list[Call]:
    """The calls to an existing Space, in order. Variables come before the files, because changing them restarts the Space."""
    of_space = {"repo_id": REPO_ID}
    made: list[Call] = []
    for key, value in VARIABLES.items():
        made.append(("add_space_variable", {**of_space, "key": key, "value": value}))
    if HARDWARE:
        # Not in create_repo, which is not called for an existing Space.
        made.append(("request_space_hardware", {**of_space, "hardware": HARDWARE}))
    made.append(
        (
            "upload_folder",
            {
                **OF_SPACE,
                "folder_path": str(folder),
                "delete_patterns": "*",
                "commit_message": "Deploy the OpenEnv benchmark environment",
            },
        )
    )
    return made


def expected_url() -> str:
    """The url that the Hub gives a Space, unless it reports another one."""
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


def shown(call: Call) -> str:
    name, arguments = call
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"


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
    print(f"  {shown(LOOK)}")
    print("  if there is such a Space")
    if OVERWRITE:
        print("    nothing is looked at: --overwrite replaces whatever it holds")
    else:
        print(f"    {shown(readme('a folder that is thrown away'))}")
        print("    it must be an earlier deployment's, or what the Hub puts into an empty Space; else nothing more is asked")
    if PRIVATE:
        print(f"    {shown(HIDE)}")
    print("  if there is none")
    print(f"    {shown(MAKE)}")
    if PRIVATE:
        print(f"  {shown(LOOK)}, which must say that it is private")
    for call in calls(Path("the files above")):
        print(f"  {shown(call)}")
    print("  get_space_runtime, until it runs")
    print(f"\nthen {os.environ['CONNECTION_FILE']}, with the url that the Hub tells")
    print("".join(f"  {line}\n" for line in connection(expected_url()).splitlines()), end="")


def visibility(info: Any) -> str:
    """The visibility that the Hub reports. A protected Space hides only its code."""
    plain = {True: "private", False: "public"}.get(info.private, "of unknown visibility")
    return getattr(info, "visibility", None) or plain


def ours(api: Any, files: set[str]) -> bool:
    """Whether the Space is an earlier deployment, or contains nothing that a user has put there."""
    if "README.md" not in files:
        return files <= FIRST_FILES
    with tempfile.TemporaryDirectory() as folder:
        text = Path(ask(api, readme(folder))).read_text(encoding="utf-8", errors="replace")
    if any(line.startswith(MARK) for line in text.splitlines()):
        return True
    # It must be possible to repeat a deployment that ended between the creation of the Space and the upload.
    body = re.sub(r"\A---\n.*?^---$", "", text, flags=re.DOTALL | re.MULTILINE).split("\n")
    said = [line for line in body if line.strip()]
    return files <= FIRST_FILES and (not said or (len(said) == 1 and FIRST_TEXT in said[0]))


def make_room(api: Any) -> None:
    """Makes sure that the Space exists, may be overwritten, and is private if it must be; otherwise exits."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        info = ask(api, LOOK)
    except RepositoryNotFoundError:
        ask(api, MAKE)
    else:
        if not OVERWRITE and not ours(api, {file.rfilename for file in info.siblings or []}):
            sys.exit(
                f"deploy.sh: the Space {REPO_ID} exists, and its README.md is not that of an earlier deployment; its files "
                "would be deleted. Nothing has been changed: give another --repo-id, or --overwrite to replace what it holds"
            )
        if PRIVATE:
            ask(api, HIDE)
        elif visibility(info) == "private":
            print(f"the Space {REPO_ID} is private and stays so: nothing is made public here", file=sys.stderr)
    if PRIVATE and (said := visibility(ask(api, LOOK))) != "private":
        sys.exit(
            f"deploy.sh: --private: the Hub says that {REPO_ID} is {said} all the same, and no file has been pushed; make it "
            "private on its settings page, then start this again"
        )


def ask(api: Any, call: Call) -> Any:
    global step
    step, arguments = call
    print(f"{step} ...", file=sys.stderr)
    return getattr(api, step)(**arguments)


def served(api: Any, deadline: float) -> tuple[str, str]:
    """The Space's url, once it answers, and its visibility."""
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
            info = api.space_info(REPO_ID)
            url = (info.host or expected_url()).rstrip("/")
            try:
                request = urllib.request.Request(f"{url}/health")
                if visibility(info) == "private":
                    request.add_header("Authorization", f"Bearer {api.token or token_of_login()}")
                with urllib.request.urlopen(request, timeout=10) as reply:
                    if reply.status == 200:
                        return url, visibility(info)
            except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
                # The Space runs, but the proxy does not reach it yet; the deadline ends this wait.
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
    global step
    from httpx2 import HTTPError
    from huggingface_hub import HfApi, SpaceHardware
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    flavours = [flavour.value for flavour in SpaceHardware]
    if HARDWARE and HARDWARE not in flavours:
        sys.exit(f"deploy.sh: --hardware {HARDWARE}: there is no such flavour; there are {', '.join(flavours)}")
    deadline = time.monotonic() + float(os.environ["START_SECONDS_MAX"])
    api = HfApi()
    try:
        # Report a wrong token before anything is created.
        api.whoami()
        make_room(api)
        for call in calls(folder):
            ask(api, call)
        step = "get_space_runtime"
        url, said = served(api, deadline)
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
            409: f"there is a Space {REPO_ID} that this token may not see: a token of its owner, or another --repo-id",
            402: "this has to be paid for: set up billing; "
            + ("Docker Spaces need a paid plan" if step == "create_repo" else "or leave --hardware out"),
        }.get(status, "try again later")
        sys.exit(f"deploy.sh: {step}: the Hub answers {status} ({' '.join(str(error).split())[:300]}); {hint}")
    except (HTTPError, OSError) as error:
        sys.exit(f"deploy.sh: {step}: {error}; is the Hub reachable from here?")
    target = Path(os.environ["CONNECTION_FILE"])
    # In the same folder, so that the rename is atomic.
    with tempfile.NamedTemporaryFile("w", dir=target.parent, delete=False) as file:
        file.write(connection(url))
    os.chmod(file.name, 0o644)
    os.replace(file.name, target)
    print(f"serving {url}; the Hub says that the Space is {said}; connection file: {target}")
    if said == "private":
        print("Muster's agents send no token and a private Space refuses them; for a run, make it public on its settings page")


if __name__ == "__main__":
    space = Path(sys.argv[1])
    if os.environ["DRY_RUN"] == "1":
        dry_run(space)
    else:
        deploy(space)
