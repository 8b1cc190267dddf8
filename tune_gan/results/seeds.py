"""How much of a score is the seed's, by a confirmation."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from tune_gan.errors import ConfigError
from tune_gan.results.confirmed import load_confirmation
from tune_gan.results.load import load_results

_NUM_DRAWS = 10_000


@dataclass(frozen=True)
class SeedNoise:
    """What a confirmation says of seeds.

    Attributes:
        table: A row a configuration, best first: ``trial``; ``seeds``; ``searched``, its score in the
            sweep; ``mean`` over fresh seeds, their standard ``deviation``, ``lowest`` and ``highest``;
            ``gain``, how many times lower its geometric mean is than the default's, and ``low`` and
            ``high``, the 95 % interval of that by Welch's t on logarithms; missing for the default.
        share: Of the variance of log scores, how much lies between seeds of one configuration, the
            default left out; missing with one configuration.
        one_seed: How often the first would also be the best by one seed of each configuration.
    """

    table: pd.DataFrame
    share: float
    one_seed: float

    def describe(self) -> str:
        """Say in a line how much the seed decides."""
        first = int(self.table["trial"].iloc[0])
        if len(self.table) < 2:
            return "one configuration has scores of several seeds, which compares with nothing"
        share = ""
        if not math.isnan(self.share):
            share = f"{self.share:.0%} of the variance of log scores among the tuned configurations is "
            share += "the seed's; "
        return (
            f"{share}by one seed of each, trial {first} would come first in {self.one_seed:.0%} of the "
            "cases"
        )


def seed_noise(run: Path) -> SeedNoise:
    """Return what the confirmation of a run says of seeds.

    Raises:
        ConfigError: if it was not confirmed, or no configuration has two seeds yet.
        RunFolderError: if the folder is no run folder.
    """
    searched = load_results(run).set_index("trial")["best_fid_proxy"]
    confirmed = load_confirmation(run)
    if confirmed is None or not (confirmed.table["seeds"] > 1).any():
        what = "was not confirmed" if confirmed is None else "has no two seeds of a configuration yet"
        raise ConfigError(f"{run} {what}; `tune-gan confirm` trains the best with several seeds")
    table = confirmed.table[confirmed.table["seeds"] > 1].set_index("trial")
    logs = {int(str(trial)): np.log(scores) for trial, scores in table["scores"].items()}
    rows = []
    for trial, own in logs.items():
        scores = np.exp(own)
        cells = {"mean": scores.mean(), "deviation": scores.std(ddof=1)}
        ends = {"lowest": scores.min(), "highest": scores.max()}
        gain = _gain(logs[0], own) if trial and 0 in logs else {}
        first = {"trial": trial, "seeds": len(own), "searched": searched.get(trial, math.nan)}
        rows.append({**first, **cells, **ends, **gain})
    columns = ["trial", "seeds", "searched", "mean", "deviation", "lowest", "highest"]
    found = pd.DataFrame(rows, columns=[*columns, "gain", "low", "high"])
    # The default would widen the differences that are to be judged.
    tuned = [own for trial, own in logs.items() if trial]
    return SeedNoise(found, _share_within(tuned), _first_by_one_seed(list(logs.values())))


def _gain(default: np.ndarray, own: np.ndarray) -> dict[str, float]:
    # Imported here, since it takes a second.
    from scipy import stats

    low, high = stats.ttest_ind(default, own, equal_var=False).confidence_interval(0.95)
    return {
        "gain": math.exp(default.mean() - own.mean()),
        "low": math.exp(low),
        "high": math.exp(high),
    }


def _share_within(groups: list[np.ndarray]) -> float:
    """Return one less the intraclass correlation, by the mean squares of a one-way analysis."""
    num, total = len(groups), sum(map(len, groups))
    if num < 2:
        return math.nan
    within = sum(((own - own.mean()) ** 2).sum() for own in groups) / (total - num)
    grand = np.concatenate(groups).mean()
    between = sum(len(own) * (own.mean() - grand) ** 2 for own in groups) / (num - 1)
    size = (total - sum(len(own) ** 2 for own in groups) / total) / (num - 1)
    variance = max(0.0, (between - within) / size)
    return float(within / (within + variance)) if within + variance else 0.0


def _first_by_one_seed(groups: list[np.ndarray]) -> float:
    source = np.random.default_rng(0)
    drawn = np.stack([source.choice(own, _NUM_DRAWS) for own in groups])
    return float((drawn.argmin(axis=0) == 0).mean())
