import copy
import json
import os
import pickle
import random
import signal
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.conftest import TINY_RING
from tests.limits import largest_file
from tune_gan.config import GanConfig
from tune_gan.errors import CheckpointError, StorageError
from tune_gan.gan.checkpoint import (
    FILE_NAME,
    TrainingState,
    _load_optimizer,
    _optimizer_tensors,
    check,
    estimate_bytes,
    load_best_generator,
    read_progress,
)
from tune_gan.gan.data import load_data
from tune_gan.gan.training import begin, iterate
from tune_gan.presets import load_preset


@pytest.fixture(scope="module")
def state() -> TrainingState:
    """The state of a small ring GAN at its second report."""
    config = GanConfig(
        dataset="circle",
        gen_hidden=(16,),
        disc_hidden=(16,),
        latent_dim=2,
        batch_size=32,
        num_iterations=6,
        report_every=2,
        ema_decay=0.5,
    )
    return list(islice(iterate(config), 2))[-1].training


@pytest.fixture
def folder(state: TrainingState, tmp_path: Path) -> Path:
    state.save(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.fixture
def whole(folder: Path) -> bytes:
    return (folder / FILE_NAME).read_bytes()


def _require_damaged(folder: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        check(folder)
    assert str(caught.value).startswith(f"{folder / FILE_NAME} is damaged (")
    assert str(caught.value).endswith("); start the run again")
    assert "\n" not in str(caught.value)


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / FILE_NAME)


def _header(content: bytes) -> tuple[int, dict[str, Any]]:
    """Return where a file's tensors begin, and its header."""
    end = 8 + int.from_bytes(content[:8], "little")
    return end, json.loads(content[8:end])


def _rewrite(folder: Path, change: Any) -> None:
    """Write a checkpoint again with other tensors, its metadata as they were."""
    with safe_open(folder / FILE_NAME, framework="pt") as file:
        metadata = file.metadata()
    tensors = _tensors(folder)
    change(tensors)
    save_file(tensors, folder / FILE_NAME, metadata=metadata)


def test_a_whole_checkpoint_says_how_far_it_is(folder: Path, state: TrainingState) -> None:
    progress = check(folder)
    assert progress == read_progress(folder)
    assert (progress.iteration, progress.device, progress.cause) == (4, "cpu", "")
    assert progress.config == state.config.model_dump(mode="json")
    assert progress.history == tuple(state.history)
    assert [iteration for iteration, *_ in progress.history] == [2, 4]
    assert progress.time_s == state.time_s >= progress.train_time_s > 0


def test_flipped_bytes_anywhere_are_noticed(folder: Path, whole: bytes) -> None:
    expected, tensors = check(folder), _tensors(folder)
    source = np.random.default_rng(0)
    positions = source.choice(len(whole), 60, replace=False)
    refused = 0
    for position in positions:
        content = bytearray(whole)
        content[position] ^= int(source.integers(1, 256))
        (folder / FILE_NAME).write_bytes(content)
        try:
            progress = check(folder)
        except CheckpointError:
            refused += 1
            continue
        # Padding, or the name of the checksum: nothing that counts.
        assert progress == expected
        found = _tensors(folder)
        assert found.keys() == tensors.keys()
        assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert refused >= 58


def test_a_flipped_bit_in_each_byte_of_the_header_is_noticed_or_harmless(
    folder: Path, whole: bytes
) -> None:
    """The header names types and shapes, on which the weights' bytes themselves do not depend."""
    expected, tensors = check(folder), _tensors(folder)
    end, _ = _header(whole)
    for position in range(8, end, 13):
        content = bytearray(whole)
        content[position] ^= 1 << (position % 7)
        (folder / FILE_NAME).write_bytes(content)
        try:
            progress = check(folder)
        except CheckpointError:
            continue
        assert progress == expected
        found = _tensors(folder)
        assert found.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert found[name].dtype == tensor.dtype
            assert torch.equal(found[name], tensor)


@pytest.mark.parametrize(
    ("old", "new"), [(b'"F32"', b'"I32"'), (b'"F32"', b'"U32"'), (b'"U8"', b'"I8"')]
)
def test_a_tensor_of_another_type_is_noticed(
    folder: Path, whole: bytes, old: bytes, new: bytes
) -> None:
    """A single byte of the header turns weights into whole numbers of the same bytes."""
    end, _ = _header(whole)
    assert old in whole[:end]
    (folder / FILE_NAME).write_bytes(whole[:end].replace(old, new, 1) + whole[end:])
    _require_damaged(folder)


@pytest.mark.parametrize("name", ["generator.layers.0.weight", "disc_optimizer.0.exp_avg", "rng.torch"])
def test_a_tensor_that_lost_its_shape_is_noticed(folder: Path, name: str) -> None:
    def flatten(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name] = tensors[name].reshape(-1, 1, 1)

    _rewrite(folder, flatten)
    _require_damaged(folder)


def test_a_tensor_of_another_size_is_noticed(folder: Path) -> None:
    def lengthen(tensors: dict[str, torch.Tensor]) -> None:
        tensors["generator.layers.0.weight"] = torch.zeros(16, 3)

    _rewrite(folder, lengthen)
    _require_damaged(folder)


@pytest.mark.parametrize("name", ["generator.layers.0.bias", "rng.latents", "gen_optimizer.0.step"])
def test_a_tensor_that_is_missing_or_changed_is_noticed(folder: Path, whole: bytes, name: str) -> None:
    _rewrite(folder, lambda tensors: tensors.pop(name))
    _require_damaged(folder)
    (folder / FILE_NAME).write_bytes(whole)
    _rewrite(folder, lambda tensors: tensors[name].view(-1)[-1:].add_(1))
    _require_damaged(folder)


def test_a_checkpoint_cut_anywhere_is_refused(folder: Path, whole: bytes) -> None:
    cuts = np.random.default_rng(1).choice(len(whole), 30, replace=False)
    for size in (0, 1, 7, 8, 9, len(whole) - 1, *map(int, cuts)):
        (folder / FILE_NAME).write_bytes(whole[:size])
        _require_damaged(folder)


def test_what_follows_the_end_is_refused(folder: Path, whole: bytes) -> None:
    for extra in (b"\x00", b"x" * 1000, whole):
        (folder / FILE_NAME).write_bytes(whole + extra)
        _require_damaged(folder)


@pytest.mark.parametrize("length", [0, 1, 2**31, 2**40, 2**62, 2**64 - 1])
def test_an_absurd_header_length_is_refused_at_once(folder: Path, whole: bytes, length: int) -> None:
    (folder / FILE_NAME).write_bytes(length.to_bytes(8, "little") + whole[8:])
    started = time.thread_time()
    _require_damaged(folder)
    assert time.thread_time() - started < 1


class _Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.write_text, (self.path, "caught"))


