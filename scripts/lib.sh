# What the scripts share: install what is missing, make .venv, clean up. Sourced, not run.
# A script that sources this file answers --help with its own first comment, before anything else.
# shellcheck shell=bash

case " $* " in *" --help "* | *" -h "*)
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "${BASH_SOURCE[1]}"
  exit ;;
esac

set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

# Run a command as root: directly, or through sudo.
as_root() {
  if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n "$@"; fi
}

# need_programs PROGRAM=PACKAGE…: install the Debian packages whose programs are missing.
need_programs() {
  local pair missing=()
  for pair in "$@"; do
    PATH="$PATH:/usr/sbin:/sbin" command -v "${pair%%=*}" >/dev/null || missing+=("${pair##*=}")
  done
  [ ${#missing[@]} -eq 0 ] && return 0
  say "Installing ${missing[*]}"
  command -v apt-get >/dev/null ||
    fail "these programs are missing and there is no apt-get to install them: ${missing[*]}"
  as_root true 2>/dev/null ||
    fail "root is needed once: sudo apt-get install --no-install-recommends ${missing[*]}"
  # Debian starts a public sshd when openssh-server is installed: policy-rc.d forbids that
  # while we install, and nothing of it stays behind.
  local policy=/usr/sbin/policy-rc.d made_policy=
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
    as_root chmod 755 "$policy"
    made_policy=1
  fi
  local code=0 log
  log="$(mktemp)"
  {
    as_root apt-get -o DPkg::Lock::Timeout=120 -qq update &&
      as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -qq -y \
        install --no-install-recommends "${missing[@]}"
  } >"$log" 2>&1 || code=$?
  [ -z "$made_policy" ] || as_root rm -f "$policy"
  [ "$code" -eq 0 ] || { tail -5 "$log" >&2; fail "apt-get failed"; }
  rm -f "$log"
}

# The machines of the emulator, and the tools that vmctl drives.
need_machine_programs() {
  need_programs bwrap=bubblewrap slirp4netns=slirp4netns sshd=openssh-server ssh=openssh-client \
    rsync=rsync tmux=tmux ip=iproute2 curl=curl
  /usr/bin/python3 -c 'import ensurepip, venv' 2>/dev/null || need_programs no-such-program=python3-venv
}

# A Python of 3.11 or later that can make virtual environments.
find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3.13 python3.12 python3.11 python3 /usr/bin/python3; do
    [ -n "$candidate" ] && command -v "$candidate" >/dev/null || continue
    "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
      2>/dev/null && { command -v "$candidate"; return; }
  done
  fail "Python 3.11 or later with venv is needed (Debian: apt-get install python3 python3-venv)"
}

# .venv with vmctl and the named extra, made or brought up to date; a no-op when nothing changed.
need_venv() {
  local extra="$1" stamp=.venv/.vmctl-stamp want
  want="$(cksum pyproject.toml) $root $extra"
  if [ -x .venv/bin/vmctl ] && grep -qxF "$want" "$stamp" 2>/dev/null; then return; fi
  say "Making .venv"
  local python
  python="$(find_python)"
  [ -x .venv/bin/python ] && .venv/bin/python -c '' 2>/dev/null || { rm -rf .venv; "$python" -m venv .venv; }
  local log
  log="$(mktemp)"
  .venv/bin/python -m pip --disable-pip-version-check install -q -e ".$extra" >"$log" 2>&1 ||
    { grep -v '^WARNING: ' "$log" | tail -5 >&2; rm -f "$log"; fail "pip could not fill .venv"; }
  rm -f "$log"
  # an environment made for the tests serves the demo, too
  { [ "$extra" = "[dev]" ] && printf '%s\n' "$(cksum pyproject.toml) $root "; printf '%s\n' "$want"; } >"$stamp"
}

# .venv-bench with the wheel of this tree and what it needs, all compiled, whatever the environment
# says of that: where Python writes no bytecode, an editable install compiles itself at each start.
need_wheel_venv() {
  local stamp=.venv-bench/.vmctl-stamp want log python
  unset PYTHONDONTWRITEBYTECODE PYTHONPYCACHEPREFIX PYTHONPATH
  want="$({ cksum pyproject.toml; find vmctl -type f ! -name '*.pyc' | sort | xargs cksum; } | cksum) $root"
  if [ -x .venv-bench/bin/vmctl ] && grep -qxF "$want" "$stamp" 2>/dev/null; then return; fi
  say "Installing the wheel into .venv-bench"
  log="$(mktemp)"
  if ! .venv-bench/bin/python -c '' 2>/dev/null; then
    rm -rf .venv-bench
    python="$(find_python)"
    "$python" -m venv .venv-bench
  fi
  local wheels pip=".venv-bench/bin/python -m pip --disable-pip-version-check"
  wheels="$(mktemp -d)"
  rm -rf build
  { $pip wheel -q --no-deps -w "$wheels" . && $pip install -q "$wheels"/*.whl &&
    $pip install -q --force-reinstall --no-deps "$wheels"/*.whl &&
    .venv-bench/bin/python -m compileall -q .venv-bench/lib/python3*/site-packages; } >"$log" 2>&1 ||
    { grep -v '^WARNING: ' "$log" | tail -5 >&2; rm -rf "$log" "$wheels" build; fail "pip could not fill .venv-bench"; }
  rm -rf "$log" "$wheels" build
  echo "$want" >"$stamp"
}

# need_workload_python IMAGE: .venv-workload, a thin environment that sees the image's torch.
# Made with the Python that the image was built with; only pytest is installed into it.
need_workload_python() {
  local image="$1" want site
  want="$image"
  if [ -x .venv-workload/bin/pytest ] && grep -qxF "$want" .venv-workload/.vmctl-stamp 2>/dev/null; then
    return
  fi
  say "Making .venv-workload (the image's torch, and pytest)"
  rm -rf .venv-workload
  /usr/bin/python3 -m venv .venv-workload
  site="$(echo "$image"/lib/python3*/site-packages)"
  echo "$site" >"$(echo .venv-workload/lib/python3*/site-packages)/image.pth"
  .venv-workload/bin/python -m pip --disable-pip-version-check install -q "pytest>=8.3,<10" ||
    fail "pip could not install pytest into .venv-workload"
  echo "$want" >.venv-workload/.vmctl-stamp
}

# .venv-clients: clients of Compute Engine that others wrote, for tests/clients, and pytest. Which
# versions is said here and nowhere else. Of Ansible's collections only Google's is unpacked.
need_clients_venv() {
  local python=(google-cloud-compute==1.57.0 google-cloud-storage==3.17.1 apache-libcloud==3.9.1 ansible-core==2.19.14)
  local collections=ansible==12.3.0 node=@google-cloud/compute@7.8.0
  local want log wheels pip=".venv-clients/bin/python -m pip --disable-pip-version-check"
  want="${python[*]} $collections $node $(cksum pyproject.toml) $root"
  if grep -qxF "$want" .venv-clients/.vmctl-stamp 2>/dev/null; then return; fi
  need_programs node=nodejs npm=npm
  say "Making .venv-clients (clients of Google's for Python, Ansible and node)"
  rm -rf .venv-clients
  "$(find_python)" -m venv .venv-clients
  log="$(mktemp)" wheels="$(mktemp -d)"
  { $pip install -q -e . "pytest>=8.3,<10" "pytest-timeout>=2.3,<3" "${python[@]}" &&
    $pip download -q --no-deps -d "$wheels" "$collections" &&
    (cd "$(echo .venv-clients/lib/python3*/site-packages)" && "$root/.venv-clients/bin/python" -c '
import sys, zipfile
wheel = zipfile.ZipFile(sys.argv[1])
wheel.extractall(members=[n for n in wheel.namelist() if n.startswith("ansible_collections/google/")])
' "$wheels"/*.whl) &&
    npm install --no-audit --no-fund --prefix .venv-clients/node "$node"; } >"$log" 2>&1 ||
    { tail -5 "$log" >&2; rm -rf "$log" "$wheels"; fail "the clients could not be installed"; }
  rm -rf "$log" "$wheels"
  echo "$want" >.venv-clients/.vmctl-stamp
}
