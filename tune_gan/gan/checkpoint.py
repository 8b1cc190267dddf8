"""The state of a run in one safetensors file: a resumed run equals an uninterrupted one."""

import json
import os
import zlib
from collections.abc import Mapping
from copy import copy, deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from tune_gan.config import GanConfig
from tune_gan.errors import CheckpointError, ConfigError, StorageError
from tune_gan.files import write_whole
from tune_gan.gan.data import BatchOrder
from tune_gan.gan.models import build_networks

FILE_NAME = "state.safetensors"
_FORMAT = 1
# Fields in which a resumed run may differ from the one that wrote the checkpoint.
# Where the weights of the feature network lie may change; other weights would give other scores.
_FREE_FIELDS = {"data_root", "weights", "device", "num_iterations"}


class Scored(NamedTuple):
    """The score of a report.

    Attributes:
        iteration: Generator steps done.
        fid_proxy: The score.
        degenerate: As `tune_gan.metrics.score.is_degenerate` says.
    """

    iteration: int
    fid_proxy: float
    degenerate: bool = False

    @property
    def place(self) -> tuple[bool, float]:
        """What scores are ordered by, best first: a degenerate one is below all others."""
        return self.degenerate, self.fid_proxy


@dataclass(frozen=True)
class Progress:
    """How far a run had come when its checkpoint was written.

    Attributes:
        config: The run's configuration, as JSON holds it.
        device: The kind of device it ran on.
        iteration: Generator steps done.
        epoch: Passes over the data begun before this one.
        offset: Samples of this pass taken already.
        time_s: Wall time of training and scoring, in seconds.
        history: The score of every report.
        cause: Why it diverged, else empty.
        train_time_s: Wall time of training alone, in seconds.
        instrument: What its scores were measured with; empty where it does not say.
    """

    config: dict[str, Any]
    device: str
    iteration: int
    epoch: int
    offset: int
    time_s: float
    history: tuple[Scored, ...]
    cause: str = ""
    train_time_s: float = 0.0
    instrument: str = ""


