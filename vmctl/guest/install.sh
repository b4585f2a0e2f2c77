# Lay out ~/.vmctl there: sh -c THIS sh HASH INSTALLER REQUEST [PYTHON MODULES] < library.tar.gz
# On a VM installs what is missing of python3, rsync and tmux. On a server (PYTHON is given, perhaps
# empty) nothing is installed: a Python from 3.9 on is looked for, and ~/.vmctl/python leads to it.
# Then unpacks the library where it is missing or not whole (INSTALLER, a Python program, tells and
# gives it its place), and, when REQUEST is not empty, goes on with "prepare" in the same program.
# Without REQUEST it says "installed" where it has put the library there.
set -eu
umask 077
state=$HOME/.vmctl
library=$state/lib/$1
install_missing() {
    missing=
    for tool in python3 rsync tmux; do
        command -v "$tool" >/dev/null 2>&1 || missing="$missing $tool"
    done
    [ -n "$missing" ] || return 0
    log=$(mktemp)
    # dpkg may be busy for minutes on a new machine, with a driver too: wait rather than fail
    install() {
        sudo -n env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=900 -q "$@" \
            </dev/null >>"$log" 2>&1
    }
    # shellcheck disable=SC2086  # one word per package
    if ! install install -y --no-install-recommends $missing &&
        ! { install update && install install -y --no-install-recommends $missing; }; then
        echo "cannot install$missing: $(tail -n 3 "$log" | tr '\n' ' ')" >&2
        rm -f "$log"
        exit 95
    fi
    rm -f "$log"
}
is_new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 9))' >/dev/null 2>&1
}
# its path, on standard output; modules may bring libraries along that only they make findable
find_python() {
    for word in python3 python3.14 python3.13 python3.12 python3.11 python3.10 python3.9 "$1"; do
        case $word in "~/"*) word=$HOME/${word#"~/"} ;; esac
        [ -n "$word" ] && found=$(command -v "$word") && is_new_enough "$found" || continue
        printf '%s\n' "$found"
        return 0
    done
    [ -n "$2" ] || return 1
    # shellcheck disable=SC2016  # for the shell that has `module`
    found=$(bash -lc 'module load $1 >/dev/null 2>&1; printf "@@%s\n@@%s\n" \
        "$(type -P python3)" "${LD_LIBRARY_PATH-}"' bash "$2" </dev/null 2>/dev/null |
        sed -n 's/^@@//p')
    python=$(printf '%s\n' "$found" | sed -n 1p)
    LD_LIBRARY_PATH=$(printf '%s\n' "$found" | sed -n 2p)
    export LD_LIBRARY_PATH
    [ -n "$python" ] && is_new_enough "$python" || return 1
    wrapper=$state/python-with-modules
    printf '#!/bin/sh\nLD_LIBRARY_PATH=%s; export LD_LIBRARY_PATH; exec %s "$@"\n' \
        "$(quoted "$LD_LIBRARY_PATH")" "$(quoted "$python")" >"$wrapper"
    chmod 700 "$wrapper"
    printf '%s\n' "$wrapper"
}
quoted() {
    printf "'%s'" "$(printf '%s' "$1" | sed "s/'/'\\\\''/g")"
}
mkdir -p "$state/lib" || exit 95
python=python3
if [ $# -ge 5 ]; then
    if ! python=$(find_python "$4" "$5"); then
        echo "there is no Python 3.9 or newer on this server" >&2
        exit 95
    fi
    ln -sfn "$python" "$state/python" || exit 95
else
    install_missing
fi
name=$1 installer=$2 request=$3
# with the action's words, and the verb where there is a request
run() {
    if [ -n "$request" ]; then
        printf '%s\n' "$request" | "$python" -ISB -c "$installer" "$@" prepare
    else
        "$python" -ISB -c "$installer" "$@" </dev/null
    fi
}
code=93
[ ! -d "$library" ] || { code=0; run check "$library" "$name" || code=$?; }
# a program that ended without a word of its own is not whole either
[ $code -eq 93 ] || [ $code -eq 1 ] || [ $code -gt 128 ] || exit $code
# of installations that were killed
find "$state/lib" -maxdepth 1 -name '.part.*' -mmin +60 -exec rm -rf {} +
part=$(mktemp -d "$state/lib/.part.XXXXXX") || exit 95
trap 'rm -rf "$part" "$part.old"' EXIT
tar xzf - -C "$part" || exit 95
run place "$library" "$name" "$part"
[ -n "$request" ] || echo installed
