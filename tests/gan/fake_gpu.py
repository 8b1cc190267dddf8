"""A GPU that is not there, for tests.

Tensors on ``cuda`` are torch's fake ones, which know their device, type and shape and hold no numbers;
those on the CPU are real. So it is found what mixes devices, computes on the CPU or waits for the GPU
in the hot loop; optimizers go the ways that they go on a GPU, and kernels can be counted. It patches
private parts of torch, and knows no values: what it shows is no proof of what a GPU does.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.autograd.graph import get_gradient_edge
from torch.optim import optimizer
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import flop_registry

CUDA, _META = torch.device("cuda", 0), torch.device("meta")
_DEVICE_OF = torch.ops.prim.device.default
# Of these a GPU is told nothing, beside views.
_FREE = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "resize_"}
_FREE |= {"_unsafe_view", "_reshape_alias", "lift_fresh", "is_pinned"}
_FREE |= {"_record_function_enter_new", "_record_function_exit"}


class _Generator(torch.Generator):
    """Random numbers of the GPU; in C++ they are a CPU's, since without a GPU it makes no others."""

    of_gpu = False

    def __new__(cls, device: Any = "cpu") -> "_Generator":
        made: _Generator = super().__new__(cls, "cpu")  # type: ignore[call-arg]
        made.of_gpu = torch.device(device).type == "cuda"
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return CUDA if self.of_gpu else torch.device("cpu")


class FakeGpu(TorchDispatchMode):
    """Sends what is for the GPU to a `FakeTensorMode`, and watches it.

    Attributes:
        hot: Whether nothing is to wait for the GPU or be computed on the CPU.
        capturing: Whether a CUDA graph is being captured; what captures do not permit fails then.
        faults: What did so while `hot`.
        kernels: By operator; work: ``(operator, flops, bytes)`` of each.
        called, fresh: Whether an operator is called, and the results of the last one.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._fakes, self._inside = FakeTensorMode(allow_non_fake_inputs=True), 0
        self.hot = self.capturing = self.called = False
        self.fresh: set[int] = set()
        self.faults: list[str] = []
        self.kernels: Counter[str] = Counter()
        self.work: list[tuple[str, int, int]] = []

    def clear(self) -> None:
        self.kernels.clear()
        self.work.clear()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, func.overloadpacket.__name__
        if func is _DEVICE_OF:
            return self.device_in_cpp(args)
        device = kwargs.get("device")
        if device == _META and _in_backward():
            # What backward has from `device_in_cpp`.
            kwargs = {**kwargs, "device": (device := CUDA)}
        leaves = tree_leaves((args, kwargs))
        tensors = [x for x in leaves if isinstance(x, Tensor)]
        is_fake = any(isinstance(x, FakeTensor) for x in tensors)
        if not is_fake and (device is None or torch.device(device).type != "cuda"):
            result = func(*args, **kwargs)
            is_work = any(isinstance(x, Tensor) and x.dim() for x in tree_leaves(result))
            if is_work and not (func.is_view or name in _FREE):
                self._note(f"{name} on the CPU", in_capture=True)
            return result
        if name == "_local_scalar_dense":
            self._note("a number is read from the GPU")
            return torch.ones((), dtype=tensors[0].dtype).item()
        if name == "equal":
            self._note("a number is read from the GPU")
            return True
        result = self.with_devices(self._faked)(func, args, kwargs)
        self.fresh = {id(x) for x in tree_leaves(result) if isinstance(x, Tensor)}
        self._look(func, args, kwargs, result)
        return tree_map_only(FakeTensor, _real_if_copied, result)

    def _faked(self, func: Any, args: Any, kwargs: Any) -> Any:
        def fake(tensor: Tensor) -> Tensor:
            return tensor if isinstance(tensor, FakeTensor) else self._fakes.from_tensor(tensor)

        with self._fakes:
            args, kwargs = tree_map_only(Tensor, fake, (args, kwargs))
            return func(*args, **kwargs)

    def _look(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        name, leaves = func.overloadpacket.__name__, tree_leaves((args, kwargs))
        results = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
        if func.is_view or name in _FREE:
            return
        if name == "bmm" and args[0].shape[-1] == 1:
            # torch 2.14: torch/_native/ops/bmm_outer_product.
            self._note("an outer product, which Triton makes, by a C compiler")
        involved = {id(x): x for x in (*leaves, *results) if isinstance(x, Tensor)}.values()
        # Numbers of the CPU are arguments of a kernel, except where they are copied.
        copies = name in ("copy_", "_to_copy")
        if {x.device.type for x in involved if x.dim() or copies} > {"cuda"}:
            is_pinned = copies and hasattr(args[1] if name == "copy_" else args[0], "of_pinned_memory")
            if not (is_pinned and (args[2:] or kwargs.get("non_blocking"))) or self.capturing:
                self._note(f"{name} of {[tuple(x.shape) for x in involved]} between CPU and GPU")
        self.kernels[name] += 3 if name == "convolution_backward" else 1
        count = flop_registry.get(func.overloadpacket)
        flops = int(count(*args, **kwargs, out_val=result)) if count else 0
        self.work.append((name, flops, sum(x.numel() * x.element_size() for x in involved)))

    def _note(self, fault: str, *, in_capture: bool = False) -> None:
        if self.capturing and not in_capture:
            raise RuntimeError(f"not permitted when a stream is capturing: {fault}")
        if self.hot:
            self.faults.append(fault)

    def with_devices(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that sees in C++, too, which tensors are on the GPU."""

        def called(*args: Any) -> Any:
            self._inside += 1
            try:
                return function(*args)
            finally:
                self._inside -= 1

        return called

    def device_in_cpp(self, args: Any) -> torch.device:
        """Return a tensor's device as C++ sees it.

        Autograd would want a GPU's streams where that is the device of a result or of a leaf; autocast
        casts nothing where it is not that of an argument.
        """
        is_argument = self.called and id(args[0]) not in self.fresh and not _in_backward()
        is_told = (self._inside or is_argument) and not self._fakes.in_kernel_invocation
        return args[0].fake_device if is_told else _META


