"""How much of a score is the seed's."""

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tests.results.test_confirmed import write_confirmation
from tests.results.test_results import write_run
from tune_gan.errors import ConfigError
from tune_gan.results.seeds import seed_noise


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", [("completed", [s], "") for s in (9.0, 3.0, 5.0)])


def test_gains_are_of_geometric_means(run: Path) -> None:
    write_confirmation(run, {1: [1.0, 2.0, 4.0], 2: [8.0, 16.0, 32.0], 0: [8.0, 16.0, 32.0]})
    noise = seed_noise(run)
    table = noise.table.set_index("trial")
    assert table["searched"].to_dict() == {1: 3.0, 2: 5.0, 0: 9.0}
    assert table.loc[1, "gain"] == pytest.approx(8)
    # Welch's t with 4 degrees of freedom, each deviation ln 2.
    margin = float(stats.t.ppf(0.975, 4)) * math.log(2) * math.sqrt(2 / 3)
    assert table.loc[1, "low"] == pytest.approx(8 * math.exp(-margin))
    assert table.loc[1, "high"] == pytest.approx(8 * math.exp(margin))
    assert (table.loc[1, "lowest"], table.loc[1, "highest"]) == pytest.approx((1, 4))
    assert table["gain"].isna().tolist() == [False, True, False]
    # Of trials 1 and 2 alone; mean squares of logs to base 2: 1 within, 13.5 between, groups of 3.
    assert noise.share == pytest.approx(1 / (1 + 12.5 / 3))
    assert noise.one_seed == 1.0


def test_one_seed_of_each_would_often_choose_another(run: Path) -> None:
    write_confirmation(run, {1: [1.0, 2.0, 3.0, 4.0], 0: [1.5, 2.5, 3.5, 4.5]})
    noise = seed_noise(run)
    # 10 of the 16 pairs.
    assert noise.one_seed == pytest.approx(10 / 16, abs=0.02)
    # Of one tuned configuration nothing can be said of it.
    assert math.isnan(noise.share)
    assert noise.describe().startswith("by one seed of each, trial 1 would come first in 6")


def test_seeds_alone_are_all_the_variance() -> None:
    """Where all configurations are one, the share is near 1."""
    from tune_gan.results.seeds import _share_within

    source = np.random.default_rng(0)
    assert _share_within([source.normal(size=200) for _ in range(5)]) > 0.95


def test_without_a_confirmation_it_says_what_to_do(run: Path) -> None:
    with pytest.raises(ConfigError, match="was not confirmed; `tune-gan confirm` trains"):
        seed_noise(run)
    write_confirmation(run, {1: [1.0, "not begun"], 0: ["running", "not begun"]})
    with pytest.raises(ConfigError, match="has no two seeds"):
        seed_noise(run)
