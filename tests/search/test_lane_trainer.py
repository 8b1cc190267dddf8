"""The process that trains trials in lanes, without Ray: threads ask as the processes of trials do."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import LANE_SWEEP
from tests.integration.commands import PATIENCE_S
from tune_gan.config import GanConfig
from tune_gan.gan.lanes.pool import Lane, LanePool
from tune_gan.gan.training import iterate
from tune_gan.results.trials import read_reports
from tune_gan.search.failures import TrialFailure
from tune_gan.search.lane_trainer import LaneTrainer
from tune_gan.search.spec import SweepSpec

SPEC = SweepSpec.parse(LANE_SWEEP)
Values = dict[str, Any]


@pytest.fixture(params=["at once", "beside"])
def trainer(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> LaneTrainer:
    """One that makes reports at once, as on a CPU, or beside the training, as on a GPU."""
    monkeypatch.setattr(LanePool, "is_on_cpu", request.param == "at once")
    return LaneTrainer(SPEC.model_dump(mode="json"), str(tmp_path), 2)


def _pass_on(trainer: LaneTrainer, number: int, values: Values, most: int = 100) -> list[Values]:
    """Submit a trial and take so many lines, as its process does; then Tune stops it."""
    assert trainer.submit(number, values)
    lines: list[Values] = []
    try:
        while len(lines) < most and (line := trainer.next(number)) is not None:
            lines.append(line)
            if line["state"] != "running":
                break
    finally:
        trainer.stop(number)
    return lines


def _reports(run: Path, number: int) -> list[Values]:
    return read_reports(run / f"trial_{number:05d}/result.json")


def test_the_next_trial_takes_the_lane_of_one_that_is_stopped(
    trainer: LaneTrainer, tmp_path: Path
) -> None:
    """Their neighbour goes on as if it were alone, and of what is stopped nothing more is written."""
    with ThreadPoolExecutor() as pool:
        neighbour = pool.submit(_pass_on, trainer, 0, {"gen_lr": 0.01})
        assert len(_pass_on(trainer, 1, {"gen_lr": 0.02}, most=1)) == 1
        assert len(_pass_on(trainer, 2, {"gen_lr": 0.03})) == 4
        lines = neighbour.result(PATIENCE_S)
    alone = iterate(GanConfig.parse({**SPEC.gan.model_dump(), "gen_lr": 0.01}))
    for line, report in zip(lines, alone, strict=True):
        for name in ("iteration", "gen_loss", "disc_loss", "fid_proxy"):
            assert line[name] == pytest.approx(report.metrics[name], rel=1e-4), name
    assert [line["iteration"] for line in _reports(tmp_path, 1)] == [50]


def test_no_more_trials_than_lanes(trainer: LaneTrainer) -> None:
    assert trainer.submit(0, {"gen_lr": 0.01})
    assert trainer.submit(1, {"gen_lr": 0.02})
    assert trainer.load() == 2
    assert not trainer.submit(2, {"gen_lr": 0.03})
    trainer.stop(0)
    assert trainer.submit(2, {"gen_lr": 0.03})


def test_a_trial_whose_process_died_goes_on_from_its_last_report(
    trainer: LaneTrainer, tmp_path: Path
) -> None:
    values = {"gen_lr": 0.01}
    assert trainer.submit(0, values)
    assert trainer.next(0)
    # What it was told last it is told again: nobody knows whether Tune heard of it.
    assert [line["iteration"] for line in _pass_on(trainer, 0, values)] == [50, 100, 150, 200]
    assert [line["iteration"] for line in _reports(tmp_path, 0)] == [50, 100, 150, 200]


def test_whoever_waits_for_a_trial_is_told_of_its_end(trainer: LaneTrainer) -> None:
    values = {"gen_lr": 0.01}
    _pass_on(trainer, 0, values)
    assert trainer.submit(0, values)
    assert trainer.next(0)  # the last line again
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(trainer.next, 0)
        _wait_until(lambda: trainer._trials[0].asked)
        trainer.stop(0)
        assert waiting.result(PATIENCE_S) is None
    # Its process is told at once, its folder is closed by the thread that trains.
    _wait_until(lambda: not trainer._trials)
    with pytest.raises(RuntimeError, match="knows nothing of it"):
        trainer.next(0)


def test_short_memory_is_told_to_all_and_halves_the_lanes(
    trainer: LaneTrainer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    train, calls = LanePool.advance, iter(range(100))

    def advance(pool: LanePool) -> list[Lane]:
        if len(pool.lanes) == 2 and next(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return train(pool)

    monkeypatch.setattr(LanePool, "advance", advance)
    with ThreadPoolExecutor() as pool:
        trials = [pool.submit(_pass_on, trainer, n, {"gen_lr": 0.01 * (n + 1)}) for n in range(2)]
        for trial in trials:
            with pytest.raises(TrialFailure, match="out of memory") as failure:
                trial.result(PATIENCE_S)
            assert failure.value.kind == "memory"
    _wait_until(lambda: not trainer._trials)
    assert trainer.submit(0, {"gen_lr": 0.01})
    assert not trainer.submit(1, {"gen_lr": 0.02})
    trainer.stop(0)
    assert _pass_on(trainer, 1, {"gen_lr": 0.02})[-1]["iteration"] == 200
    assert [line["iteration"] for line in _reports(tmp_path, 1)] == [50, 100, 150, 200]


def test_a_pool_that_fails_while_a_report_is_made_tells_the_trial_of_it_afterwards(
    trainer: LaneTrainer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Or else the report's line would take the place of the error, and its process wait for ever."""
    train, score, has_failed = LanePool.advance, LanePool.score, threading.Event()

    def advance(pool: LanePool) -> list[Lane]:
        if pool.lanes[0].training.iteration >= 50 and not has_failed.is_set():
            has_failed.set()
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return train(pool)

    def slow(pool: LanePool, collected: Any) -> Any:
        # Made beside the training, it is still being made when that fails.
        has_failed.wait(1.0)
        return score(pool, collected)

    monkeypatch.setattr(LanePool, "advance", advance)
    monkeypatch.setattr(LanePool, "score", slow)
    with ThreadPoolExecutor() as pool, pytest.raises(TrialFailure, match="out of memory"):
        pool.submit(_pass_on, trainer, 0, {"gen_lr": 0.01}).result(PATIENCE_S)
    _wait_until(lambda: not trainer._trials)
    # What was reported is on the disk, and it goes on from there.
    assert [line["iteration"] for line in _reports(tmp_path, 0)] == [50]
    assert _pass_on(trainer, 0, {"gen_lr": 0.01})[-1]["iteration"] == 200
    assert [line["iteration"] for line in _reports(tmp_path, 0)] == [50, 100, 150, 200]


