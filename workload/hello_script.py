"""The smallest job that is a script: a greeting in large letters, and what there is to train on.

The letters come from pyfiglet, which no PyTorch image has: the job's `requirements` bring it.
"""

import argparse
import os
import platform
import sys
from pathlib import Path

import pyfiglet


def write_to_log_file() -> None:
    """On Vertex AI, output that is wanted in the bucket goes into the file that LOG_PATH names."""
    if "LOG_PATH" in os.environ:
        file = Path(os.environ["LOG_PATH"])
        file.parent.mkdir(parents=True, exist_ok=True)
        sys.stdout = sys.stderr = file.open("a", buffering=1, encoding="utf-8")


def describe_machine() -> str:
    """Python and torch, which come with the machine."""
    try:
        import torch
    except ImportError:
        return f"Python {platform.python_version()} without torch"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"Python {platform.python_version()}, torch {torch.__version__}, {device}"


def main() -> None:
    """Greet somebody."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--name", default="world", help="whom to greet")
    name = parser.parse_args().name
    write_to_log_file()
    print(pyfiglet.figlet_format(f"Hello, {name}!", width=100))
    print(describe_machine())


if __name__ == "__main__":
    main()
