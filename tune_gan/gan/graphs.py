"""CUDA graphs: a GPU is told of a whole iteration at once, where Python would tell it step by step."""

import logging
from collections.abc import Callable

import torch

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
    """

    def __init__(self, function: Callable[[], None], device: torch.device) -> None:
        self._function, self._device = function, device
        self._replays = device.type == "cuda"
        self._graph: torch.cuda.CUDAGraph | None = None
        # One for all calls, since memory that torch keeps for a stream is for no other.
        self._stream = torch.cuda.Stream(device) if self._replays else None
        self._warm_ups_left = WARM_UPS

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
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads of the process may well wait for the device meanwhile.
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                self._function()
        except RuntimeError as error:
            self._replays = False
            reason = " ".join(str(error).split())[:200]
            _logger.warning("an iteration is launched step by step, not as a CUDA graph: %s", reason)
        else:
            self._graph = graph
