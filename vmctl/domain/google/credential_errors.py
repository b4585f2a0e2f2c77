"""Why Google's credentials do not work: one table from cause to sentence, cure and exit code."""

from __future__ import annotations

import re
from enum import StrEnum

from vmctl.domain.errors import AccessDenied, Unreachable, VmctlError

CHOSEN_FILE = "GOOGLE_APPLICATION_CREDENTIALS"
LOGIN = "gcloud auth application-default login"


class Login(StrEnum):
    """The kinds of credentials that Google's library and gcloud know."""

    USER = "user"  # gcloud auth application-default login
    GCLOUD = "gcloud"  # gcloud auth login
    SERVICE_ACCOUNT = "service account"  # a key file
    EXTERNAL = "external account"  # workload or workforce identity federation
    IMPERSONATED = "impersonated"
    MACHINE = "machine"  # the service account of the VM on which vmctl runs
    FILE = "file"  # a file that does not say what it is


class Fault(StrEnum):
    """What is wrong with credentials, or between here and Google's login service."""

    MISSING = "missing"
    UNUSABLE = "unusable"
    EXPIRED = "expired"
    REVOKED = "revoked"
    CLOCK = "clock"
    DENIED = "denied"
    UNREACHABLE = "unreachable"
    UNAVAILABLE = "unavailable"
    BLOCKED = "blocked"  # a proxy's or a hotel's page came in place of an answer
    UNTRUSTED = "untrusted"  # the certificate of a company's proxy
    UNKNOWN = "unknown"


_SUBJECTS = {
    Login.USER: "The Google login",
    Login.GCLOUD: "gcloud's login",
    Login.SERVICE_ACCOUNT: "The service account's key",
    Login.EXTERNAL: "The external identity",
    Login.IMPERSONATED: "The impersonated service account",
    Login.MACHINE: "This machine's service account",
    Login.FILE: "The credentials file",
}

# {who}: one of the subjects; {words}: Google's or the system's; {host}: the login service's
_SENTENCES: dict[Fault, tuple[type[VmctlError], str]] = {
    Fault.MISSING: (AccessDenied, "{who} is missing: {words}"),
    Fault.UNUSABLE: (AccessDenied, "{who} cannot be used: {words}"),
    Fault.EXPIRED: (AccessDenied, "{who} has expired: {words}"),
    Fault.REVOKED: (AccessDenied, "{who} has expired or was revoked: {words}"),
    Fault.CLOCK: (AccessDenied, "The clock of this computer differs from Google's: {words}"),
    Fault.DENIED: (AccessDenied, "{who} may not get an access token: {words}"),
    Fault.UNREACHABLE: (Unreachable, "Google's login service{host} does not answer: {words}"),
    Fault.UNAVAILABLE: (
        Unreachable,
        "Google's login service{host} is temporarily unavailable: {words}",
    ),
    Fault.BLOCKED: (Unreachable, "A web page came in place of Google's answer{host}: {words}"),
    Fault.UNTRUSTED: (
        Unreachable,
        "The certificate{host} is not signed by an authority trusted here: {words}",
    ),
    Fault.UNKNOWN: (AccessDenied, "{who} was not accepted: {words}"),
}

NETWORK_CURES = {
    Fault.CLOCK: "Set the clock (such as: sudo timedatectl set-ntp true), then run it again.",
    Fault.UNREACHABLE: "Check the network{proxy}, then run it again.",
    Fault.UNAVAILABLE: "Try again in a minute.",
    Fault.BLOCKED: "Sign in to the network in a browser, or ask its administrator to let "
    "https://*.googleapis.com pass{proxy}.",
    Fault.UNTRUSTED: "If your company inspects TLS, name the file of its CA: "
    "export SSL_CERT_FILE=/path/to/ca.pem",
}

_LOG_IN = f"Log in again: {LOGIN}"
_NEW_KEY = (
    "Make a new key: gcloud iam service-accounts keys create FILE --iam-account {account}, "
    f"and name it in {CHOSEN_FILE}"
)
_POOL = "Ask the administrator of the workload identity pool to admit this identity."
_IMPERSONATE = f"Log in again: {LOGIN} --impersonate-service-account {{account}}"
_TOKEN_CREATOR = (
    "Ask for the role Service Account Token Creator: gcloud iam service-accounts "
    "add-iam-policy-binding {account} --member user:YOU --role roles/iam.serviceAccountTokenCreator"
)
_ATTACH = "Give this machine a service account with the scope cloud-platform, or log in: " + LOGIN

