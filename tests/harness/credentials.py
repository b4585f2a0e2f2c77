"""Fake credentials: none at all, or a key file whose tokens come from a server here."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path


def logged_out(folder: Path) -> dict[str, str]:
    """The environment of a user who means Google Cloud and has no credentials."""
    return {
        "VMCTL_LOCAL": "0",
        "HOME": str(folder / "home"),
        "CLOUDSDK_CONFIG": str(folder / "gcloud"),
        "NO_GCE_CHECK": "true",
        "GOOGLE_APPLICATION_CREDENTIALS": "",
        "GOOGLE_CLOUD_PROJECT": "",
        # never the real service: nothing listens on the discard port
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE": "http://127.0.0.1:9/compute/v1/",
    }


class Tokens(http.server.BaseHTTPRequestHandler):
    """Answers as Google's token endpoint does; under /revoked as it does to an expired login.

    Under /token/TEXT the token is TEXT."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        revoked = self.path == "/revoked"
        token = self.path.rpartition("/")[2]
        answer = (
            {"error": "invalid_grant", "error_description": "Token has been expired or revoked."}
            if revoked
            else {
                "access_token": token,
                "expires_in": 3600,
                "token_type": "Bearer",
            }
        )
        body = json.dumps(answer).encode()
        self.send_response(400 if revoked else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Quiet."""


@contextlib.contextmanager
def serving_tokens() -> Iterator[str]:
    """The URL of a token endpoint that is there until the block ends."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Tokens)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def service_account() -> dict[str, str]:
    """A service account's key file, less its project and where its tokens come from."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()
    return {
        "type": "service_account",
        "private_key": pem,
        "private_key_id": "1",
        "client_email": "someone@example.iam.gserviceaccount.com",
    }
