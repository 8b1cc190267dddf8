"""What Ray Tune runs for a trial in a lane: a light process without torch, that passes on reports."""

import time
from collections.abc import Sequence
from typing import Any

import ray
from ray import tune

_LOOK_AGAIN_S = 0.2
# A process that is being started answers nothing for a while.
_LONGEST_ANSWER_S = 10.0


def relay_trial(values: dict[str, Any], pools: Sequence[Any]) -> None:
    """Submit a trial to the process with the fewest trials, and tell Ray Tune what it reports.

    Args:
        values: The searched fields.
        pools: Handles of `tune_gan.search.lane_actor.LaneActor`.

    Raises:
        TrialFailure: as `tune_gan.search.trainable.train_trial` does.
        RayActorError: if the process that trains died, which Ray starts again, or none can be started.
    """
    number = int(tune.get_context().get_trial_id())
    pool = _submit(number, values, pools)
    try:
        while (line := _next(pool, number)) is not None:
            tune.report(line)
            if line["state"] != "running":
                return
    finally:
        pool.stop.remote(number)


def _next(pool: Any, number: int) -> dict[str, Any] | None:
    try:
        line: dict[str, Any] | None = ray.get(pool.next.remote(number))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    return line


def _submit(number: int, values: dict[str, Any], pools: Sequence[Any]) -> Any:
    while True:
        loads = _loads(pools)
        for pool in sorted(loads, key=lambda pool: loads[pool]):
            if ray.get(pool.submit.remote(number, values)):
                return pool
        time.sleep(_LOOK_AGAIN_S)


def _loads(pools: Sequence[Any]) -> dict[Any, int]:
    """Return how many trials each process has that answers."""
    loads, dead = {}, []
    asked = {pool.load.remote(): pool for pool in pools}
    answers, _ = ray.wait(list(asked), num_returns=len(asked), timeout=_LONGEST_ANSWER_S)
    for answer in answers:
        try:
            loads[asked[answer]] = ray.get(answer)
        except (ray.exceptions.ActorDiedError, ray.exceptions.ActorUnschedulableError) as error:
            # It could not be started, or its node is gone.
            dead.append(error)
        except ray.exceptions.RayError:
            # It is being started again.
            continue
    if len(dead) == len(asked):
        raise dead[0]
    return loads
