"""The values that a run gets from the user's shell: its job has them, no record keeps them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from vmctl.guest.runs import job_environment, run_tree

VALUES = {"API_TOKEN": "s3cret", "URL": "https://x"}


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for module in (job_environment, run_tree):
        monkeypatch.setattr(module, "RUNS", tmp_path)
    yield tmp_path


def run(runs: Path, name: str, env: object, *, begun: bool) -> Path:
    """A run's folder as `start` makes it, or as an earlier version did."""
    made = runs / name
    made.mkdir()
    (made / "spec.json").write_text(json.dumps({"job": "train", "env": env}))
    if begun:
        (made / "phase").write_text("{}")
    return made


def everything(runs: Path) -> str:
    return "".join(path.read_text() for path in runs.rglob("*") if path.is_file())


def test_they_are_there_once_and_for_the_user_alone(runs: Path) -> None:
    made = run(runs, "a", job_environment.seal(VALUES), begun=False)
    job_environment.leave(made, VALUES)
    assert (made / job_environment.FILE).stat().st_mode & 0o777 == 0o600
    assert job_environment.take(made) == VALUES
    assert "s3cret" not in everything(runs)
    assert job_environment.take(made) == {}


def test_a_run_without_any_leaves_no_file(runs: Path) -> None:
    made = run(runs, "a", job_environment.seal({}), begun=False)
    job_environment.leave(made, {})
    assert job_environment.take(made) == {}
    assert sorted(path.name for path in made.iterdir()) == ["spec.json"]


def test_the_same_values_are_known_by_their_digest() -> None:
    sealed = job_environment.seal(VALUES)
    assert "s3cret" not in json.dumps(sealed)
    assert sealed != job_environment.seal(VALUES), "each has its own salt"
    assert job_environment.is_same(sealed, dict(reversed(VALUES.items())))
    for other in ({}, {"API_TOKEN": "s3cret"}, {**VALUES, "URL": ""}, {**VALUES, "MORE": "1"}):
        assert not job_environment.is_same(sealed, other)
    assert job_environment.is_same(job_environment.seal({}), {})
    assert not job_environment.is_same({}, VALUES)
    assert job_environment.is_same(VALUES, VALUES), "an earlier version's"
    assert not job_environment.is_same(None, VALUES)


def test_what_earlier_versions_left_is_sealed(runs: Path) -> None:
    over = run(runs, "over", VALUES, begun=True)
    going = run(runs, "going", VALUES, begun=True)
    starting = run(runs, "starting", VALUES, begun=False)
    job_environment.tidy({"going", "starting"})
    for made in (over, going):
        env = json.loads((made / "spec.json").read_text())["env"]
        assert job_environment.is_same(env, VALUES)
        assert "s3cret" not in json.dumps(env)
    assert "s3cret" in (starting / "spec.json").read_text(), "it has not read it yet"
    (starting / "phase").write_text("{}")
    job_environment.tidy({"going", "starting"})
    assert "s3cret" not in everything(runs)
    (over / "spec.json").write_text("{}")
    job_environment.tidy(set())
    assert (over / "spec.json").read_text() == "{}", "looked through once"


def test_a_run_that_died_before_it_began_leaves_none(runs: Path) -> None:
    made = run(runs, "dead", job_environment.seal(VALUES), begun=False)
    alive = run(runs, "alive", job_environment.seal(VALUES), begun=False)
    for folder in (made, alive):
        job_environment.leave(folder, VALUES)
    job_environment.tidy({"alive"})
    assert not (made / job_environment.FILE).exists()
    assert job_environment.take(alive) == VALUES
