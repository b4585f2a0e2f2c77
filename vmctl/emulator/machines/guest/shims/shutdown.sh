#!/bin/sh
# shutdown, poweroff, halt and reboot: the power button of a simulated machine is a signal to its
# first process.
init=${VMCTL_INIT:-1}
me=$(basename "$0")
signal=PWR when=''
[ "$me" = reboot ] && signal=INT
[ "$me" = shutdown ] || when=now

for argument in "$@"; do
  case $argument in
    -r | --reboot) signal=INT ;;
    -c) when=cancel ;;
    --help) echo "usage: $me [-h|-P|-r|-c] [now|+MINUTES|HH:MM]"; exit 0 ;;
    -*) ;;
    *) [ -n "$when" ] || when=$argument ;;
  esac
done

if [ "$init" = 1 ] && [ "$(id -u)" != 0 ]; then
  echo "$me: must be root: sudo $me" >&2
  exit 1
fi
pending=${TMPDIR:-/tmp}/.shutdown-pending
case ${when:-+1} in
  now | +0) kill -s "$signal" "$init"; exit ;;
  cancel)
    if [ -f "$pending" ]; then kill "$(cat "$pending")"; rm -f "$pending"; fi
    exit 0 ;;
  *:*)
    seconds=$(($(date -d "$when" +%s) - $(date +%s)))
    [ "$seconds" -ge 0 ] || seconds=$((seconds + 86400)) ;;
  *)
    minutes=${when:-+1}
    minutes=${minutes#+}
    case $minutes in '' | *[!0-9]*) echo "shutdown: failed to parse time: $when" >&2; exit 1 ;; esac
    seconds=$((minutes * 60)) ;;
esac
setsid sh -c 'sleep "$1"; rm -f "$4"; kill -s "$2" "$3"' sh "$seconds" "$signal" "$init" "$pending" \
  </dev/null >/dev/null 2>&1 &
echo $! >"$pending"
echo "Shutdown scheduled in $seconds s, use 'shutdown -c' to cancel." >&2
