"""Breaks trials on purpose, in the worker processes of sweeps that have this folder in PYTHONPATH.

``TRIAL_FAULTS`` is a JSON object: for a trial's number what befalls it at its second report, and,
behind a colon, how often (by default always).
"""

import importlib.abc
import importlib.machinery
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

_MODULE = "tune_gan.search.trainable"


class _Patcher(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Loads one module as ever, and then wraps its `iterate`."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if name != _MODULE:
            return None
        self._spec = importlib.machinery.PathFinder.find_spec(name, path)
        assert self._spec is not None
        return ModuleSpec(name, self, origin=self._spec.origin)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        assert self._spec is not None
        assert self._spec.loader is not None
        module.__file__ = self._spec.origin
        self._spec.loader.exec_module(module)
        module.iterate = _faulty(module.iterate)  # type: ignore[attr-defined]


def _faulty(iterate: Any) -> Any:
    def faulty(*arguments: Any) -> Iterator[Any]:
        for report in iterate(*arguments):
            # The second report of a whole run, also of one that goes on from its first.
            if len(report.training.history) == 2:
                _befall(report)
            yield report

    return faulty


def _befall(report: Any) -> None:
    from ray import tune

    number = str(int(str(tune.get_context().get_trial_id())))
    fault, _, times = json.loads(os.environ["TRIAL_FAULTS"]).get(number, "").partition(":")
    if not fault:
        return
    tally = Path(os.environ["TRIAL_FAULTS_TALLY"]) / f"{fault}-{number}"
    done = len(tally.read_text()) if tally.exists() else 0
    if times and done >= int(times):
        return
    with tally.open("a") as file:
        file.write(".")
    _FAULTS[fault](report)


def _poison(report: Any) -> None:
    for weight in report.training.generator.parameters():
        weight.data.fill_(float("nan"))


def _raise(report: Any) -> None:
    raise ValueError("forced to fail")


def _crash(report: Any) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)
    # Ray first writes down where it happened, while other threads go on.
    time.sleep(1e6)


def _exhaust(report: Any) -> None:
    import torch

    torch.empty(2**46)


_FAULTS: dict[str, Any] = {
    "nan": _poison,
    "exception": _raise,
    "memory": _exhaust,
    "exit": lambda report: os._exit(3),
    "segfault": _crash,
    "hang": lambda report: time.sleep(1e6),
}

sys.meta_path.insert(0, _Patcher())
