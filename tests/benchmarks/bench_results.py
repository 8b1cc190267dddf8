"""How long it takes to read, rank and analyse a run of 10,000 trials with 100 reports each.

``python -m tests.benchmarks.bench_results [TRIALS [REPORTS]]`` generates such a run folder, of numbers
drawn at random, and prints seconds and the peak of memory, each step in the same process.
"""

import json
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

_SWEEP = """
name: generated
gan: {dataset: mnist, num_iterations: 10000, report_every: 100}
space:
  gen_lr: {log_uniform: [1e-5, 1e-2]}
  disc_lr: {log_uniform: [1e-5, 1e-2]}
  beta1: {uniform: [0, 0.9]}
  disc_steps: {choice: [1, 2, 5]}
  activation: {choice: [relu, leaky_relu, tanh]}
search: {algorithm: random, num_trials: 10000}
"""
_MEASURES = [
    *("gen_loss", "disc_loss", "disc_real", "disc_fake", "gen_loss_std", "disc_loss_std"),
    *("fid_proxy_se", "kid", "coverage", "density"),
    *("distinct", "spread", "class_entropy", "samples_per_s", "train_time_s", "time_s"),
]


def generate(folder: Path, num_trials: int, num_reports: int) -> None:
    """Write a run folder as a sweep does, scores falling with the training by a random power."""
    source = np.random.default_rng(0)
    (folder / "sweep.yaml").write_text(_SWEEP)
    with (folder / "trials.jsonl").open("w") as trials:
        for number in range(num_trials):
            config = {
                "gen_lr": 10 ** source.uniform(-5, -2),
                "disc_lr": 10 ** source.uniform(-5, -2),
                "beta1": source.uniform(0, 0.9),
                "disc_steps": int(source.choice([1, 2, 5])),
                "activation": str(source.choice(["relu", "leaky_relu", "tanh"])),
            }
            line = {"trial": number, "state": "completed", "cause": "", "config": config}
            trials.write(json.dumps(line) + "\n")
            own = folder / f"trial_{number:05d}"
            own.mkdir()
            _write_reports(own / "result.json", source, num_reports)


def _write_reports(path: Path, source: np.random.Generator, num_reports: int) -> None:
    power, numbers = source.uniform(0.1, 1), source.random((num_reports, len(_MEASURES)))
    with path.open("w") as file:
        for i in range(num_reports):
            score = 500 * (i + 1) ** -power
            report = dict(zip(_MEASURES, numbers[i].tolist(), strict=True))
            named = {"iteration": 100 * (i + 1), "epoch": 0.1 * i, "fid_proxy": score}
            kept = {"best_fid_proxy": score, "best_ranking_score": score, "degenerate": False}
            ends = {"instrument": "mnist-lenet-v1, N=2000", "evaluation": i + 1, "state": "running"}
            when = {"cause": "", "reported_at": 1.7e9 + i, "worker": "node-a:12345"}
            file.write(json.dumps({**named, **report, **kept, **ends, **when}) + "\n")


def main() -> None:
    """Generate the run, measure, print a table and take the run away."""
    num_trials, num_reports = (
        int(text) for text in (sys.argv[1:] + ["10000", "100"][len(sys.argv) - 1 :])
    )
    folder = Path(tempfile.mkdtemp())
    try:
        generate(folder, num_trials, num_reports)
        _measure(folder)
    finally:
        shutil.rmtree(folder)


def _measure(folder: Path) -> None:
    started = time.perf_counter()
    from tune_gan.results.importance import Method, importance
    from tune_gan.results.load import load_results
    from tune_gan.results.ranking import rank

    print(f"{'imports':28s} {time.perf_counter() - started:6.1f} s")
    table: Any = None

    def load() -> None:
        nonlocal table
        table = load_results(folder)

    steps: dict[str, Callable[[], object]] = {
        "load, for the first time": load,
        "load again": load,
        "rank": lambda: rank(table),
        "importance by PED-ANOVA": lambda: importance([folder]),
        "importance by fANOVA": lambda: importance([folder], Method.FANOVA),
    }
    for name, step in steps.items():
        started = time.perf_counter()
        step()
        print(f"{name:28s} {time.perf_counter() - started:6.1f} s", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{'peak of memory':28s} {peak:6.2f} GB")


if __name__ == "__main__":
    main()
