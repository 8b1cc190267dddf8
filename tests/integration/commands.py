"""Run the installed command as a user does."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

# Seconds after which what is waited for hangs; machines that are busy are slow, which is no fault.
PATIENCE_S = 1200


def tune_gan(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run ``tune-gan`` with arguments in a folder, its output caught."""
    return subprocess.run(
        command(*arguments), cwd=cwd, capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )


def command(*arguments: str | Path) -> list[str]:
    """Return the command line of ``tune-gan`` with arguments."""
    script = Path(sys.executable).with_name("tune-gan")
    assert os.access(script, os.X_OK), f"{script} is not installed"
    return [str(script), *map(str, arguments)]


def numbers(report: dict[str, Any]) -> dict[str, Any]:
    """Return a trial's report without what a clock says, and without notes of what befell it."""
    left_out = ("samples_per_s", "train_time_s", "time_s", "cause", "reported_at", "worker")
    return {key: value for key, value in report.items() if key not in left_out}


def descendants(process: int, words: str) -> list[int]:
    """Return the processes below a process whose command lines have these words."""
    parents, lines = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_bytes()
            line = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        parents[int(folder.name)] = int(stat.rpartition(b")")[2].split()[1])
        lines[int(folder.name)] = line
    found, ancestors = [], {process}
    while new := {child for child, parent in parents.items() if parent in ancestors} - ancestors:
        ancestors |= new
        found += [child for child in new if words.encode() in lines[child]]
    return found