@dataclass
class TrainingState:
    """Everything that a run needs to go on.

    Attributes:
        config: The run's configuration.
        generator: The generator, on its device.
        discriminator: The discriminator, on its device.
        gen_optimizer: Optimizer of the generator.
        disc_optimizer: Optimizer of the discriminator.
        batches: The order of real samples and the position in it.
        latent_source: Random numbers of the latents and of what losses draw.
        dropout_source: Random numbers of dropout: torch's global ones of the device, but in lanes.
        average: The generator's moving average, where the configuration asks for one.
        iteration: Generator steps done.
        time_s: Wall time of training and scoring so far, in seconds.
        train_time_s: Wall time of training alone so far, in seconds.
        history: The score of every report so far.
        cause: Why the run has diverged, else empty.
        best_generator: Weights of the scored generator at its best score, on the CPU; empty before one.
        instrument: What its scores are measured with: ``mnist-lenet-v1, N=2000``.
    """

    config: GanConfig
    generator: nn.Module
    discriminator: nn.Module
    gen_optimizer: torch.optim.Optimizer
    disc_optimizer: torch.optim.Optimizer
    batches: BatchOrder
    latent_source: torch.Generator
    dropout_source: torch.Generator
    average: AveragedModel | None = None
    iteration: int = 0
    time_s: float = 0.0
    train_time_s: float = 0.0
    history: list[Scored] = field(default_factory=list)
    cause: str = ""
    best_generator: dict[str, Tensor] = field(default_factory=dict)
    instrument: str = ""

    @property
    def scored_generator(self) -> nn.Module:
        """What is scored and sampled: the generator's moving average where there is one."""
        return self.generator if self.average is None else self.average.module

    @property
    def best(self) -> Scored:
        """The best score so far.

        Raises:
            ValueError: before the first report.
        """
        return min(self.history, key=lambda scored: scored.place)

    def record(self, scores: Mapping[str, float], cause: str, train_time_s: float) -> None:
        """Add the score of this iteration and keep the generator's weights if it is the best.

        Args:
            scores: What `Scorer.score` returned.
            cause: Why the run has diverged, else empty.
            train_time_s: Seconds of training since the last report.
        """
        scored = Scored(self.iteration, scores["fid_proxy"], bool(scores["degenerate"]))
        if not self.history or scored.place < self.best.place:
            self.best_generator = _on_host(self.scored_generator.state_dict(), copies=True)
        self.history.append(scored)
        self.cause = cause
        self.train_time_s += train_time_s

    def save(self, folder: Path) -> None:
        """Write ``folder/state.safetensors``: aside, flushed to the disk, then moved into place.

        Raises:
            StorageError: if it cannot be written; what was there before is still whole.
        """
        self.snapshot().write(folder)

    def snapshot(self) -> "Snapshot":
        """Return what a checkpoint holds; a CPU's shares its memory with the run, a GPU's is a copy."""
        progress = {
            "format": _FORMAT,
            "config": self.config.model_dump(mode="json"),
            "device": self.latent_source.device.type,
            "iteration": self.iteration,
            "epoch": self.batches.epoch,
            "offset": self.batches.offset,
            "time_s": self.time_s,
            "train_time_s": self.train_time_s,
            "history": self.history,
            "cause": self.cause,
            "instrument": self.instrument,
        }
        return Snapshot(json.dumps(progress), self._tensors())

    def copied(self) -> "TrainingState":
        """Return a state that stays as this one is now."""
        networks = (self.generator, self.discriminator, self.average)
        own = (*networks, self.gen_optimizer, self.disc_optimizer)
        # Together, so that the optimizers are those of the copied parameters.
        generator, discriminator, average, gen_optimizer, disc_optimizer = deepcopy(own)
        for before, after in ((self.generator, generator), (self.discriminator, discriminator)):
            for old, new in zip(before.parameters(), after.parameters(), strict=True):
                new.grad = None if old.grad is None else old.grad.clone()
        return replace(
            self,
            generator=generator,
            discriminator=discriminator,
            average=average,
            gen_optimizer=gen_optimizer,
            disc_optimizer=disc_optimizer,
            batches=copy(self.batches),
            latent_source=_clone(self.latent_source),
            dropout_source=_clone(self.dropout_source),
            history=list(self.history),
        )

    def adopt(self, scored: "TrainingState") -> None:
        """Take over what the score of a copy has come to."""
        self.history, self.cause = scored.history, scored.cause
        self.best_generator = scored.best_generator
        self.time_s, self.train_time_s = scored.time_s, scored.train_time_s

    def load(self, folder: Path) -> None:
        """Take over the state that `save` wrote into `folder`.

        Raises:
            CheckpointError: if it is missing, damaged, or of another configuration.
        """
        progress, tensors = _read(folder)
        self._require_same_config(folder, progress.config)
        device = self.latent_source.device
        if progress.device != device.type:
            raise CheckpointError(
                f"{folder} was trained on {progress.device} and cannot go on on {device.type}, "
                "whose random numbers are others; go on where there is such a device"
            )
        try:
            self.generator.load_state_dict(_under("generator", tensors))
            self.discriminator.load_state_dict(_under("discriminator", tensors))
            if self.average is not None:
                self.average.load_state_dict(_under("average", tensors))
            _load_optimizer(self.gen_optimizer, _under("gen_optimizer", tensors))
            _load_optimizer(self.disc_optimizer, _under("disc_optimizer", tensors))
            self.latent_source.set_state(tensors["rng.latents"])
            self.dropout_source.set_state(tensors[_dropout_key(device)])
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise _damaged(folder, error) from None
        self.best_generator = _under("best_generator", tensors)
        self.batches.move_to(progress.epoch, progress.offset)
        self.iteration = progress.iteration
        self.time_s, self.train_time_s = progress.time_s, progress.train_time_s
        self.history, self.cause = list(progress.history), progress.cause
        self.instrument = progress.instrument

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {
            **_prefixed("generator", self.generator.state_dict()),
            **_prefixed("discriminator", self.discriminator.state_dict()),
            **_prefixed("best_generator", self.best_generator),
            **_prefixed("gen_optimizer", _optimizer_tensors(self.gen_optimizer)),
            **_prefixed("disc_optimizer", _optimizer_tensors(self.disc_optimizer)),
            _dropout_key(self.latent_source.device): self.dropout_source.get_state(),
            "rng.latents": self.latent_source.get_state(),
        }
        if self.average is not None:
            tensors |= _prefixed("average", self.average.state_dict())
        # Where a GPU trains on meanwhile, the counters of averages and of some optimizers are a CPU's.
        return _on_host(tensors, copies=self.latent_source.device.type != "cpu")

    def _require_same_config(self, folder: Path, saved: dict[str, Any]) -> None:
        own = self.config.model_dump(mode="json")
        # A field that is newer than the checkpoint has its default there.
        saved = _parse_config(folder, saved).model_dump(mode="json")
        differing = [
            f"{name} {saved[name]!r} is now {own[name]!r}"
            for name in own
            if name not in _FREE_FIELDS and saved[name] != own[name]
        ]
        if differing:
            raise CheckpointError(f"{folder} is of another configuration: {', '.join(differing)}")