@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_a_pickle_is_refused_and_does_not_run(folder: Path, tmp_path: Path, how: str) -> None:
    sprung = tmp_path / "sprung"
    if how == "pickle":
        (folder / FILE_NAME).write_bytes(pickle.dumps(_Trap(sprung)))
    else:
        torch.save(_Trap(sprung), folder / FILE_NAME)
    _require_damaged(folder)
    with pytest.raises(CheckpointError):
        load_best_generator(folder)
    assert not sprung.exists()
    pickle.loads(pickle.dumps(_Trap(sprung)))  # noqa: S301 -- to see that the trap is one
    assert sprung.exists()


@pytest.mark.parametrize(
    "progress",
    [
        "",
        "[]",
        "5",
        "{}",
        "[" * 100_000,
        '{"format": 2}',
        '{"format": 1, "config": 5}',
        '{"format": 1, "config": {}, "device": "cpu", "iteration": Infinity}',
        '{"format": 1, "config": {}, "device": "cpu", "iteration": "x"}',
    ],
)
def test_a_wrong_progress_is_refused(folder: Path, progress: str) -> None:
    save_file(_tensors(folder), folder / FILE_NAME, metadata={"progress": progress})
    _require_damaged(folder)


@pytest.mark.parametrize("metadata", [None, {}, {"checksum": "0"}])
def test_a_file_of_other_tensors_is_refused(folder: Path, metadata: dict[str, str] | None) -> None:
    save_file({"x": torch.zeros(3)}, folder / FILE_NAME, metadata=metadata)
    _require_damaged(folder)