class _Calls(TorchFunctionMode):
    """Tells a `FakeGpu` of each call of an operator."""

    def __init__(self, gpu: FakeGpu) -> None:
        super().__init__()
        self._gpu, self._kept = gpu, list[Any]()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        gpu, kwargs = self._gpu, kwargs or {}
        before, gpu.called = gpu.called, False
        if torch.is_grad_enabled():
            # What adds up the gradients of a leaf is made before its device can be seen.
            fakes = (x for x in tree_leaves((args, kwargs)) if isinstance(x, FakeTensor))
            self._kept += [get_gradient_edge(x) for x in fakes if x.requires_grad and x.is_leaf]
        gpu.called = True
        gpu.fresh.clear()
        try:
            result = func(*args, **kwargs)
        finally:
            gpu.called = before
        # Beneath, generators are torch's own, which tell no GPU.
        source = kwargs.get("generator")
        made = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
        if source is not None and any(x.device.type != source.device.type for x in made):
            raise RuntimeError(f"{func.__name__} by a generator of the {source.device}")
        return result


def _real_if_copied(tensor: FakeTensor) -> Tensor:
    """Return what came to the CPU as a real tensor, of zeros."""
    if tensor.fake_device.type != "cpu":
        return tensor
    return torch.zeros(tensor.shape, dtype=tensor.dtype)


def _in_backward() -> bool:
    return torch._C._current_graph_task_id() >= 0


@contextmanager
def fake_gpu() -> Iterator[FakeGpu]:
    """Let torch believe in a GPU, whose tensors are fake ones."""
    gpu, own = FakeGpu(), _Generator("cuda")
    # Torch's own way to have C++ accept a GPU that is not there, and to show what torch.tensor copies.
    torch._C._ensureCUDADeviceGuardSet()
    lifts = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)

    def pin(tensor: Tensor) -> Tensor:
        with mock.patch.object(gpu, "hot", False):
            copy = tensor.clone()
        copy.of_pinned_memory = True  # type: ignore[attr-defined]
        return copy

    @contextmanager
    def capture(graph: object, **_: Any) -> Iterator[None]:
        with mock.patch.object(gpu, "capturing", True):
            yield

    dispatch = FakeTensor.__torch_dispatch__.__func__  # type: ignore[attr-defined]

    def of_fakes(cls: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _DEVICE_OF:
            return gpu.device_in_cpp(args)
        return dispatch(cls, func, types, args, kwargs)

    stream = mock.Mock(is_capturing=lambda: gpu.capturing)
    cuda = {
        "_lazy_init": lambda: None,
        "device_count": lambda: 1,
        "is_available": lambda: True,
        "current_device": lambda: 0,
        "is_bf16_supported": lambda including_emulation=True: True,
        "get_device_capability": lambda device=None: (9, 0),
        "get_arch_list": lambda: ["sm_90"],
        "mem_get_info": lambda device=None: (80 * 10**9, 80 * 10**9),
        "set_device": lambda device: None,
        "default_generators": (own,),
        "manual_seed_all": own.manual_seed,
        "get_rng_state": lambda device=None: own.get_state(),
        "set_rng_state": lambda state, device=None: own.set_state(state),
        "synchronize": lambda device=None: None,
        "Stream": lambda device=None: stream,
        "current_stream": lambda device=None: stream,
        "set_stream": lambda stream: None,
        "stream": mock.MagicMock(),
        "device": mock.MagicMock(),
        "CUDAGraph": mock.Mock,
        "graph": capture,
    }
    group = "_group_tensors_by_device_and_dtype"
    with ExitStack() as stack:
        stack.callback(torch._C._set_only_lift_cpu_tensors, lifts)
        for owner, name, value in (
            *((torch.cuda, name, value) for name, value in cuda.items()),
            (torch.accelerator, "current_accelerator", lambda check_available=False: CUDA),
            (torch.accelerator, "current_stream", lambda device=None: stream),
            (torch, "Generator", _Generator),
            (Tensor, "pin_memory", pin),
            (FakeTensorMode, "avoid_device_init", True),
            (FakeTensor, "__torch_dispatch__", classmethod(of_fakes)),
            # Of tensors of other types, optimizers take one step after the other.
            (optimizer, "_foreach_supported_types", [*optimizer._foreach_supported_types, FakeTensor]),
            (torch._C, group, gpu.with_devices(getattr(torch._C, group))),
        ):
            stack.enter_context(mock.patch.object(owner, name, value))
        handlers = {_DEVICE_OF: gpu.device_in_cpp}
        stack.enter_context(mock.patch.dict(fake_tensor._DISPATCH_META_HANDLERS, handlers))
        stack.enter_context(gpu)
        stack.enter_context(_Calls(gpu))
        yield gpu
