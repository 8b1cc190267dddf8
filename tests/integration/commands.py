"""Run the installed command as a user does."""

import os
import subprocess
import sys
from pathlib import Path


def tune_gan(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run ``tune-gan`` with arguments in a folder, its output caught."""
    return subprocess.run(
        command(*arguments), cwd=cwd, capture_output=True, text=True, check=False, timeout=280
    )


def command(*arguments: str | Path) -> list[str]:
    """Return the command line of ``tune-gan`` with arguments."""
    script = Path(sys.executable).with_name("tune-gan")
    assert os.access(script, os.X_OK), f"{script} is not installed"
    return [str(script), *map(str, arguments)]
