"""The only room that calls ssh, scp and rsync or imports fabric and paramiko."""
