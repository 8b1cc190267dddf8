"""Trains many trials in lanes, in a thread of its own, and answers their processes."""

import os
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tune_gan.gan.lanes.pool import MOST_COLLECTED, Collected, Lane, LanePool, shape_of
from tune_gan.gan.shortage import is_broken
from tune_gan.search.failures import TrialFailure
from tune_gan.search.spec import SweepSpec
from tune_gan.search.trainable import TrialRecord, opened_trial, telling_failures

_LOOK_AGAIN_S = 5.0
# How long a trial that is due waits for its process, which may have died without a word.
_LONGEST_SILENCE_S = 60.0
# Python has one thread work at a time; a report waits for the GPU and for the disk half of its time.
_MOST_REPORTERS = 4


@dataclass(eq=False)
class _Trial:
    """A trial from its submission to its end.

    Attributes:
        number: In the sweep.
        values: Its searched fields.
        record: Its folder, once it was opened.
        lane: Its lane, once it has one.
        stack: Closes the folder.
        begun: Whether it was begun with.
        asked: Whether its process waits for the next line: what it was told is judged then.
        reporting_since: When a report of it was begun with in another thread; none where none is made.
        is_done: Whether it trains no more, and its lane is to be free.
        answer: The next line, or why there is none.
        is_over: Whether no more lines come.
    """

    number: int
    values: dict[str, Any]
    record: TrialRecord | None = None
    lane: Lane | None = None
    stack: ExitStack = field(default_factory=ExitStack)
    begun: bool = False
    asked: bool = False
    reporting_since: float | None = None
    is_done: bool = False
    answer: dict[str, Any] | Exception | None = None
    is_over: bool = False

    @property
    def is_judged(self) -> bool:
        """Whether Tune has judged its last report, and waits for the next."""
        return self.asked and self.answer is None and not self.is_reporting

    @property
    def is_reporting(self) -> bool:
        """Whether a report of it is being made in another thread."""
        return self.reporting_since is not None