# what helps where the fault is in the credentials; "any" where a kind has no line of its own
_CURES: dict[Login, dict[Fault | str, str]] = {
    Login.USER: {"any": _LOG_IN},
    Login.GCLOUD: {"any": "Log in again: gcloud auth login"},
    Login.SERVICE_ACCOUNT: {
        Fault.DENIED: "Ask the administrator of its project to enable {account}.",
        "any": _NEW_KEY,
    },
    Login.EXTERNAL: {
        Fault.MISSING: "Run what writes the file that credential_source names.",
        Fault.EXPIRED: "Renew the token that credential_source names.",
        "any": _POOL,
    },
    Login.IMPERSONATED: {Fault.DENIED: _TOKEN_CREATOR, "any": _IMPERSONATE},
    Login.MACHINE: {"any": _ATTACH},
    Login.FILE: {"any": f"Fix the path in {CHOSEN_FILE}"},
}


def login_error(
    login: Login,
    fault: Fault,
    words: str,
    *,
    chosen: bool,
    account: str = "",
    host: str = "",
    proxy: str = "",
) -> VmctlError:
    """The error for one cell of the table.

    `words` are Google's or the system's own. `chosen`: a file was named by
    GOOGLE_APPLICATION_CREDENTIALS, so that logging in changes nothing before it is unset.
    """
    kind, sentence = _SENTENCES[fault]
    at = f" of {host}" if fault is Fault.UNTRUSTED and host else f" at {host}" if host else ""
    text = sentence.format(who=_SUBJECTS[login], words=words.rstrip(". "), host=at)
    hint = cure(login, fault, chosen=chosen, account=account, proxy=proxy)
    return kind(f"{text}.", hint=hint)


def no_credentials() -> AccessDenied:
    """Nobody has logged in, and no file is named."""
    return AccessDenied(
        "There are no Google credentials on this computer.",
        hint=f"Log in: {LOGIN} (or rehearse without an account: vmctl --local up)",
    )


def cure(login: Login, fault: Fault, *, chosen: bool, account: str = "", proxy: str = "") -> str:
    """What helps, as the next command or the person to ask."""
    if fault in NETWORK_CURES:
        return NETWORK_CURES[fault].format(proxy=f" and the proxy {proxy}" if proxy else "")
    if login is Login.FILE and not chosen:
        return f"{_LOG_IN} (it writes the file again)"
    rows = _CURES[login]
    text = rows.get(fault, rows["any"]).format(account=account or "ACCOUNT")
    if not chosen or login is Login.GCLOUD:
        return text
    if login is Login.USER or (login is Login.IMPERSONATED and fault is not Fault.DENIED):
        return f"Unset {CHOSEN_FILE} or put a valid file there; then {text[0].lower()}{text[1:]}"
    return f"{text.rstrip('.')}; or unset {CHOSEN_FILE} and log in: {LOGIN}"


_SIGNS: tuple[tuple[Fault, str], ...] = (  # the first that matches Google's words is the cause
    (Fault.UNTRUSTED, r"certificate.verify.failed"),
    (
        Fault.CLOCK,
        r"reasonable timeframe|iat and exp|issued in the future|not yet valid|Token used too early",
    ),
    (Fault.UNAVAILABLE, r"server_error|internal_failure|temporarily_unavailable|backend ?error"),
    (Fault.MISSING, r"^File .* was not found|No such file"),
    (
        Fault.EXPIRED,
        r"reauth|invalid_rapt|is stale|token (is|has) expired|expired_token|has expired\W*$",
    ),
    (
        Fault.REVOKED,
        r"expired or revoked|revoked|Invalid JWT Signature|account not found|has been deleted|"
        r"deleted_client|disabled_client|invalid_client|invalid_grant",
    ),
    (
        Fault.DENIED,
        r"denied|PERMISSION_DENIED|forbidden|unauthorized|rejected|invalid_target|not allowed|"
        r"policy_enforced|restricted|org_internal",
    ),
)


def fault_of(words: str, status: int | None = None) -> Fault:
    """The cause behind Google's words and the HTTP status of the login service's last answer."""
    if status is not None and (status >= 500 or status == 429):
        return Fault.UNAVAILABLE
    for fault, pattern in _SIGNS:
        if re.search(pattern, words, re.IGNORECASE):
            return fault
    if status == 403:
        return Fault.DENIED
    return Fault.MISSING if status == 404 else Fault.UNKNOWN
