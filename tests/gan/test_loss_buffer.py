"""The losses of every iteration: in the loop, in lanes, on the disk and after a stop."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tune_gan import train
from tune_gan.config import GanConfig
from tune_gan.gan import loss_buffer
from tune_gan.gan.checkpoint import FILE_NAME
from tune_gan.gan.lanes.pool import LanePool
from tune_gan.gan.loss_buffer import LossBuffer, summarise
from tune_gan.gan.training import Report, iterate
from tune_gan.losses_file import LOSSES, read_losses

CPU = torch.device("cpu")


def _config(**changes: Any) -> GanConfig:
    ring = {"dataset": "circle", "gen_hidden": [16], "disc_hidden": [16], "latent_dim": 2}
    lengths = {"batch_size": 32, "num_iterations": 12, "report_every": 4, "device": "cpu"}
    return GanConfig.parse({**ring, **lengths, **changes})


def test_means_are_sums_of_single_precision_one_after_the_other() -> None:
    source = torch.Generator().manual_seed(0)
    rows = torch.randn(1000, 1 + 3 * 2, generator=source)
    sums = torch.zeros(4)
    for row in rows:
        for step in row[1:].reshape(2, 3):
            sums[1:] += step
        sums[0] += row[0]
    losses = summarise(rows[:, 0].numpy(), rows[:, 1:].reshape(-1, 2, 3).numpy())
    gen_loss, *others = sums.tolist()
    expected = [gen_loss / 1000, *(value / 2000 for value in others)]
    assert [losses.metrics[name] for name in LOSSES] == expected
    assert losses.metrics["gen_loss_std"] == pytest.approx(
        float(rows[:, 0].std(correction=0)), rel=1e-6
    )
    of_iterations = rows[:, [1, 4]].mean(dim=1)
    deviation = float(of_iterations.std(correction=0))
    assert losses.metrics["disc_loss_std"] == pytest.approx(deviation, rel=1e-6)


@pytest.mark.parametrize("most_rows", [1, 3, 100])
def test_a_buffer_that_is_too_small_is_read_in_parts(
    most_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_buffer, "_MOST_ROWS", most_rows)
    buffer = LossBuffer(report_every=7, disc_steps=1, device=CPU)
    for start in (0, 7):
        for number in range(start, start + 7):
            buffer.expect_row()
            step = torch.tensor([1.0, 2.0, 3.0]) + number
            buffer.add(torch.tensor(float(number)), [step])
        rows = buffer.read().rows
        expected = [[n, n + 1, n + 2, n + 3] for n in range(start, start + 7)]
        assert rows.tolist() == expected


def _each_alone(config: GanConfig) -> np.ndarray:
    """Return the losses of each iteration as reports of single ones have them."""
    every = config.model_copy(update={"report_every": 1})
    metrics = [report.metrics for report in iterate(every)]
    return np.array([[m[name] for name in LOSSES] for m in metrics])


@pytest.mark.parametrize("changes", [{}, {"disc_steps": 3}, {"loss": "hinge", "r1_weight": 1.0}])
def test_reports_carry_the_losses_of_each_iteration(changes: dict[str, Any]) -> None:
    config = _config(**changes)
    rows = np.concatenate([report.losses for report in iterate(config)])
    np.testing.assert_allclose(rows, _each_alone(config), rtol=1e-6)


def test_lanes_carry_the_losses_of_each_iteration() -> None:
    """Each lane its own, with steps and reports of its own, in tensors that grow and shrink."""
    configs = [
        _config(seed=1, disc_steps=1, optimizer="sgd", report_every=4),
        _config(seed=2, disc_steps=3, optimizer="sgd", report_every=5),
        _config(seed=3, disc_steps=2, optimizer="sgd", report_every=12),
    ]
    pool = LanePool(configs[0], 4)
    lanes = [pool.join(config) for config in configs]
    found: dict[int, list[np.ndarray]] = {0: [], 1: [], 2: []}
    while pool.lanes:
        for lane in pool.advance():
            report = pool.report(lane)
            found[lanes.index(lane)].append(report.losses)
            if report.state != "running":
                pool.leave(lane)
    for number, config in enumerate(configs):
        rows = np.concatenate(found[number])
        np.testing.assert_allclose(rows, _each_alone(config), rtol=1e-5, atol=1e-6)


def test_a_training_writes_them_once_also_after_a_stop(tmp_path: Path) -> None:
    config = _config()
    expected = np.concatenate([report.losses for report in iterate(config)])
    train(config, tmp_path / "whole")
    assert np.array_equal(read_losses(tmp_path / "whole/losses.f32"), expected)

    def stop(report: Report) -> None:
        if report.metrics["iteration"] == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run", on_report=stop)
    # As if it had been killed before the checkpoint of iteration 8.
    checkpoint = tmp_path / "run/checkpoint" / FILE_NAME
    next(iterate(config)).training.save(checkpoint.parent)
    assert len(read_losses(tmp_path / "run/losses.f32")) == 8
    train(config, tmp_path / "run", resume=True)
    assert np.array_equal(read_losses(tmp_path / "run/losses.f32"), expected)
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["iteration"] for line in lines] == [4, 8, 12]
    report = json.loads(lines[0])
    assert (report["device"], report["precision"]) == ("cpu", "fp32")


def test_losses_that_diverge_are_kept_as_they_are(tmp_path: Path) -> None:
    config = _config(optimizer="sgd", gen_lr=1.0, disc_lr=1.0, loss="least_squares", num_iterations=400)
    result = train(config.model_copy(update={"report_every": 200}), tmp_path / "run")
    assert result.state == "diverged"
    rows = read_losses(tmp_path / "run/losses.f32")
    assert len(rows) == result.iteration
    assert np.isfinite(rows[0]).all()
    assert not np.isfinite(rows[-1]).all()
    line = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1])
    assert line["gen_loss_std"] is None
