"""CUDA graphs: a GPU is told of a whole iteration at once, where Python would tell it step by step."""

import logging
from collections.abc import Callable

import torch

from tune_gan.gan.shortage import is_shortage

_logger = logging.getLogger(__name__)
# Before a capture libraries choose what they compute with, and optimizers make their state.
WARM_UPS = 3


class Replayed:
    """A function that a GPU repeats from a CUDA graph of it; on a CPU it is called as it is.

    Its first calls are ordinary ones. Then it is captured, which computes nothing, and replayed from
    there on: the same kernels on the same memory, random numbers going on as they would
    (https://pytorch.org/docs/stable/notes/cuda.html#cuda-graphs). Where that fails, it is called as it
    is for good, and one line of the log says so.

    Args:
        function: Works on tensors that stay where they are, and reads nothing from the device.
        device: Where it works.
        is_capturable: Whether it can be captured, as far as that is known beforehand.

    Attributes:
        problem: Why it is not captured, in one line; empty where it is, or nothing is known yet.

    Raises:
        RuntimeError: whatever the function raises, and a shortage of memory in the capture, too: then
            it is no reason to go on slowly.
    """

    def __init__(
        self, function: Callable[[], None], device: torch.device, *, is_capturable: bool = True
    ) -> None:
        self._function, self._device = function, device
        self._replays = device.type == "cuda" and is_capturable
        self._graph: torch.cuda.CUDAGraph | None = None
        # One for all calls, since memory that torch keeps for a stream is for no other.
        self._stream = torch.cuda.Stream(device) if self._replays else None
        self._warm_ups_left = WARM_UPS
        self.problem = ""

    def __call__(self) -> None:
        """Do once what the function does."""
        if not self._replays:
            self._function()
            return
        if self._graph is not None:
            self._graph.replay()
            return
        with torch.cuda.device(self._device):
            if self._warm_ups_left:
                self._warm_up()
            else:
                self._capture()
                self()

    def _warm_up(self) -> None:
        """Call the function on a stream of its own, as a capture wants it."""
        self._warm_ups_left -= 1
        current = torch.cuda.current_stream()
        assert self._stream is not None
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            self._function()
        current.wait_stream(self._stream)

    def _capture(self) -> None:
        graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            # Other threads of the process may well wait for the device meanwhile.
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                self._function()
        except RuntimeError as error:
            if is_shortage(error) or is_shortage(error.__context__):
                raise
            self._replays = False
            # What invalidated the capture, where its end tells of nothing else.
            reason = " ".join(str(error.__context__ or error).split())[:200]
            self.problem = f"an iteration is launched step by step, not as a CUDA graph: {reason}"
            _logger.warning("%s", self.problem)
        else:
            self._graph = graph
        finally:
            # torch leaves its own where a capture was invalidated.
            torch.cuda.set_stream(current)
