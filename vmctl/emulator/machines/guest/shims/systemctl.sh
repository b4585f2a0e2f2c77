#!/bin/sh
# A simulated machine has no systemd; the most frequent questions get a true answer.
here=$0
case $here in /*) [ ! -L "$here" ] ;; *) false ;; esac || here=$(readlink -f "$here")
here=${here%/*}
name=${0##*/}
if [ "$name" = systemctl ]; then
  case "${1-} ${2-}" in
    "poweroff "* | "halt "* | "reboot "*) exec "$here/$1" ;;
    "is-system-running "*)
      if [ -e "$here/startup.state" ] || [ -e "$here/driver.state" ]; then
        echo starting
        exit 1
      fi
      echo running
      exit 0 ;;
    "is-active google-startup-scripts"*)
      if [ -e "$here/startup.state" ]; then echo activating; else echo inactive; fi
      exit 3 ;;
    "is-active ssh" | "is-active sshd" | "is-active ssh.service") echo active; exit 0 ;;
  esac
fi
echo "$name: vmctl emulator: a simulated machine is not booted with systemd." >&2
exit 1
