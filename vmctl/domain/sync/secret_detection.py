"""What looks like a secret: a file by its name or by how it begins, a variable by name or value.

Nobody can know all secrets. These are the well-known ones, which end up in a folder or in a job's
environment by mistake.
"""

from __future__ import annotations

import re
from itertools import pairwise

HEAD_BYTES = 4096  # of a file are enough to tell
LARGEST_BYTES = 1 << 16  # a larger file is no key

# The patterns are compiled when they are first used: a push with nothing to do uses none.

# -- files -------------------------------------------------------------------------------------

_NAMES = frozenset({
    ".env", ".envrc", ".flaskenv", ".netrc", "_netrc", ".pypirc", ".pgpass", ".my.cnf",
    ".git-credentials", ".htpasswd", ".s3cfg", ".boto", ".dockercfg", ".vault-token",
    ".terraformrc", ".rediscli_auth", ".dbshell", ".wandb-api-key",
    "id_rsa", "id_dsa", "id_ecdsa", "id_ed25519", "id_ecdsa_sk", "id_ed25519_sk", "id_xmss",
    "kaggle.json", "application_default_credentials.json", "credentials.db", "access_tokens.db",
    "client_secret.json", "client_secrets.json", "service_account.json", "service-account.json",
    "terraform.tfstate", "terraform.tfstate.backup", "secrets.toml", "secrets.yaml", "secrets.yml",
    "secrets.json", "google_compute_engine", "stored_tokens", "wallet.dat", "login.keychain-db",
})  # fmt: skip
_SUFFIXES = (".ppk", ".p12", ".pfx", ".jks", ".keystore", ".kdbx", ".kdb", ".agekey", ".env")
_PLACES = (  # the end of a path
    "/.aws/credentials", "/.docker/config.json", "/.kube/config", "/.cargo/credentials",
    "/.cargo/credentials.toml", "/.config/gh/hosts.yml", "/.config/rclone/rclone.conf",
    "/.huggingface/token", "/huggingface/token", "/.config/hub", "/.gem/credentials",
    "/.oci/config", "/.jupyter/jupyter_server_config.json",
)  # fmt: skip
_FOLDERS = ("/.ssh/", "/.gnupg/", "/.password-store/", "/.azure/", "/.config/gcloud/")  # all of it
_PUBLIC_IN_FOLDERS = ("known_hosts", "known_hosts.old", "authorized_keys", "config")
_EXAMPLES = (".example", ".sample", ".template", ".dist", ".defaults", ".test", ".tmpl")

_PRIVATE_KEY = (
    rb"(?m)^[ \t]*-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"
    rb"|^PuTTY-User-Key-File-|^AGE-SECRET-KEY-1"
)
_ACCOUNT = (
    rb'(?m)"private_key"\s*:\s*"-----BEGIN|"type"\s*:\s*"(?:service_account|authorized_user)"'
    rb"|^[ \t]*aws_secret_access_key[ \t]*=|^[^#;\n]*:_(?:authToken|password|auth)[ \t]*="
    rb"|^[ \t]*machine\s+\S+\s+login\s+\S+\s+password\s"
)
# what cannot begin like one of these; most files of a project do not have to be opened
_HARMLESS = (
    ".py", ".ipynb", ".pyi", ".pyc", ".c", ".h", ".cc", ".cpp", ".cu", ".rs", ".go", ".js", ".ts",
    ".css", ".html", ".md", ".rst", ".tex", ".csv", ".tsv", ".parquet", ".npy", ".npz", ".pt",
    ".pth", ".ckpt", ".safetensors", ".onnx", ".h5", ".png", ".jpg", ".jpeg", ".gif", ".webp",
    ".bmp", ".tif", ".tiff", ".svg", ".wav", ".mp3", ".flac", ".mp4", ".zip", ".gz", ".xz",
    ".zst", ".pdf", ".ttf", ".woff", ".woff2", ".so", ".o",
)  # fmt: skip


def is_secret_path(path: str) -> bool:
    """Whether a file's name, or where it lies, says that it holds a secret."""
    name = path.rpartition("/")[2]
    if name in _NAMES or name.endswith(_SUFFIXES):
        return True
    if name.startswith(".env."):
        return not name.endswith(_EXAMPLES)
    whole = f"/{path}"
    if whole.endswith(_PLACES):
        return True
    if "/." not in whole or name.endswith(".pub") or name in _PUBLIC_IN_FOLDERS:
        return False
    return any(folder in whole for folder in _FOLDERS)


def may_begin_like_one(path: str, size: int) -> bool:
    """Whether it takes a look into a file to tell."""
    return 0 < size <= LARGEST_BYTES and not path.endswith(_HARMLESS)


def is_secret_head(head: bytes) -> bool:
    """Whether a file begins like a private key, or like a login to a service."""
    return re.search(_PRIVATE_KEY, head) is not None or re.search(_ACCOUNT, head) is not None


# -- variables ---------------------------------------------------------------------------------

_WORDS = (
    r"(?i)TOKEN(?!IZ)|SECRET|PASSW|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE|COOKIE"
    r"|(?:^|_)(?:KEY|KEYS|PASS|PWD|AUTH|PAT|SESSION|DSN|CERT|SIGNATURE)(?:_|$)"
)
_FOLDER_NAMES = ("PWD", "OLDPWD")
_VALUES = (
    r"-----BEGIN "
    r"|\b(?:gh[pousr]_|github_pat_|glpat-|hf_|sk-|sk_live_|rk_live_|xox[abprs]-|AKIA|ASIA|AIza"
    r"|ya29\.|eyJ[A-Za-z0-9_-]{8,}\.|npm_|pypi-|dop_v1_|SG\.)"
    r"|://[^/\s:@]*:[^/\s@]+@"  # a password in an address
    r"|(?i:[?&](?:[a-z-]*(?:token|key|secret|signature|password|credential)|sig|auth)=)"
)
_PLAIN = r"(?i)(?:\d{1,6}|true|false|yes|no|on|off|none)?"
_RANDOM = r"[A-Za-z0-9_+=]{20,}"
_HEX = r"(?<![0-9A-Fa-f])[0-9A-Fa-f]{32,}(?![0-9A-Fa-f])"


def is_secret_variable(name: str, value: str) -> bool:
    """Whether a variable's name says that it is a secret, or its value looks like one.

    A switch, a small number and nothing at all are none, whatever their name.
    """
    if re.fullmatch(_PLAIN, value):
        return False
    if name not in _FOLDER_NAMES and re.search(_WORDS, name):
        return True
    return (
        re.search(_VALUES, value) is not None
        or re.search(_HEX, value) is not None
        or any(map(_is_random, re.findall(_RANDOM, value)))
    )


def _is_random(text: str) -> bool:
    """Whether a long word is none that people write: capitals, small letters and digits mixed."""
    if not all(re.search(kind, text) for kind in ("[a-z]", "[A-Z]", "[0-9]")):
        return False
    changes = sum(a.isdigit() != b.isdigit() for a, b in pairwise(text))
    return changes >= 4


# -- leaving it out ----------------------------------------------------------------------------


def exclude_line(path: str) -> str:
    """A pattern of `exclude` that means this very path."""
    return "/" + re.sub(r"([\\*?\[\]!# ])", r"\\\1", path)
