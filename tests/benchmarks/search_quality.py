"""Does TPE with ASHA find better GANs than random search at equal iterations?

``python -m tests.benchmarks.search_quality FOLDER`` runs both on the ring, with five seeds each, and
prints a table. Runs that are in the folder already are gone on with.
"""

import math
import sys
from pathlib import Path
from typing import Any

from tune_gan.results.load import load_results
from tune_gan.results.ranking import rank
from tune_gan.search.spec import SweepSpec
from tune_gan.search.tuner import resume_sweep, start_sweep

SEEDS = range(5)
ITERATIONS = 30_000
METHODS: dict[str, dict[str, Any]] = {
    "random": {"search": {"algorithm": "random"}, "scheduler": {"name": "none"}},
    "tpe+asha": {"search": {"algorithm": "tpe"}, "scheduler": {"name": "asha"}},
    "random+asha": {"search": {"algorithm": "random"}, "scheduler": {"name": "asha"}},
    "tpe": {"search": {"algorithm": "tpe"}, "scheduler": {"name": "none"}},
}


def sweep(method: str, seed: int) -> SweepSpec:
    """Return the sweep of a method: trials of 1,000 iterations, until 30,000 are spent.

    Its default is what the ring's tutorial leaves at Adam's own beta1 and one discriminator step, which
    learns little, since with this program's preset every method would only find the default again.
    """
    parts = METHODS[method]
    gan = {"preset": "circle", "beta1": 0.9, "disc_steps": 1, "num_iterations": 1000}
    return SweepSpec.parse(
        {
            "name": f"{method.replace('+', '-')}-{seed}",
            "gan": {**gan, "report_every": 50},
            "space": {
                "gen_lr": {"log_uniform": [1e-5, 1e-2]},
                "disc_lr": {"log_uniform": [1e-5, 1e-2]},
                "beta1": {"uniform": [0.0, 0.9]},
                "disc_steps": {"choice": [1, 2, 5]},
                "batch_size": {"choice": [32, 64, 128, 256]},
                "activation": {"choice": ["relu", "leaky_relu", "gelu", "tanh"]},
            },
            "search": {"num_trials": 1000, "seed": seed, **parts["search"]},
            "scheduler": parts["scheduler"],
            # What is compared is the search, not the rules that end hopeless trials.
            "health": {"min_coverage": 0.0, "min_spread": 0.0, "max_score_ratio": None},
            "budget": {"iterations": ITERATIONS},
        }
    )


def main() -> None:
    """Run the methods in turn, seed by seed, and print their best scores."""
    folder, methods = Path(sys.argv[1]), sys.argv[2:] or list(METHODS)
    best: dict[str, list[float]] = {method: [] for method in methods}
    print("| seed | " + " | ".join(f"{m}: best (trials)" for m in methods) + " |")
    print("|---|" + "---|" * len(methods))
    for seed in SEEDS:
        cells = []
        for method in methods:
            run = folder / f"{method}-{seed}"
            spec = sweep(method, seed)
            if (run / "trials.jsonl").exists():
                resume_sweep(run)
            else:
                start_sweep(spec, run)
            ranked = rank(load_results(run))
            best[method].append(float(ranked["best_fid_proxy"].iloc[0]))
            cells.append(f"{best[method][-1]:.3g} ({int(ranked['rank'].notna().sum())})")
        print(f"| {seed} | " + " | ".join(cells) + " |", flush=True)
    means = [math.exp(sum(map(math.log, best[m])) / len(best[m])) for m in methods]
    print("| geometric mean | " + " | ".join(f"{mean:.3g}" for mean in means) + " |")


if __name__ == "__main__":
    main()
