"""Where a sweep ran: `environment.json` in its folder."""

import json
import platform
import shlex
import socket
import subprocess
import sys
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ray

from tune_gan import __version__
from tune_gan.files import write_whole

_RECORDED_PACKAGES = ("ray", "torch", "torchvision", "optuna", "numpy", "pandas")


def write_environment(folder: Path) -> None:
    """Write versions, host, command and revision of a sweep that begins."""
    write_whole(folder / "environment.json", json.dumps(_environment(), indent=2) + "\n")


def note_resumption(folder: Path) -> None:
    """Add to `environment.json` where the sweep goes on."""
    path = folder / "environment.json"
    try:
        environment = dict(json.loads(path.read_text(encoding="utf-8")))
        resumed = [*environment.get("resumed", []), _environment()]
    except (OSError, ValueError, TypeError):
        environment, resumed = {}, [_environment()]
    write_whole(path, json.dumps({**environment, "resumed": resumed}, indent=2) + "\n")


def _environment() -> dict[str, Any]:
    return {
        "command": shlex.join(sys.argv),
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cluster": {k: v for k, v in ray.cluster_resources().items() if k in ("CPU", "GPU")},
        # Of itself not what is installed: a job may have brought another.
        "packages": {"tune-gan": __version__, **{name: version(name) for name in _RECORDED_PACKAGES}},
        "git_revision": _git_revision(),
    }


def _git_revision() -> str | None:
    """Return the revision of the checkout that this package runs from, if it does.

    Where files of it are changed, ``-dirty`` is added.
    """
    package = Path(__file__).parent.parent
    if not (package.parent / ".git").exists():
        return None
    command = ["git", "-C", str(package), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    return output.stdout.strip()
