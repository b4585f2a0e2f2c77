"""The pictures that the README tells a newcomer to try the net on."""

import colorize
from checkpoint import save_weights
from conftest import WORKLOAD
from models import create_net

EXAMPLES = WORKLOAD / "examples"


def test_the_examples_are_coloured_and_each_has_its_author(tmp_path, capsys):
    names = {path.name for path in EXAMPLES.glob("*.jpg")}
    credits = (EXAMPLES / "CREDITS.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in credits for name in names)
    save_weights(create_net("half"), tmp_path / "unet.pth")
    flags = ["--test_net", str(tmp_path / "unet.pth"), "--images", str(EXAMPLES)]
    assert colorize.main([*flags, "--out_dir", str(tmp_path)]) == 0
    assert f"Coloured {len(names)} pictures into" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "colorized").iterdir()} == names
