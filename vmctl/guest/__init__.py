"""What runs on the VM: sh and stdlib-only Python for 3.10 and later, shipped as package data.

Each verb of main.py is one program run. Its request is one line of JSON on standard input, its
answer one line of JSON on standard output; a refusal is `{"error": {...}}` with exit code 96.
"""
