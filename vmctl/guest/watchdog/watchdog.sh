#!/bin/sh
# Made by vmctl: the watchdog, which stops this VM when nobody uses it. Runs at every boot.
# A machine that shares its processes with others cannot tell what is its own.
[ "${VMCTL_INIT:-1}" = 1 ] || { echo "vmctl watchdog: none on a machine without namespaces"; exit 0; }
command -v python3 >/dev/null || { echo "vmctl watchdog: there is no python3"; exit 0; }
set -eu
umask 022
place=/var/lib/vmctl-watchdog
mkdir -p "$place"
base64 -d >"$place/.new" <<'END'
@ARCHIVE@
END
mv "$place/.new" "$place/watchdog.pyz"
if [ -d /run/systemd/system ]; then
    cat >/etc/systemd/system/vmctl-watchdog.service <<END
[Unit]
Description=Stops this VM when nobody uses it (vmctl)
[Service]
ExecStart=/usr/bin/env python3 -IS $place/watchdog.pyz
Restart=always
RestartSec=10
[Install]
WantedBy=multi-user.target
END
    systemctl daemon-reload
    systemctl enable vmctl-watchdog.service
    systemctl --no-block restart vmctl-watchdog.service
else
    setsid python3 -IS "$place/watchdog.pyz" </dev/null >>"$place/log" 2>&1 &
fi
echo "vmctl watchdog: started"