def test_a_checkpoint_without_a_checksum_is_read(folder: Path) -> None:
    """As version 0.1.0 wrote it."""
    expected = check(folder)
    with safe_open(folder / FILE_NAME, framework="pt") as file:
        metadata = {"progress": file.metadata()["progress"]}
    save_file(_tensors(folder), folder / FILE_NAME, metadata=metadata)
    assert check(folder) == expected


def test_a_missing_checkpoint_is_told_as_missing(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "none"):
        with pytest.raises(CheckpointError) as caught:
            check(place)
        assert str(caught.value) == f"no checkpoint at {place / FILE_NAME}"


def test_a_full_disk_leaves_the_last_checkpoint_and_nothing_else(
    folder: Path, state: TrainingState, whole: bytes
) -> None:
    with largest_file(len(whole) // 2), pytest.raises(StorageError) as caught:
        state.save(folder)
    assert str(caught.value) == f"{folder / FILE_NAME} cannot be written (File too large)"
    assert [path.name for path in folder.iterdir()] == [FILE_NAME]
    assert (folder / FILE_NAME).read_bytes() == whole


def _begin_to_save(state: TrainingState, folder: Path) -> int:
    """Return the number of a process that saves checkpoints, each an iteration further, for ever."""
    ready, begun = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(begun, b"x")
            while True:
                state.iteration += 1
                state.save(folder)
        finally:
            os._exit(1)
    os.read(ready, 1)
    os.close(ready)
    os.close(begun)
    return child


def _kill_while_saving(state: TrainingState, folder: Path, kills: int) -> None:
    """Kill processes that save, at seeded moments, and see that each left a whole checkpoint."""
    source, cut_short = random.Random(kills), 0  # noqa: S311
    state = copy.copy(state)
    # So large that a process is writing most of the time.
    state.best_generator = {"filling": torch.zeros(200_000)}
    started = time.perf_counter()
    state.save(folder)
    # Of a machine that is busy some are done, too.
    longest = max(0.02, 4 * (time.perf_counter() - started))
    reached = first = state.iteration
    for _ in range(kills):
        child = _begin_to_save(state, folder)
        time.sleep(source.uniform(0.0, longest))
        os.kill(child, signal.SIGKILL)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        reached = max(reached, check(folder).iteration)
        for left in folder.glob(".*.tmp"):
            left.unlink()
            cut_short += 1
    assert reached > first
    assert cut_short > 0


def test_a_killed_save_leaves_a_whole_checkpoint(folder: Path, state: TrainingState) -> None:
    _kill_while_saving(state, folder, 20)


@pytest.mark.slow
def test_a_hundred_killed_saves_leave_whole_checkpoints(folder: Path, state: TrainingState) -> None:
    _kill_while_saving(state, folder, 100)


DIGITS: dict[str, Any] = {
    "dataset": "digits",
    "gen_hidden": (128, 256),
    "disc_hidden": (256, 128),
    "latent_dim": 16,
    "batch_size": 64,
}


def _size_after_a_step(config: GanConfig, folder: Path) -> int:
    """Return how large a checkpoint is once optimizers and best generator hold what they will."""
    state = begin(config, load_data(config))
    for network, optimizer in (
        (state.generator, state.gen_optimizer),
        (state.discriminator, state.disc_optimizer),
    ):
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    state.record({"fid_proxy": 1.0, "degenerate": False}, "", 0.5)
    state.save(folder)
    return (folder / FILE_NAME).stat().st_size


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ema_decay": 0.9},
        {"spectral_norm": True},
        {"optimizer": "rmsprop"},
        {"optimizer": "rmsprop", "beta1": 0.0},
        {"optimizer": "sgd"},
        {"optimizer": "sgd", "beta1": 0.0},
        {"optimizer": "adamw", "disc_batch_norm": True},
        {"optimizer": "nadam"},
        {"optimizer": "radam"},
        {"architecture": "dcgan28", "features": 16, "batch_size": 8},
        {"architecture": "dcgan28", "features": 16, "batch_size": 8, "ema_decay": 0.9},
    ],
)
def test_the_size_of_a_checkpoint_is_foreseen(tmp_path: Path, changes: dict[str, Any]) -> None:
    config = GanConfig.parse({**DIGITS, **changes})
    assert estimate_bytes(config) == pytest.approx(_size_after_a_step(config, tmp_path), rel=0.1)


