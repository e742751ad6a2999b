#!/usr/bin/env bash
# Writes a connection file, by which a plan finds its server. See --help.
set -euo pipefail
# shellcheck source=deploy/common.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/common.sh"

usage() {
    cat <<'HELP'
Usage: write_connection.sh FILE [--marker TEXT] [--append FILE] KEY=VALUE...

Writes FILE in TOML, one line for each argument, in their order. A reader sees the old file or the whole new one, and every
user may read it. FILE must be in a folder that exists.

  KEY=VALUE      a number if VALUE is a whole number, else a text in quotes
  KEY[]=VALUE    a list of texts; several in a row with the same KEY make one list
  --marker TEXT  a comment
  --append FILE  the lines of another connection file
HELP
}

# Quotes a text for TOML.
quoted() {
    # Bytes, so that characters of several bytes pass as they are.
    local LC_ALL=C text=${1//\\/\\\\} plain='' code
    text=${text//\"/\\\"}
    while [[ $text =~ ^([^[:cntrl:]]*)([[:cntrl:]])(.*)$ ]]; do
        printf -v code '\\u%04X' "'${BASH_REMATCH[2]}"
        plain+=${BASH_REMATCH[1]}$code text=${BASH_REMATCH[3]}
    done
    printf '"%s"' "$plain$text"
}

list=
lines() {
    local key value
    while (($# > 0)); do
        key=${1%%=*} value=${1#*=}
        if [[ -n $list && $key != "${list}[]" ]]; then
            printf ']\n'
            list=
        fi
        case $1 in
            --marker)
                printf '# %s\n' "$2"
                shift
                ;;
            --append)
                cat "$2" || fail "the file --append $2 can't be read; give a file that exists"
                shift
                ;;
            *'[]='*)
                if [[ -n $list ]]; then printf ', '; else printf '%s = [' "${key%'[]'}"; fi
                list=${key%'[]'}
                quoted "$value"
                ;;
            *)
                if [[ ! $value =~ ^(0|[1-9][0-9]*)$ ]]; then value=$(quoted "$value"); fi
                printf '%s = %s\n' "$key" "$value"
                ;;
        esac
        shift
    done
    [[ -z $list ]] || printf ']\n'
}

[[ ${1-} != -h && ${1-} != --help ]] || { usage && exit 0; }
[[ -n ${1-} && $1 != -* ]] || usage_fault "'${1-}' is no file to write; give FILE first, see --help"
file=$1
shift
takes_value=
for argument; do
    if [[ -n $takes_value ]]; then
        takes_value=
    elif [[ $argument == --marker || $argument == --append ]]; then
        takes_value=$argument
    elif [[ ! $argument =~ ^[A-Za-z0-9][A-Za-z0-9_-]*(\[\])?= ]]; then
        usage_fault "'$argument' is no setting of a connection file; give KEY=VALUE, see --help"
    fi
done
[[ -z $takes_value ]] || usage_fault "$takes_value needs a value; see --help"
[[ ! -d $file ]] || fail "$file is a folder; give the name of a file"
folder=$(dirname "$file")
# In the same folder, so that the mv below is atomic.
temporary=$(mktemp -p "$folder") || fail "$file can't be written: its folder does not exist or denies it; name a file in another folder"
trap 'rm -f "$temporary"' EXIT
lines "$@" >"$temporary"
chmod 644 "$temporary"
mv "$temporary" "$file"
