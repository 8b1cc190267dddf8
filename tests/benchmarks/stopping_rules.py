"""What would the rules that end hopeless trials have done to trials that nobody ended?

``python -m tests.benchmarks.stopping_rules RUN...`` reads sweeps whose trials all came to their last
iteration, and prints for each rule how many it would have ended, and what they still had before them.
"""

import sys
from pathlib import Path

from tune_gan.results.trials import ListedTrial, TrialState, read_trials
from tune_gan.search.health import Health
from tune_gan.search.spec import HealthSettings, SweepSpec

_OFF = {"min_coverage": 0.0, "min_spread": 0.0, "max_score_ratio": None}
_RULES: dict[str, HealthSettings] = {
    f"{name}, {n} in a row": HealthSettings.parse({**_OFF, **settings, "evaluations": n})
    for name, settings in {
        "coverage < 0.05 and half of its best": {"min_coverage": 0.05},
        "spread < 0.1": {"min_spread": 0.1},
        "score > 2 x its best": {"max_score_ratio": 2.0},
        "score > 3 x its best": {"max_score_ratio": 3.0},
    }.items()
    for n in (2, 3)
}


def ended_at(trial: ListedTrial, settings: HealthSettings, grace_period: int) -> int | None:
    """Return after how many reports a rule would have ended a trial, if it would."""
    health = Health(settings, grace_period)
    for i, report in enumerate(trial.reports, start=1):
        if health.judge(report)[0] != "running":
            return i
    return None


def main() -> None:
    """Print a line for each rule."""
    runs = [Path(argument) for argument in sys.argv[1:]]
    spec = SweepSpec.from_yaml(runs[0] / "sweep.yaml")
    trials = [t for run in runs for t in read_trials(run) if t.state == TrialState.COMPLETED]
    finals = sorted(min(r["fid_proxy"] for r in trial.reports) for trial in trials)
    print(f"{len(trials)} trials, the best {', '.join(f'{score:.3g}' for score in finals[:12])}\n")
    print("| rule | ended | of these better later | the best of these: then -> later | its rank |")
    print("|---|---|---|---|---|")
    rules = {**_RULES, "all three, as by default": HealthSettings()}
    for name, settings in rules.items():
        ended, harmed = 0, []
        for trial in trials:
            end = ended_at(trial, settings, spec.grace_period)
            if end is not None:
                ended += 1
                scores = [report["fid_proxy"] for report in trial.reports]
                if min(scores) < min(scores[:end]):
                    harmed.append((min(scores), min(scores[:end])))
        worst = min(harmed, default=None)
        text = f"{worst[1]:.3g} -> {worst[0]:.3g} | {finals.index(worst[0]) + 1}" if worst else "- | -"
        print(f"| {name} | {ended} | {len(harmed)} | {text} |")


if __name__ == "__main__":
    main()
