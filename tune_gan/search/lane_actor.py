"""The process that trains many trials in lanes, as the processes of these trials know it.

Whoever gets a handle of it imports this module, and is to load no torch for it.
"""

import os
from typing import Any


class LaneActor:
    """Ray's actor around `tune_gan.search.lane_trainer.LaneTrainer`, which says what its methods do."""

    def __init__(self, spec: dict[str, Any], run: str, num_lanes: int) -> None:
        # Before torch is imported: what it routes products of batches through wants a C compiler.
        os.environ.setdefault("TORCH_DISABLE_NATIVE_JIT", "1")
        from tune_gan.search.lane_trainer import LaneTrainer

        self._trainer = LaneTrainer(spec, run, num_lanes)

    def load(self) -> int:
        """Return how many trials it has."""
        return self._trainer.load()

    def submit(self, number: int, values: dict[str, Any]) -> bool:
        """Take a trial; return whether there was room for it."""
        return self._trainer.submit(number, values)

    def next(self, number: int) -> dict[str, Any] | None:
        """Wait for a trial's next line and return it, or nothing where no more come."""
        return self._trainer.next(number)

    def stop(self, number: int) -> None:
        """Let a trial go."""
        self._trainer.stop(number)
