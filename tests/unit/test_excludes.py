"""Which words of a command name something that a push leaves here."""

from __future__ import annotations

import pytest

from vmctl.domain.sync.excludes import left_behind, paths_named

LEFT_OUT = [("exclude in vmctl.toml", "data/"), (".gitignore", "work/model.pth")]


@pytest.mark.parametrize(
    ("command", "directory", "found"),
    [
        ("python train.py --data ../data/landscapes", "work", ["data/landscapes"]),
        ("python train.py --data=../data", "work", ["data"]),
        ("python train.py data/x && cat 'model.pth'", "work", ["work/model.pth"]),
        ("python work/train.py ./data/../data", "", ["data"]),
        ("python train.py --data /data ~/data $HOME/data https://a/data", "", []),
        ("python train.py ../../data", "work", []),
        ("python train.py database dat", "", []),
        ("echo 'open data/", "", ["data"]),
        ("", "", []),
    ],
)
def test_words_that_lead_to_what_stays_here(command: str, directory: str, found: list[str]) -> None:
    told = left_behind(paths_named(command, directory), LEFT_OUT)
    assert [path for path, _ in told] == found
