#!/bin/sh
# There is no systemd in a simulated machine; what it is asked most often has an honest answer.
here=$(dirname "$(readlink -f "$0")")
if [ "$(basename "$0")" = systemctl ]; then
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
echo "$(basename "$0"): vmctl emulator: a simulated machine is not booted with systemd." >&2
exit 1
