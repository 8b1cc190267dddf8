import os
from typing import Any

import pytest

from tests.search.test_spec import SPEC
from tune_gan.gan.checkpoint import estimate_bytes
from tune_gan.search import disk
from tune_gan.search.disk import describe_disk
from tune_gan.search.spec import SweepSpec

SMALL: dict[str, Any] = {"dataset": "digits", "gen_hidden": [32], "disc_hidden": [32], "latent_dim": 8}


def _spec(**changes: Any) -> SweepSpec:
    gan = {**SMALL, "num_iterations": 100, "report_every": 10, **changes.pop("gan", {})}
    resources = {"max_concurrent_trials": 2, **changes.pop("resources", {})}
    return SweepSpec.parse({**SPEC, "gan": gan, "resources": resources, **changes})


def test_the_disk_of_a_sweep_is_told_in_one_line() -> None:
    # Weights and their two moments of both networks, and the best generator's weights once more.
    generator, discriminator = (8 + 1) * 32 + (32 + 1) * 64, (64 + 1) * 32 + (32 + 1)
    checkpoint = 4 * (3 * (generator + discriminator) + generator)
    assert estimate_bytes(_spec().gan) == checkpoint == 63_756
    # 8 trials: checkpoints of 5 kept and 2 running ones, twice; 8 trials' own files and 80 reports,
    # the losses of 800 iterations twice, two pictures of each trial and one of each report of those 7.
    reports = 8 * 6000 + 80 * 1500 + 800 * (16 + 129) + (2 * 8 + 7 * 10) * 20_000
    assert 9 * checkpoint + reports == 2_577_804
    assert describe_disk(_spec()) == (
        "disk: at most 2.58 MB here: 5 kept checkpoints and those of 2 running trials of up to "
        "63.8 kB, and 2 MB of reports, losses and pictures"
    )


def _largest(**space: Any) -> int:
    return estimate_bytes(disk.largest_networks(_spec(space=space)))


def test_the_largest_networks_of_the_space_count() -> None:
    small = estimate_bytes(_spec().gan)
    large = estimate_bytes(_spec(gan={"gen_hidden": [512], "disc_hidden": [256, 64]}).gan)
    widths = {"gen_hidden": {"choice": [[16], [512], [32]]}}
    assert _largest(**widths, disc_hidden={"choice": [[256, 64], [8]]}) == large
    assert _largest(gen_hidden={"choice": [[16], [8]]}) < small
    assert _largest(gen_lr={"uniform": [0.1, 0.2]}) == small


def test_the_ends_of_a_range_count() -> None:
    assert _largest(latent_dim={"log_int_uniform": [2, 512]}) == estimate_bytes(
        _spec(gan={"latent_dim": 512}).gan
    )


def test_a_moving_average_and_an_optimizer_count() -> None:
    small = estimate_bytes(_spec().gan)
    averaged = estimate_bytes(_spec(gan={"ema_decay": 0.9}).gan)
    assert averaged > small
    assert _largest(ema_decay={"choice": [0.0, 0.9]}) == averaged
    assert _largest(optimizer={"choice": ["sgd", "adam"]}) == small


def test_what_does_not_fit_the_other_fields_is_left_out() -> None:
    spec = _spec(space={"activation_alpha": {"choice": [0.0, 0.5]}, "activation": {"choice": ["celu"]}})
    assert describe_disk(spec).startswith("disk: at most 2.58 MB")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"keep_checkpoints": 1}, ": 1 kept checkpoints and those of 2 running"),
        ({"keep_checkpoints": 50}, ": 8 kept checkpoints and those of 2 running"),
        ({"resources": {"max_concurrent_trials": 100}}, "those of 8 running"),
        ({"resources": {"max_concurrent_trials": None, "cpus": 1024}}, "those of 1 running"),
        (
            {"resources": {"max_concurrent_trials": None}},
            f"those of {min(8, os.cpu_count() or 1)} running",
        ),
        ({"search": {"algorithm": "random", "num_trials": 1}}, ": 1 kept checkpoints and those of 1"),
    ],
)
def test_no_more_is_kept_or_runs_than_there_is(changes: dict[str, Any], words: str) -> None:
    assert words in describe_disk(_spec(**changes))


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (12_345, "12.3 kB"),
        (2_500_000, "2.5 MB"),
        (7e9, "7 GB"),
        (1.5e12, "1.5 TB"),
        (1.5e15, "1.5e+03 TB"),
    ],
)
def test_sizes_in_words(size: float, words: str) -> None:
    assert disk._in_words(size) == words


@pytest.mark.parametrize("size", [999_600, 999_999, 999_990_000])
def test_a_size_just_below_the_next_unit_is_told_in_that_unit(size: float) -> None:
    assert disk._in_words(size) == ("1 MB" if size < 1e6 else "1 GB")
