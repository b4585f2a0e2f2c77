"""What looks like a secret, and what does not."""

from __future__ import annotations

import pytest
from pathspec import GitIgnoreSpec

from vmctl.domain.sync.secret_detection import (
    HEAD_BYTES,
    exclude_line,
    is_secret_head,
    is_secret_path,
    is_secret_variable,
    may_begin_like_one,
)

SECRET = [
    ".env", "deep/.env", ".env.local", ".env.production", "prod.env", ".envrc", ".netrc", ".pypirc",
    "id_rsa", "keys/id_ed25519", ".ssh/deploy", "home/.ssh/work", ".aws/credentials", "x.ppk",
    "cert.p12", "a/.kube/config", ".docker/config.json", ".git-credentials", ".gnupg/secring.gpg",
    ".config/gcloud/credentials.db", "application_default_credentials.json", "kaggle.json",
    ".azure/accessTokens.json", "google_compute_engine", "terraform.tfstate",
]  # fmt: skip
HARMLESS = [
    "train.py", ".env.example", ".env.sample", "env/x", "id_rsa.pub", ".ssh/known_hosts",
    ".ssh/config", ".ssh/work.pub", "config.json", "docker/config.json", "aws/credentials.md",
    ".gitignore", ".github/workflows/ci.yml", "tokens.txt", "tokenizer.json", "kube/config",
    "environment.yml", "data/keys.csv", ".vscode/settings.json", "config", "x.gcloud/config.py",
]  # fmt: skip


@pytest.mark.parametrize("path", SECRET)
def test_a_well_known_name_says_so(path: str) -> None:
    assert is_secret_path(path)


@pytest.mark.parametrize("path", HARMLESS)
def test_other_names_do_not(path: str) -> None:
    assert not is_secret_path(path)


@pytest.mark.parametrize(
    "head",
    [
        b"-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl",
        b"-----BEGIN RSA PRIVATE KEY-----",
        b"-----BEGIN PRIVATE KEY-----\r\n",
        b"-----BEGIN ENCRYPTED PRIVATE KEY-----",
        b"-----BEGIN PGP PRIVATE KEY BLOCK-----",
        b"-----BEGIN CERTIFICATE-----\nMIIB\n-----BEGIN EC PRIVATE KEY-----",
        b"PuTTY-User-Key-File-3: ssh-ed25519",
        b"# created: 2024\nAGE-SECRET-KEY-1QQ",
        b'{\n  "type": "service_account",\n  "project_id": "x"',
        b'{"client_id": "x", "private_key": "-----BEGIN PRIVATE KEY-----\\n',
        b'{"refresh_token": "x", "type": "authorized_user"}',
        b"[default]\naws_access_key_id = A\naws_secret_access_key = B\n",
        b"//registry.example.org/:_authToken=npm_x\n",
        b"machine api.wandb.ai\n  login user\n  password 123\n",
    ],
)
def test_a_file_that_begins_like_a_key_is_one(head: bytes) -> None:
    assert is_secret_head(head)


@pytest.mark.parametrize(
    "head",
    [
        b"", b"\x00\xff" * 99, b"-----BEGIN CERTIFICATE-----", b"ssh-ed25519 AAAA user@host",
        b"-----BEGIN PUBLIC KEY-----", b'{"type": "module", "private": true}',
        b"how to make a PRIVATE KEY", b"registry=https://registry.example.org/\n",
    ],
)  # fmt: skip
def test_other_files_are_not(head: bytes) -> None:
    assert not is_secret_head(head)


@pytest.mark.parametrize("part", [b"\n", b" ", b"\t\n", b"-----BEGIN ", b"machine ", b"a:_", b"A "])
def test_no_file_keeps_the_look_into_it_busy(part: bytes) -> None:
    assert not is_secret_head((part * HEAD_BYTES)[:HEAD_BYTES])
    assert not is_secret_head(b"-----BEGIN " + (b"A " * HEAD_BYTES)[:HEAD_BYTES])


def test_pictures_code_and_large_files_are_not_opened() -> None:
    assert may_begin_like_one("deploy_key", 400)
    assert may_begin_like_one("account.json", 2300)
    for path, size in (("a.py", 10), ("a.png", 10), ("key", 0), ("key", 10_000_000)):
        assert not may_begin_like_one(path, size)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_SECRET_ACCESS_KEY", "x"), ("GITHUB_TOKEN", "x"), ("WANDB_API_KEY", "x"),
        ("PGPASSWORD", "x"), ("DB_PASS", "x"), ("SSH_AUTH_SOCK", "/x"), ("apikey", "x"),
        ("GOOGLE_APPLICATION_CREDENTIALS", "/home/me/key.json"), ("X", "ghp_abcdefghij"),
        ("DATABASE_URL", "postgres://me:pass@host/db"), ("URL", "https://x/y?X-Amz-Signature=1"),
        ("URL", "https://b.blob.core.windows.net/c?sv=1&sig=abc"), ("X", "AKIAIOSFODNN7EXAMPLE"),
        ("X", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.x"), ("X", "-----BEGIN PRIVATE KEY-----"),
        ("X", "0123456789abcdef0123456789abcdef01234567"), ("X", "q9Zt4Kx82LmVb7Rp1Ws5"),
    ],
)  # fmt: skip
def test_a_variable_that_looks_like_a_secret(name: str, value: str) -> None:
    assert is_secret_variable(name, value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LANDSCAPES_URL", "https://example.org/data/landscapes.zip"), ("DATA_URL", "gs://b/set-1"),
        ("LANDSCAPES_URL", "http://127.0.0.1:43817/landscapes.zip"), ("EPOCHS", "20"),
        ("PWD", "/home/me/project"), ("MODEL", "bert-base-uncased-whole-word-masking"),
        ("RUN_NAME", "2024-11-02T10-15-learning-rate-sweep"), ("KEYBOARD", "us"), ("LANG", "C"),
        ("TOKENIZERS_PARALLELISM", "false"), ("MAX_TOKENS", "4096"), ("HF_TOKEN", ""),
        ("REGION", "asia-east1"), ("HOST", "sg.example.com"), ("KEY_FRAMES", "3"), ("MONKEY", "x"),
        ("DATA_DIR", "/mnt/disks/Data2/Landscapes2024/Train"), ("X", ""),
    ],
)  # fmt: skip
def test_a_variable_that_does_not(name: str, value: str) -> None:
    assert not is_secret_variable(name, value)


@pytest.mark.parametrize("path", [".env", "a b/[x]*.key", "#x", "!y", "q?"])
def test_the_line_that_leaves_a_file_out_means_it_alone(path: str) -> None:
    line = exclude_line(path)
    assert line.startswith("/")
    assert line[1:].replace("\\", "") == path
    found = GitIgnoreSpec.from_lines([line])
    assert found.match_file(path)
    assert not found.match_file(f"deep/{path}")
