"""When a trial is beyond hope: collapsed, or long past its best."""

from collections.abc import Iterable, Mapping
from typing import Any

from tune_gan.results.trials import describe_score, ranking_score
from tune_gan.search.spec import HealthSettings


class Health:
    """Watches the reports of one trial.

    Args:
        settings: The thresholds.
        grace_period: Reports before anything is judged.
    """

    def __init__(self, settings: HealthSettings, grace_period: int) -> None:
        self._settings, self._grace_period = settings, grace_period
        self._seen = 0
        self._best_score = self._best_coverage = 0.0
        self._collapsed = self._past_its_best = 0

    def catch_up(self, reports: Iterable[Mapping[str, Any]]) -> None:
        """Take in the reports that a resumed trial has made before."""
        for report in reports:
            self.judge(report)

    def judge(self, report: Mapping[str, Any]) -> tuple[str, str]:
        """Take in a report.

        Returns:
            ``running``, ``collapsed`` or ``stopped``, and why.
        """
        score, coverage, spread = ranking_score(report), report["coverage"], report["spread"]
        settings, judged = self._settings, self._seen >= self._grace_period
        low_coverage = coverage < min(settings.min_coverage, self._best_coverage / 2)
        collapsed = judged and (low_coverage or spread < settings.min_spread)
        ratio = settings.max_score_ratio
        late = judged and ratio is not None and score > ratio * self._best_score
        self._collapsed = self._collapsed + 1 if collapsed else 0
        self._past_its_best = self._past_its_best + 1 if late else 0

        best = self._best_score
        self._best_score = min(best, score) if self._seen else score
        self._best_coverage = max(self._best_coverage, coverage)
        self._seen += 1
        if self._collapsed >= settings.evaluations:
            return "collapsed", (
                f"coverage {coverage:.3g} and spread {spread:.3g}, "
                f"{settings.evaluations} evaluations in a row"
            )
        if self._past_its_best >= settings.evaluations:
            return "stopped", (
                f"past its best: fid_proxy {describe_score(score)} is over {ratio:g} times its best "
                f"{describe_score(best)}, {settings.evaluations} evaluations in a row"
            )
        return "running", ""
