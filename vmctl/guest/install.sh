# Lay out ~/.vmctl on the VM: sh -c THIS sh HASH VERIFY [REQUEST] < library.tar.gz
# Installs what is missing of python3, rsync and tmux, unpacks the library where it is missing or
# not whole (VERIFY, a Python program, tells), and, when REQUEST is given, goes on with "prepare".
# Without REQUEST it says "installed" where it has put the library there.
set -eu
umask 077
state=$HOME/.vmctl
library=$state/lib/$1
missing=
for tool in python3 rsync tmux; do
    command -v "$tool" >/dev/null 2>&1 || missing="$missing $tool"
done
if [ -n "$missing" ]; then
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
fi
name=$1 verify=$2
is_whole() {
    [ -d "$1" ] && python3 -IB -c "$verify" "$1" "$name" </dev/null >/dev/null 2>&1
}
if ! is_whole "$library"; then
    mkdir -p "$state/lib" || exit 95
    # of installations that were killed
    find "$state/lib" -maxdepth 1 -name '.part.*' -mmin +60 -exec rm -rf {} +
    part=$(mktemp -d "$state/lib/.part.XXXXXX") || exit 95
    trap 'rm -rf "$part" "$part.old"' EXIT
    tar xzf - -C "$part" || exit 95
    # compiled now or never: what runs later writes nothing beside its code, on a full disk either
    python3 -IB -m compileall -q "$part" </dev/null >/dev/null 2>&1 || true
    is_whole "$part" || rm -rf "$part/__pycache__" "$part/vmctl_guest/__pycache__"
    is_whole "$part" || { echo "vmctl's helpers did not arrive whole" >&2; exit 95; }
    if [ -e "$library" ]; then
        mv -T "$library" "$part.old" 2>/dev/null || true
    fi
    # somebody else may have been faster: theirs is the same
    mv -T "$part" "$library" 2>/dev/null || is_whole "$library" || exit 95
    [ -n "${3:-}" ] || echo installed
fi
if [ -n "${3:-}" ]; then
    printf '%s\n' "$3" | python3 -IB "$library" prepare
fi