class LaneTrainer:
    """Trains the trials that are submitted to it, those of each shape as one batch of models.

    A trial's process submits it, asks for one line after the other and tells Ray Tune, and says when
    Tune has stopped it. A lane trains on while Tune judges its last report, but nothing of the next one
    is written before Tune has let it go on: what is written does not depend on who was faster. Reports
    of a GPU are made in other threads, while it trains.

    Args:
        spec: The sweep.
        run: The run folder.
        num_lanes: Trials at a time.
    """

    def __init__(self, spec: dict[str, Any], run: str, num_lanes: int) -> None:
        self._spec, self._run, self._num_lanes = SweepSpec.parse(spec), Path(run), num_lanes
        self._trials: dict[int, _Trial] = {}
        self._pools: dict[Any, LanePool] = {}
        self._changed = threading.Condition()
        self._alive_at = time.monotonic()
        threads = min(self._spec.resources.cpus, _MOST_REPORTERS)
        self._reporters = ThreadPoolExecutor(threads, thread_name_prefix="report")
        threading.Thread(target=self._train, daemon=True).start()

    def load(self) -> int:
        """Return how many trials it has."""
        with self._changed:
            return self._load()

    def submit(self, number: int, values: dict[str, Any]) -> bool:
        """Take a trial, from its last checkpoint on; return whether there was room for it."""
        with self._changed:
            before = self._trials.get(number)
            if before is not None:
                # Of a process that died; the trial's folder is to be closed first.
                before.is_over = True
                self._changed.notify_all()
                while self._trials.get(number) is before:
                    self._changed.wait(_LOOK_AGAIN_S)
                    self._require_life()
            if self._load() >= self._num_lanes:
                return False
            self._trials[number] = _Trial(number, values)
            self._changed.notify_all()
            return True

    def next(self, number: int) -> dict[str, Any] | None:
        """Wait for a trial's next line and return it, or nothing where no more come.

        Raises:
            TrialFailure: why the trial cannot go on; and whatever else happened to it.
        """
        with self._changed:
            trial = self._trials.get(number)
            if trial is None:
                raise RuntimeError(
                    "the process that trains knows nothing of it: it was started again, or gave its "
                    f"lane up after {_LONGEST_SILENCE_S:g} s without a word"
                )
            trial.asked = True
            self._changed.notify_all()
            while trial.answer is None and not trial.is_over:
                self._changed.wait(_LOOK_AGAIN_S)
                self._require_life()
            answer, trial.answer, trial.asked = trial.answer, None, False
            if isinstance(answer, Exception):
                raise answer
            return answer

    def stop(self, number: int) -> None:
        """Let a trial go, whether it has ended or Tune has stopped it."""
        with self._changed:
            if number in self._trials:
                self._trials[number].is_over = True
                self._changed.notify_all()

    def _load(self) -> int:
        return sum(not trial.is_over for trial in self._trials.values())

    def _require_life(self) -> None:
        """End the process if training hangs; Ray starts another, and Tune its trials again."""
        if time.monotonic() - self._alive_at > self._spec.failures.report_timeout:
            os._exit(1)

    def _note_life(self) -> None:
        """Note that training does not hang, unless a report does that is made beside it."""
        oldest = time.monotonic() - self._spec.failures.report_timeout
        with self._changed:
            since = [trial.reporting_since for trial in self._trials.values()]
            if not any(begun is not None and begun < oldest for begun in since):
                self._alive_at = time.monotonic()

    def _train(self) -> None:
        try:
            while True:
                self._settle()
                for shape, pool in list(self._pools.items()):
                    self._advance(shape, pool)
                    self._note_life()
        except BaseException:
            # Without this thread its trials would wait for ever; Ray starts another process.
            traceback.print_exc()
            os._exit(1)

    def _settle(self) -> None:
        """Let trials go that are over and begin with new ones; wait where there is nothing to do."""
        with self._changed:
            while not self._pools and not self._trials:
                self._note_life()
                self._changed.wait(_LOOK_AGAIN_S)
            trials = list(self._trials.values())
        for trial in trials:
            if trial.is_done:
                self._leave(trial)
            if trial.is_over and not trial.is_reporting:
                self._let_go(trial)
        for trial in trials:
            # After memory was short there may be more than there are lanes.
            has_lane = sum(each.lane is not None for each in trials) < self._num_lanes
            if has_lane and not (trial.is_over or trial.begun):
                trial.begun = True
                self._answering(trial, self._begin)
        if not self._pools:
            # All that there is waits for its process to take an answer.
            with self._changed:
                self._note_life()
                self._changed.wait(0.01)

    def _begin(self, trial: _Trial) -> dict[str, Any] | None:
        opened = opened_trial(self._run, trial.number, trial.values, self._spec)
        trial.record = trial.stack.enter_context(opened)
        if not trial.record.has_ended:
            config = trial.record.config
            try:
                with telling_failures():
                    pool = self._pools.get(shape_of(config)) or LanePool(config, self._num_lanes)
                    trial.lane = pool.join(config, trial.record.checkpoint)
            except Exception as error:
                _end_if_broken(error)
                # What is wrong with its configuration or checkpoint, is before a lane is touched.
                if not (isinstance(error, TrialFailure) and error.kind == "input"):
                    self._drop(shape_of(config), error)
                raise
            # Not before a run has joined: there is nothing to train in an empty one.
            self._pools[shape_of(config)] = pool
        return trial.record.told or None

    def _advance(self, shape: Any, pool: LanePool) -> None:
        """Train one pool for a while, and report what is due."""
        with self._changed:
            trials = list(self._trials.values())
        of_lane = {trial.lane: trial for trial in trials if trial.lane is not None}
        try:
            with telling_failures():
                due = pool.advance()
        except Exception as error:
            self._give_up(shape, error)
            return
        for lane in due:
            trial = of_lane[lane]
            if not self._is_awaited(trial):
                self._leave(trial)
                trial.is_over = True
                continue
            self._wait_for_reporters()
            try:
                with telling_failures():
                    collected = pool.collect(lane)
            except Exception as error:
                self._give_up(shape, error)
                return
            self._report(trial, pool, collected)
            self._note_life()

    def _give_up(self, shape: Any, error: Exception) -> None:
        """Go on without a pool in which something failed."""
        _end_if_broken(error)
        self._note(error)
        self._drop(shape, error)

    def _drop(self, shape: Any, error: Exception) -> None:
        """Give up a pool in which something failed: what its tensors hold is in doubt.

        Whatever it is, it befalls all of its trials, and they are told.
        """
        pool = self._pools.pop(shape, None)
        lanes = pool.lanes if pool is not None else []
        # Its frames would hold the tensors until the last trial has taken its answer.
        error.__traceback__ = error.__context__ = None
        with self._changed:
            trials = list(self._trials.values())
        for trial in trials:
            if trial.lane in lanes:
                trial.lane = None
                self._wait_for_report(trial)
                self._answer(trial, error)

    def _wait_for_report(self, trial: _Trial) -> None:
        """Wait until a report that is being made has answered, so that it answers no later."""
        with self._changed:
            while trial.is_reporting:
                self._note_life()
                self._changed.wait(_LOOK_AGAIN_S)

    def _is_awaited(self, trial: _Trial) -> bool:
        """Wait until Tune has judged a trial's last report; return whether it is to go on."""
        until = time.monotonic() + _LONGEST_SILENCE_S
        with self._changed:
            while not trial.is_over and not trial.is_judged:
                self._note_life()
                if trial.is_reporting:
                    until = time.monotonic() + _LONGEST_SILENCE_S
                if time.monotonic() >= until:
                    return False
                self._changed.wait(_LOOK_AGAIN_S)
            return not trial.is_over

    def _wait_for_reporters(self) -> None:
        """Wait until there is memory for the copy of one more lane that waits for its score."""
        with self._changed:
            while sum(trial.is_reporting for trial in self._trials.values()) >= MOST_COLLECTED:
                self._note_life()
                self._changed.wait(_LOOK_AGAIN_S)

    def _report(self, trial: _Trial, pool: LanePool, collected: Collected) -> None:
        """Make a report of a lane that is due: at once, or on a GPU beside the training."""
        assert trial.lane is not None
        lane = trial.lane

        def make(trial: _Trial) -> dict[str, Any]:
            assert trial.record is not None
            report = pool.score(collected)
            lane.training.adopt(report.training)
            line, write = trial.record.take(report)
            write()
            trial.is_done = line["state"] != "running"
            return line

        if pool.is_on_cpu:
            self._answering(trial, make)
            return
        if collected.training.iteration == collected.training.config.num_iterations:
            # There is nothing left to train.
            self._leave(trial)
        trial.reporting_since = time.monotonic()
        self._reporters.submit(self._answering, trial, make)

    def _answering(self, trial: _Trial, do: Any) -> None:
        """Do something for a trial and answer its process with what came of it."""
        try:
            with telling_failures():
                answer = do(trial)
        # Whatever it is, it befalls this trial alone, and it is told.
        except Exception as error:
            _end_if_broken(error)
            self._note(error)
            trial.is_done, answer = True, error
        with self._changed:
            trial.reporting_since = None
            self._changed.notify_all()
            if answer is not None:
                self._answer(trial, answer)

    def _note(self, error: Exception) -> None:
        """Have half as many lanes from now on if memory was short."""
        if isinstance(error, TrialFailure) and error.kind == "memory":
            with self._changed:
                self._num_lanes = max(1, self._num_lanes // 2)

    def _answer(self, trial: _Trial, answer: dict[str, Any] | Exception) -> None:
        with self._changed:
            trial.answer = answer
            self._changed.notify_all()

    def _leave(self, trial: _Trial) -> None:
        """Make a trial's lane free."""
        if trial.lane is None:
            return
        for shape, pool in list(self._pools.items()):
            if trial.lane in pool.lanes:
                pool.leave(trial.lane)
                if not pool.lanes:
                    del self._pools[shape]
        trial.lane = None

    def _let_go(self, trial: _Trial) -> None:
        self._leave(trial)
        trial.stack.close()
        with self._changed:
            trial.is_over = True
            if self._trials.get(trial.number) is trial:
                del self._trials[trial.number]
            self._changed.notify_all()


def _end_if_broken(error: Exception) -> None:
    """End the process where an error has left it without a GPU: it could train no trial any more.

    Ray starts another one, in which the trials go on from their last reports.
    """
    if is_broken(error):
        traceback.print_exception(error)
        os._exit(1)