def test_the_size_of_the_rings_checkpoint_is_foreseen(tmp_path: Path) -> None:
    config = load_preset("circle").model_copy(update={"num_iterations": 1, "report_every": 1})
    next(iterate(config)).training.save(tmp_path)
    size = (tmp_path / FILE_NAME).stat().st_size
    assert estimate_bytes(config) == pytest.approx(size, rel=0.1)
    # The other sizes here are those of checkpoints that were put together without training.
    assert _size_after_a_step(config, tmp_path / "other") == pytest.approx(size, rel=0.01)


def test_the_size_does_not_depend_on_how_far_a_run_is() -> None:
    config = GanConfig.parse({**DIGITS, "num_iterations": 10**9})
    assert estimate_bytes(config) == estimate_bytes(GanConfig.parse(DIGITS))


@pytest.mark.parametrize("changes", [{}, {"optimizer": "sgd"}, {"ema_decay": 0.9}])
def test_a_copy_stays_while_the_run_goes_on(changes: dict[str, Any], tmp_path: Path) -> None:
    config = TINY_RING.model_copy(update={**changes, "device": "cpu"})
    reports = iterate(config)
    training = next(reports).training
    copied, before = training.copied(), training.snapshot()
    before = before._replace(tensors={name: t.clone() for name, t in before.tensors.items()})
    gradients = [p.grad for p in copied.generator.parameters()]
    assert all(gradient is not None for gradient in gradients)
    next(reports)
    after = copied.snapshot()
    assert after.progress == before.progress
    assert after.tensors.keys() == before.tensors.keys()
    assert all(torch.equal(after.tensors[name], t) for name, t in before.tensors.items())
    # Its optimizers are those of its own parameters.
    copied.gen_optimizer.step()
    changed = copied.snapshot().tensors["generator.layers.0.weight"]
    assert not torch.equal(changed, before.tensors["generator.layers.0.weight"])
    copied.save(tmp_path)
    check(tmp_path)


def test_an_optimizers_state_is_laid_out_as_its_parameters_are() -> None:
    """A fused step refuses anything else; those of a checkpoint are laid out row by row."""
    network = torch.nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last)
    ours, theirs = (torch.optim.Adam(network.parameters(), fused=True) for _ in range(2))
    network(torch.randn(2, 4, 5, 5)).sum().backward()
    theirs.step()
    tensors = {name: t.contiguous() for name, t in _optimizer_tensors(theirs).items()}
    _load_optimizer(ours, tensors)
    for name in ("exp_avg", "exp_avg_sq"):
        state = ours.state[network.weight][name]
        assert state.stride() == network.weight.stride()
        assert torch.equal(state, theirs.state[network.weight][name])
    ours.step()