class Snapshot(NamedTuple):
    """What a checkpoint holds, on the host.

    Attributes:
        progress: How far the run has come, as JSON.
        tensors: The weights and the states of optimizers and random numbers, by name.
    """

    progress: str
    tensors: dict[str, Tensor]

    def write(self, folder: Path) -> None:
        """Write a checkpoint, as `TrainingState.save` says."""
        metadata = {"progress": self.progress, "checksum": _checksum(self.progress, self.tensors)}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # Not by `save_file`, whose file nobody but its owner may read.
            content = serialize(self.tensors, metadata=metadata)
        except (OSError, SafetensorError) as error:
            raise StorageError(f"{folder / FILE_NAME} cannot be written ({error})") from None
        write_whole(folder / FILE_NAME, content)


def _on_host(tensors: Mapping[str, Tensor], *, copies: bool = False) -> dict[str, Tensor]:
    """Return tensors on the CPU, those of a GPU copied into pinned memory, all before it is waited for.

    Args:
        tensors: By name.
        copies: Whether those of a CPU are copied, too.
    """
    found, devices = {}, set()
    for name, tensor in tensors.items():
        values = tensor.detach().contiguous()
        if values.device.type == "cpu":
            found[name] = values.clone() if copies else values
        else:
            is_cuda = values.device.type == "cuda"
            found[name] = values.to("cpu", non_blocking=is_cuda)
            devices |= {values.device} if is_cuda else set()
    for device in devices:
        torch.cuda.synchronize(device)
    return found


def _clone(source: torch.Generator) -> torch.Generator:
    return torch.Generator(source.device).set_state(source.get_state())


