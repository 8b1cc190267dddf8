"""What is written of a report beside a GPU that trains on."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

import torch


def _nothing() -> None:
    pass


class Beside:
    """Does one piece of work at a time: in a thread of its own, or at once where a CPU trains.

    Use it as a context, whose end waits for the last piece.

    Args:
        device: What trains meanwhile.
    """

    def __init__(self, device: torch.device) -> None:
        self._thread = None if device.type == "cpu" else ThreadPoolExecutor(1)
        self._work: Future[None] | None = None
        self._then: Callable[[], None] = _nothing

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        # Where there was an error, what `then` would do is not done; the work itself is finished.
        if self._thread is not None:
            self._thread.shutdown(wait=True)

    def begin(self, work: Callable[[], None], then: Callable[[], None] = _nothing) -> None:
        """Begin with a piece of work when the one before is done.

        Args:
            work: What to do.
            then: What the caller's thread is to do as soon as it sees that the work is done.

        Raises:
            Exception: whatever the work before raised, or on a CPU this one.
        """
        self.wait()
        if self._thread is None:
            work()
            then()
        else:
            self._work, self._then = self._thread.submit(work), then

    def look(self) -> None:
        """Go on with what is to come after the work, if that is done; it is not waited for.

        Raises:
            Exception: whatever the work raised.
        """
        if self._work is not None and self._work.done():
            self.wait()

    def wait(self) -> None:
        """Wait for the work, and go on with what is to come after it.

        Raises:
            Exception: whatever the work raised.
        """
        work, self._work = self._work, None
        if work is not None:
            work.result()
            self._then()
