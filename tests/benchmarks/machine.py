"""On what a table was measured."""

import os
import platform
from datetime import date
from pathlib import Path

import torch


def describe_machine() -> str:
    """Return the processor, its cores, a GPU if there is one, the versions, and today's date."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    units = [unit for unit in ("avx512_bf16", "amx_bf16") if any(unit in line for line in lines)]
    parts = [
        f"{names[0] if names else platform.processor()} ({', '.join(units) or 'no bf16 units'})",
        f"{os.cpu_count()} cores",
        torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU",
        f"torch {torch.__version__}, Python {platform.python_version()}",
        f"{date.today():%Y-%m-%d}",
    ]
    return ", ".join(parts)