def read_progress(folder: Path) -> Progress:
    """Read how far a checkpoint's run had come, without its weights.

    Raises:
        CheckpointError: if the checkpoint is missing or damaged.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}")
    if not os.access(path, os.R_OK):
        raise CheckpointError(f"{path} cannot be read (Permission denied)")
    try:
        with safe_open(path, framework="pt") as file:
            return _parse_progress((file.metadata() or {})["progress"])
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise _damaged(folder, error) from None
    except (RecursionError, OverflowError) as error:
        # What only a file that was made to do harm holds: brackets without end, infinite iterations.
        raise _damaged(folder, error) from None


def estimate_bytes(config: GanConfig) -> int:
    """Return about how large a checkpoint of a configuration is: weights, averages and optimizers."""
    with torch.device("meta"):
        generator, discriminator = build_networks(config)
    sizes: list[int] = [
        sum(t.numel() * t.element_size() for t in network.state_dict().values())
        for network in (generator, discriminator)
    ]
    # Adam and its kin keep two moments of each weight; momentum is one, where there is any.
    momentum = 1 if config.beta1 else 0
    moments = {"sgd": momentum, "rmsprop": 1 + momentum}.get(config.optimizer, 2)
    averages = 1 if config.ema_decay else 0
    return sum(sizes) * (1 + moments) + sizes[0] * (1 + averages)


def check(folder: Path) -> Progress:
    """Read a whole checkpoint, which says whether it is damaged anywhere, and return how far it is.

    Raises:
        CheckpointError: if the checkpoint is missing or damaged.
    """
    return _read(folder)[0]


def load_best_generator(folder: Path) -> tuple[GanConfig, dict[str, Tensor]]:
    """Read the configuration and the best generator's weights of a checkpoint.

    Raises:
        CheckpointError: if the checkpoint is missing or damaged.
    """
    progress, tensors = _read(folder)
    weights = _under("best_generator", tensors) or _under("generator", tensors)
    return _parse_config(folder, progress.config), weights


def _read(folder: Path) -> tuple[Progress, dict[str, Tensor]]:
    progress = read_progress(folder)
    try:
        with safe_open(folder / FILE_NAME, framework="pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        # Checkpoints of version 0.1.0 hold none.
        checksum = metadata.get("checksum")
        if checksum is not None and checksum != _checksum(metadata["progress"], tensors):
            raise ValueError("its checksum is another")
        return progress, tensors
    except ValueError as error:
        raise _damaged(folder, error) from None
    except (OSError, SafetensorError) as error:
        raise _damaged(folder, error) from None


def _parse_progress(text: str) -> Progress:
    """Read what `TrainingState.save` wrote of its progress.

    Raises:
        KeyError, TypeError, ValueError: if it is anything else.
    """
    values = json.loads(text)
    if values["format"] != _FORMAT:
        raise ValueError(f"its format is {values['format']}, not {_FORMAT}")
    return Progress(
        config=dict(values["config"]),
        device=str(values["device"]),
        iteration=int(values["iteration"]),
        epoch=int(values["epoch"]),
        offset=int(values["offset"]),
        time_s=float(values["time_s"]),
        history=tuple(
            Scored(int(iteration), float(score), *map(bool, others))
            for iteration, score, *others in values["history"]
        ),
        cause=str(values.get("cause", "")),
        train_time_s=float(values.get("train_time_s", 0.0)),
        instrument=str(values.get("instrument", "")),
    )


def _checksum(progress: str, tensors: dict[str, Tensor]) -> str:
    """Return the CRC-32 of a checkpoint's content: a safetensors file does not notice a flipped bit."""
    value = zlib.crc32(progress.encode())
    for name in sorted(tensors):
        # As bytes, since NumPy does not know every type; a scalar has no bytes to look at otherwise.
        tensor = tensors[name].contiguous()
        value = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), value)
        value = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().tobytes(), value)
    return f"{value:08x}"


def _parse_config(folder: Path, values: dict[str, Any]) -> GanConfig:
    try:
        return GanConfig.parse(values)
    except ConfigError as error:
        raise _damaged(folder, error) from None


def _damaged(folder: Path, error: Exception) -> CheckpointError:
    reason = " ".join(str(error).split())[:200]
    return CheckpointError(f"{folder / FILE_NAME} is damaged ({reason}); start the run again")


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's state as ``{parameter index}.{key}``; an absent value is left out."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{key}": value
        for index, values in state.items()
        for key, value in values.items()
        if isinstance(value, Tensor)
    }


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    for parameter, values in optimizer.state.items():
        for key, value in values.items():
            # Laid out as the parameter is, which a fused step wants.
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                values[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _dropout_key(device: torch.device) -> str:
    return "rng.cuda" if device.type == "cuda" else "rng.torch"


def _prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    start = f"{prefix}."
    return {name[len(start) :]: t for name, t in tensors.items() if name.startswith(start)}