def test_memory_that_is_short_for_a_report_halves_the_lanes_too(
    trainer: LaneTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    collect, calls = LanePool.collect, iter(range(100))

    def short(pool: LanePool, lane: Lane) -> Any:
        if next(calls) == 0:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return collect(pool, lane)

    monkeypatch.setattr(LanePool, "collect", short)
    with ThreadPoolExecutor() as pool, pytest.raises(TrialFailure, match="out of memory"):
        pool.submit(_pass_on, trainer, 0, {"gen_lr": 0.01}).result(PATIENCE_S)
    _wait_until(lambda: not trainer._trials)
    assert trainer._num_lanes == 1
    assert _pass_on(trainer, 0, {"gen_lr": 0.01})[-1]["iteration"] == 200


def test_a_trial_that_cannot_be_trained_harms_no_other(trainer: LaneTrainer) -> None:
    """Its shape is that of its neighbour, and so is its pool; its checkpoint is of other settings."""
    _pass_on(trainer, 1, {"gen_lr": 0.02}, most=1)
    with ThreadPoolExecutor() as pool:
        neighbour = pool.submit(_pass_on, trainer, 0, {"gen_lr": 0.01})
        with pytest.raises(TrialFailure, match="gen_lr") as failure:
            _pass_on(trainer, 1, {"gen_lr": 0.03})
        assert failure.value.kind == "input"
        assert neighbour.result(PATIENCE_S)[-1]["iteration"] == 200


_FAILS = """
import sys
import torch
from tests.search.test_lane_trainer import SPEC
from tune_gan.gan.lanes.pool import LanePool
from tune_gan.search.lane_trainer import LaneTrainer

def advance(pool):
    raise torch.AcceleratorError(sys.argv[2])

LanePool.advance = advance
trainer = LaneTrainer(SPEC.model_dump(mode="json"), sys.argv[1], 2)
trainer.submit(0, {"gen_lr": 0.01})
try:
    trainer.next(0)
except Exception as error:
    sys.exit(f"told: {error}")
"""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("CUDA error: an illegal memory access was encountered", "AcceleratorError"),
        ("CUDA error: out of memory", "told: ('memory'"),
    ],
)
def test_a_process_without_its_gpu_ends_and_one_short_of_memory_does_not(
    error: str, said: str, tmp_path: Path
) -> None:
    """Ray starts another process, where every CUDA call of the one would fail."""
    command = [sys.executable, "-c", _FAILS, str(tmp_path), error]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert said in ended.stderr
    assert ("told: " in ended.stderr) == ("told: " in said)


_HANGS = """
import sys
import time
from tests.search.test_lane_trainer import SPEC
from tune_gan.gan.lanes.pool import LanePool
from tune_gan.search.lane_trainer import LaneTrainer

LanePool.is_on_cpu = sys.argv[2] == "at once"
LanePool.score = lambda pool, collected: time.sleep(1200)
spec = SPEC.model_dump(mode="json")
spec["failures"]["report_timeout"] = 2.0
trainer = LaneTrainer(spec, sys.argv[1], 2)
trainer.submit(0, {"gen_lr": 0.01})
trainer.next(0)
"""


@pytest.mark.parametrize("way", ["at once", "beside"])
def test_a_report_that_hangs_ends_the_process(way: str, tmp_path: Path) -> None:
    """Ray starts another one, and Tune the trial again."""
    command = [sys.executable, "-c", _HANGS, str(tmp_path), way]
    ended = subprocess.run(command, timeout=PATIENCE_S, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (1, "")


def _wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)
