import pandas as pd
import pytest

from tests.benchmarks.overhead import overhead, start_ups


def test_what_is_neither_training_nor_scores() -> None:
    # Two processes; the second trial of the first begins 0.5 s after the end of the trial before.
    reports = pd.DataFrame(
        [
            (0, "a", 12.0, 2.0, 1.0),
            (0, "a", 14.0, 4.0, 2.0),
            (2, "a", 16.0, 1.5, 1.0),
            (2, "a", 20.0, 5.5, 4.0),
            (1, "b", 11.0, 1.0, 1.0),
            (1, "b", 15.0, 5.0, 4.0),
        ],
        columns=["trial", "worker", "reported_at", "time_s", "train_time_s"],
    )
    assert list(start_ups(reports)) == [0.5]
    # From 10 to 20, where 10 s of training would have taken two processes 5.
    assert overhead(reports) == pytest.approx(2.0)
