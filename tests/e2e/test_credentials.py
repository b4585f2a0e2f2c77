"""As whom vmctl talks to Google: nothing, something broken, or gcloud's own login."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.harness.endpoint import Endpoint
from tests.harness.laptop import BASE, Laptop, project


def test_without_credentials_the_login_command_is_named(anonymous: Laptop, folder: Path) -> None:
    told = anonymous("status", cwd=folder, code=5).stderr
    assert "no Google credentials" in told
    assert "gcloud auth application-default login" in told
    assert "--local" in told


def test_a_broken_credentials_file_is_named(anonymous: Laptop, folder: Path) -> None:
    broken = folder / "key.json"
    broken.write_text("{bad")
    environ = {"GOOGLE_APPLICATION_CREDENTIALS": str(broken)}
    told = anonymous("status", cwd=folder, code=5, environ=environ).stderr
    assert str(broken) in told
    environ = {"GOOGLE_APPLICATION_CREDENTIALS": str(folder / "missing.json")}
    assert "missing.json" in anonymous("up", cwd=folder, code=5, environ=environ).stderr


def user_login(folder: Path) -> dict[str, str]:
    file = folder / "user.json"
    login = {"type": "authorized_user", "client_id": "a", "client_secret": "b"}
    file.write_text(json.dumps({**login, "refresh_token": "c"}))
    return {"GOOGLE_APPLICATION_CREDENTIALS": str(file)}


def test_without_a_project_the_setting_is_named(anonymous: Laptop, folder: Path) -> None:
    told = anonymous("status", cwd=folder, code=2, environ=user_login(folder)).stderr
    assert "No Google Cloud project" in told
    assert "vmctl.toml" in told


@pytest.mark.gcloud
@pytest.mark.skipif(shutil.which("gcloud") is None, reason="gcloud is not installed")
def test_gclouds_own_token_is_used_when_there_is_nothing_else(
    laptop: Laptop, anonymous: Laptop, tmp_path: Path
) -> None:
    folder = project(tmp_path / "token", BASE)
    laptop("emulator", "start", cwd=folder)
    endpoint = Endpoint(laptop.emulator_home)
    environ = {**endpoint.gcloud, "CLOUDSDK_CORE_PROJECT": "from-gcloud"}
    refused = {"code": "PERMISSIONS_ERROR", "message": "As far as here."}
    fault = endpoint.admin("POST", "faults", {"kind": "operation", **refused})
    try:
        told = anonymous("up", "--gpu", "none", cwd=folder, code=2, environ=environ).stderr
    finally:
        endpoint.admin("DELETE", f"faults/{fault['id']}")
    assert "As far as here." in told
    # the project is the one that gcloud is set to
    asked = endpoint.ask("GET", "/compute/v1/projects/from-gcloud/aggregated/operations")["items"]
    operations = [one for scope in asked.values() for one in scope.get("operations", [])]
    assert [one["operationType"] for one in operations] == ["insert"]
