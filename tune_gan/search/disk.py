"""How much disk a sweep takes."""

import os
from typing import Any

from tune_gan.config import GanConfig
from tune_gan.errors import ConfigError
from tune_gan.gan.checkpoint import estimate_bytes
from tune_gan.gan.loss_scalars import MOST_POINTS
from tune_gan.search.spec import SweepSpec

# A line of reports and of TensorBoard's events, as written; measured on the presets.
_BYTES_OF_A_REPORT = 1500
_BYTES_OF_A_TRIAL = 6000
# Of an iteration's losses in their file, and as a point of TensorBoard's, of which there is an upper
# number.
_BYTES_OF_LOSSES, _BYTES_OF_A_POINT = 16, 129
# Of noise, which does not compress.
_BYTES_OF_A_PICTURE = 20_000


def describe_disk(spec: SweepSpec) -> str:
    """Say how much disk a sweep takes at the most: checkpoints of its largest networks, and reports."""
    checkpoint = estimate_bytes(largest_networks(spec))
    workers = max(1, (os.cpu_count() or 1) // spec.resources.cpus)
    running = min(spec.resources.max_concurrent_trials or workers, spec.num_trials)
    kept = min(spec.keep_checkpoints, spec.num_trials)
    losses = spec.gan.num_iterations * _BYTES_OF_LOSSES
    losses += min(spec.gan.num_iterations, MOST_POINTS) * _BYTES_OF_A_POINT
    of_a_trial = _BYTES_OF_A_TRIAL + spec.gan.num_reports * _BYTES_OF_A_REPORT + losses
    reports = spec.num_trials * of_a_trial
    # Each trial's best samples, once more for TensorBoard; and one for each report of those kept.
    pictures = 2 * spec.num_trials + (kept + running) * spec.gan.num_reports
    reports += pictures * _BYTES_OF_A_PICTURE
    # Of each running trial the next checkpoint is written beside the last.
    total = (kept + 2 * running) * checkpoint + reports
    return (
        f"disk: at most {_in_words(total)} here: {kept} kept checkpoints and those of {running} "
        f"running trials of up to {_in_words(checkpoint)}, and {_in_words(reports)} of reports, losses "
        "and pictures"
    )


def largest_networks(spec: SweepSpec) -> GanConfig:
    """Return the configuration with the largest checkpoint, looking at one field after the other."""
    values: dict[str, Any] = spec.gan.model_dump()
    for field, distribution in spec.space.items():
        sizes = {}
        for value in distribution.extremes():
            try:
                sizes[value] = estimate_bytes(GanConfig.parse({**values, field: value}))
            except ConfigError:
                continue
        # Most fields, such as learning rates, have no size.
        if len(set(sizes.values()) | {estimate_bytes(GanConfig.parse(values))}) > 1:
            values[field] = max(sizes, key=lambda value: sizes[value])
    return GanConfig.parse(values)


def _in_words(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
