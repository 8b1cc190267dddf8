"""Where ``tune-gan`` begins, which is ``python -m tune_gan`` too."""

import os
import signal
from contextlib import suppress
from types import FrameType


def main() -> None:
    """Import the command line and run it; an interrupt ends also the import in one line."""
    for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        # Where a shell has it ignored, it stays so.
        if signal.getsignal(ending) is not signal.SIG_IGN:
            signal.signal(ending, _end_at_once)
    from tune_gan.cli import main as run

    run()


def _end_at_once(signum: int, frame: FrameType | None) -> None:
    # Nothing is at work yet, and an exception amid an import would be what the import makes of it.
    with suppress(OSError):
        os.write(2, b"tune-gan: interrupted\n")
    os._exit(130)


if __name__ == "__main__":
    main()
