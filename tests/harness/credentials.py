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


# what Google's login services answer to what does not work, by the last part of the path
REFUSALS: dict[str, tuple[int, object]] = {
    "revoked": (
        400,
        {"error": "invalid_grant", "error_description": "Token has been expired or revoked."},
    ),
    "expired": (
        400,
        {"error": "invalid_grant", "error_description": "reauth related error (invalid_rapt)"},
    ),
    "deleted-key": (
        400,
        {"error": "invalid_grant", "error_description": "Invalid JWT Signature."},
    ),
    "clock": (
        400,
        {
            "error": "invalid_grant",
            "error_description": "Invalid JWT: Token must be a short-lived token (60 minutes) and "
            "in a reasonable timeframe. Check your iat and exp values in the JWT claim.",
        },
    ),
    "stale": (
        400,
        {
            "error": "invalid_grant",
            "error_description": "ID Token issued at 1 is stale to sign-in.",
        },
    ),
    "target": (
        400,
        {"error": "invalid_target", "error_description": "The target service is not valid."},
    ),
    "denied": (403, {"error": "access_denied", "error_description": "Account restricted"}),
    "acting": (
        403,
        {
            "error": {
                "code": 403,
                "message": "Permission 'iam.serviceAccounts.getAccessToken' denied on resource.",
                "status": "PERMISSION_DENIED",
            }
        },
    ),
    "busy": (503, {"error": {"code": 503, "message": "Service unavailable"}}),
    "page": (200, "<html><title>Sign in to the guests' network</title></html>"),
    "forbidden-page": (403, "<html><title>Blocked by policy</title></html>"),
}


class Tokens(http.server.BaseHTTPRequestHandler):
    """Answers as Google's token endpoint does; under /NAME with the refusal of that name.

    Under /token/TEXT the token is TEXT."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        token = self.path.rpartition("/")[2].partition(":")[0]
        given = {"access_token": token, "expires_in": 3600, "token_type": "Bearer"}
        given["issued_token_type"] = "urn:ietf:params:oauth:token-type:access_token"
        status, answer = REFUSALS.get(token, (200, given))
        page = isinstance(answer, str)
        body = str(answer).encode() if page else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if page else "application/json")
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
