#!/bin/sh
# A simulated machine has one real uid. Its root is a user namespace: uid 0 is shown and obeyed
# inside it, and the files it makes stay the login user's own.
here=$0
case $here in /*) [ ! -L "$here" ] ;; *) false ;; esac || here=$(readlink -f "$here")
here=${here%/*}
uid=$(id -u) user=root keep='' login='' shell='' background=''

usage() { echo "usage: sudo [-nEHisb] [-u user] [VAR=value] command ..." >&2; exit 1; }

while [ $# -gt 0 ]; do
  case $1 in
    --) shift; break ;;
    --user) user=${2-}; shift ;;
    --user=*) user=${1#*=} ;;
    --group | --prompt | --chdir | --host) shift ;;
    --preserve-env | --preserve-env=*) keep=1 ;;
    --login) login=1 ;;
    --shell) shell=1 ;;
    --background) background=1 ;;
    --validate | --remove-timestamp | --reset-timestamp) exit 0 ;;
    --version) echo "sudo of vmctl's emulator"; exit 0 ;;
    --*) ;;
    -?*)
      flags=${1#-}
      while [ -n "$flags" ]; do
        rest=${flags#?}
        flag=${flags%"$rest"}
        flags=$rest
        case $flag in
          u | g | p | C | D | h | r | t | T | U | R)
            if [ -z "$rest" ]; then [ $# -ge 2 ] || usage; rest=$2; shift; fi
            [ "$flag" = u ] && user=$rest
            flags='' ;;
          E) keep=1 ;;
          i) login=1 ;;
          s) shell=1 ;;
          b) background=1 ;;
          v | k | K) [ $# -gt 1 ] || exit 0 ;;
          V) echo "sudo of vmctl's emulator"; exit 0 ;;
          l) echo "User $(id -un) may run the following commands: (ALL : ALL) NOPASSWD: ALL"; exit 0 ;;
          n | H | A | S | P | B) ;;
          *) usage ;;
        esac
      done ;;
    *) break ;;
  esac
  shift
done

entry=$(getent passwd "$user") || { echo "sudo: unknown user $user" >&2; exit 1; }
IFS=: read -r _ _ _ _ _ home command_shell <<END
$entry
END
path="$here:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# VAR=value arguments come after everything else that is set.
count=$#
index=0
settings=0
for argument in "$@"; do
  index=$((index + 1))
  case $argument in
    [A-Za-z_]*=*) settings=$index ;;
    *) break ;;
  esac
done
if [ "$count" -eq "$settings" ]; then
  [ -n "$login$shell" ] || usage
  set -- "$@" "$command_shell"
elif [ -n "$login$shell" ] && [ "$settings" -eq 0 ]; then
  set -- "$command_shell" -c "$*"
fi
[ -n "$login" ] && cd "$home"

set -- USER="$user" LOGNAME="$user" PATH="$path" SHELL="$command_shell" \
  SUDO_USER="${USER-$(id -un)}" SUDO_UID="$uid" SUDO_GID="$(id -g)" "$@"
if [ -n "$keep" ]; then
  set -- env "$@"
else
  for name in VMCTL_PATH VMCTL_INIT TMUX_TMPDIR TMPDIR LC_ALL LANG TERM; do
    eval "value=\${$name-}"
    [ -n "$value" ] && set -- "$name=$value" "$@"
  done
  set -- env -i HOME="$home" "$@"
fi
if [ "$user" = root ] && [ "$uid" != 0 ] && unshare -r -- true 2>/dev/null; then
  set -- unshare -r -- "$@"
fi
if [ -n "$background" ]; then
  "$@" &
  exit 0
fi
exec "$@"
