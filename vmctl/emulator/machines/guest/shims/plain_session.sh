#!/bin/sh
# What sshd starts on a machine without namespaces: the session begins in the machine's own home.
cd "$HOME" || exit 1
export VMCTL_PATH="${VMCTL_PYTHON:+$VMCTL_PYTHON/bin:}${PATH%%:*}"
case ${SSH_ORIGINAL_COMMAND-} in
  '') exec "$SHELL" -l ;;
  internal-sftp* | */sftp-server*)
    for server in /usr/lib/openssh/sftp-server /usr/libexec/openssh/sftp-server \
      /usr/lib/ssh/sftp-server /usr/libexec/sftp-server; do
      [ -x "$server" ] && exec "$server"
    done
    echo "no sftp-server on this computer" >&2
    exit 127 ;;
  *) exec "$SHELL" -c "$SSH_ORIGINAL_COMMAND" ;;
esac
