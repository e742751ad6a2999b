# shellcheck shell=bash
# Functions that the scripts in deploy/ and scripts/ share. Sourced; it only defines names and prints nothing.

deploy=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck disable=SC2034 # for the scripts that source this file
repository=$(dirname "$deploy")
script_name=${script_name:-$(basename "$(readlink -m "$0")")}

note() { printf '%s: %s\n' "$script_name" "$*" >&2; }

fail() {
    note "$*"
    exit 1
}

# A usage error has the same exit code as in the programs.
usage_fault() {
    note "$*"
    exit 2
}

# For a script whose settings are environment variables: its only argument is --help.
only_help() { # ARGUMENTS
    case "${1-}" in
        '') ;;
        -h | --help)
            usage
            exit 0
            ;;
        *) fail "unknown argument '$1'; settings are environment variables, see --help" ;;
    esac
}

whole_number() { # NAME...: variables that must be whole numbers
    local name
    for name; do
        [[ ${!name} =~ ^[1-9][0-9]{0,6}$ ]] || fail "$name must be a positive whole number, not '${!name}'"
    done
}

folder_exists() { # NAME...: variables with files whose folders must exist
    local name
    for name; do
        [[ -d $(dirname "${!name}") ]] || fail "the folder of $name=${!name} does not exist"
    done
}

need() { # PROGRAM PACKAGES
    command -v "$1" >/dev/null || fail "$1 is not installed (Debian, Ubuntu: apt-get install $2)"
}

need_docker() {
    need docker docker.io
    docker version --format '{{.Server.Version}}' >/dev/null 2>&1 ||
        fail "the Docker engine does not answer: $(docker version 2>&1 >/dev/null | tail -n 1)"
}

# Runs a command when the script ends, also by a signal.
at_exit() { # COMMAND
    # shellcheck disable=SC2064 # the command itself expands when the trap runs
    trap "$1" EXIT
    trap 'exit 143' TERM HUP
    trap 'exit 130' INT
}

child=
# Runs a command in the background, because a trap does not run while a foreground command does.
attend() { # COMMAND...
    local ended=0
    "$@" &
    child=$!
    wait "$child" || ended=$?
    child=
    return "$ended"
}

# Ends what `attend`, or the script itself, has started as $child.
end_child() {
    [[ -n $child ]] || return 0
    kill "$child" 2>/dev/null || true
    wait "$child" 2>/dev/null || true
    child=
}

# Whether a process still runs. A zombie does not.
running() { # PID
    [[ $(sed 's/.*) //' "/proc/$1/stat" 2>/dev/null) == [^Z]* ]]
}

# Sends SIGTERM, and waits until the process has ended or the time is over.
terminate() { # PID SECONDS
    local tenths
    kill -TERM "$1" 2>/dev/null || true
    for ((tenths = 0; tenths < $2 * 10; tenths++)); do
        running "$1" || break
        sleep 0.1
    done
}

# Fails with the end of a server's log.
fail_with_log() { # LOG MESSAGE
    note "$2"
    if [[ -s $1 ]]; then
        printf 'The end of its log:\n' >&2
        tail -n 20 "$1" >&2
    else
        printf 'Its log is empty; LOG_LEVEL=info says more.\n' >&2
    fi
    exit 1
}

# Writes $CONNECTION_FILE with a first line that names this process.
write_own_connection() { # KEY=VALUE...
    "$deploy/write_connection.sh" "$CONNECTION_FILE" --marker "$script_name, pid $$" "$@"
}

# Removes $CONNECTION_FILE, unless another server has written the same file in the meantime.
remove_own_connection() {
    if [[ $(head -n 1 "$CONNECTION_FILE" 2>/dev/null) == "# $script_name, pid $$" ]]; then
        rm -f "$CONNECTION_FILE"
    fi
}

# Installs a requirements.txt into $VENV, unless the stamp shows that exactly these packages are installed.
install_packages() { # REQUIREMENTS
    local stamp=$VENV/.requirements.sha256 wanted
    if [[ ! -x $VENV/bin/python ]]; then
        python3 -c 'import ensurepip, venv' 2>/dev/null ||
            fail "python3 has no venv module (Debian, Ubuntu: apt-get install python3-venv)"
        if [[ -d $VENV && ! -e $VENV/pyvenv.cfg && -n $(ls -A --ignore=.lock "$VENV") ]]; then
            fail "VENV=$VENV is a folder with something else in it"
        fi
    fi
    wanted=$(sha256sum "$1" | cut -d ' ' -f 1)
    # If that is done, write nothing and lock nothing.
    [[ $(cat "$stamp" 2>/dev/null) != "$wanted" ]] || return 0
    mkdir -p "$VENV" || fail "the folder VENV=$VENV can't be made; VENV=FOLDER names another"
    # If two scripts start at once, the second waits here and then finds the work done.
    exec 9>"$VENV/.lock"
    flock 9 || fail "$VENV/.lock can't be locked: some network file systems have no locks; VENV=FOLDER on another one"
    if [[ $(cat "$stamp" 2>/dev/null) != "$wanted" ]]; then
        note "installing the Python packages into $VENV"
        rm -f "$stamp"
        python3 -m venv "$VENV" || fail "cannot make the virtual environment $VENV"
        "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check -r "$1" ||
            fail "cannot install the Python packages of $1"
        printf '%s\n' "$wanted" >"$stamp"
    fi
    exec 9>&-
}
