#!/bin/sh
# Stands where Debian's package manager would be: /usr is this computer's and read-only, so a
# package is either there already or cannot come.
here=$(dirname "$(readlink -f "$0")")
command=''
wanted=''
patience=0
while [ $# -gt 0 ]; do
  case $1 in
    -o) case ${2-} in DPkg::Lock::Timeout=*) patience=${2#*=} ;; esac; shift ;;
    -t | -c | --option | --target-release) shift ;;
    -*) ;;
    *) if [ -z "$command" ]; then command=$1; else wanted="$wanted $1"; fi ;;
  esac
  shift
done

case $command in
  update) echo "vmctl emulator: the programs are those of this computer; nothing to update."; exit 0 ;;
  clean | autoclean) exit 0 ;;
  install)
    [ ! -d /var/lib/dpkg ] || [ -n "${VMCTL_PLAIN-}" ] ||
      /usr/bin/python3 -IS "$here/package_lock.py" await /var/lib/dpkg/lock-frontend "$patience" ||
      exit 100 ;;
  *)
    echo "E: vmctl emulator: a simulated machine cannot '$(basename "$0") $command':" \
      "its /usr is this computer's, read-only." >&2
    exit 100 ;;
esac

missing=''
for package in $wanted; do
  name=${package%%[=/]*}
  program=$name
  case $name in
    openssh-client) program=ssh ;;
    openssh-server) program=sshd ;;
    iproute2) program=ip ;;
    procps) program=ps ;;
    python3-pip) program=pip3 ;;
    build-essential) program=gcc ;;
  esac
  if [ -e "/usr/share/doc/$name" ] || PATH="$PATH:/usr/sbin:/sbin" command -v "$program" >/dev/null; then
    echo "$name is already the newest version (this computer's own)."
  else
    missing="$missing $name"
  fi
done
if [ -n "$missing" ]; then
  echo "E: vmctl emulator: cannot install$missing: a simulated machine has the programs of this" \
    "computer's /usr; install there (sudo apt-get install$missing) and start the machine again." >&2
  exit 100
fi
echo "0 upgraded, 0 newly installed, 0 to remove and 0 not upgraded."
