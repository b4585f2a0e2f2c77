# Lay out ~/.vmctl on the VM: sh -c THIS sh HASH [REQUEST] < library.tar.gz
# Installs what is missing of python3, rsync and tmux, unpacks the library once per content,
# and, when REQUEST is given, goes on with the verb "prepare".
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
if [ ! -d "$library" ]; then
    mkdir -p "$state/lib"
    part=$(mktemp -d "$state/lib/.part.XXXXXX")
    tar xzf - -C "$part"
    # somebody else may have been faster: theirs is the same
    mv -T "$part" "$library" 2>/dev/null || rm -rf "$part"
fi
if [ -n "${2:-}" ]; then
    printf '%s\n' "$2" | python3 -I "$library" prepare
fi
