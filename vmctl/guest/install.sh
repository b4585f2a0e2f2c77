# Lay out ~/.vmctl on the VM: sh -c THIS sh HASH INSTALLER [REQUEST] < library.tar.gz
# Installs what is missing of python3, rsync and tmux, unpacks the library where it is missing or
# not whole (INSTALLER, a Python program, tells and gives it its place), and, when REQUEST is given,
# goes on with "prepare" in the same program.
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
name=$1 installer=$2 request=${3:-}
# with the action's words, and the verb where there is a request
run() {
    if [ -n "$request" ]; then
        printf '%s\n' "$request" | python3 -ISB -c "$installer" "$@" prepare
    else
        python3 -ISB -c "$installer" "$@" </dev/null
    fi
}
code=93
[ ! -d "$library" ] || { code=0; run check "$library" "$name" || code=$?; }
# a program that ended without a word of its own is not whole either
[ $code -eq 93 ] || [ $code -eq 1 ] || [ $code -gt 128 ] || exit $code
mkdir -p "$state/lib" || exit 95
# of installations that were killed
find "$state/lib" -maxdepth 1 -name '.part.*' -mmin +60 -exec rm -rf {} +
part=$(mktemp -d "$state/lib/.part.XXXXXX") || exit 95
trap 'rm -rf "$part" "$part.old"' EXIT
tar xzf - -C "$part" || exit 95
run place "$library" "$name" "$part"
[ -n "$request" ] || echo installed
