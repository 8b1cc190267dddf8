import json
import math
import time
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tune_gan import places
from tune_gan.config import GanConfig
from tune_gan.errors import CheckpointError, DataError
from tune_gan.gan import iteration, models, training
from tune_gan.gan.checkpoint import FILE_NAME, load_best_generator, read_progress
from tune_gan.gan.data import load_data
from tune_gan.gan.losses import gradient_penalty, r1_penalty
from tune_gan.gan.scoring import generate, load_scorer
from tune_gan.gan.training import Report, ReportState, begin, iterate
from tune_gan.metrics.classifier import load_shipped
from tune_gan.metrics.score import WORST_SCORE, score_latents

DESIGN_METRICS = {
    "iteration",
    "gen_loss",
    "disc_loss",
    "disc_real",
    "disc_fake",
    "fid_proxy",
    "fid_proxy_se",
    "degenerate",
    "best_fid_proxy",
    "kid",
    "coverage",
    "density",
    "distinct",
    "spread",
    "samples_per_s",
    "train_time_s",
    "time_s",
}
TIMES = ("samples_per_s", "train_time_s", "time_s")
TINY_DIGITS: dict[str, Any] = {
    "dataset": "digits",
    "gen_hidden": (32,),
    "disc_hidden": (32,),
    "latent_dim": 8,
    "batch_size": 64,
    "num_iterations": 8,
    "report_every": 2,
}


def numbers(report: Report) -> dict[str, float]:
    """Everything in a report that must be equal when a run is repeated."""
    return {name: value for name, value in report.metrics.items() if name not in TIMES}


def weights(report: Report) -> dict[str, torch.Tensor]:
    state = report.training
    networks = (state.generator.state_dict(), state.discriminator.state_dict())
    return {f"{i}.{k}": v.clone() for i, network in enumerate(networks) for k, v in network.items()}


def test_reports_carry_what_the_design_names(tiny_ring: GanConfig) -> None:
    reports = list(iterate(tiny_ring))
    assert [report.metrics["iteration"] for report in reports] == [2, 4, 6]
    assert [report.state for report in reports] == ["running", "running", "completed"]
    for report in reports:
        assert set(report.metrics) == DESIGN_METRICS - {"distinct"} | {
            "gen_loss_std",
            "disc_loss_std",
            "epoch",
            "radial_error",
            "sector_coverage",
        }
        assert all(math.isfinite(value) for value in report.metrics.values())
    scores = [report.metrics["fid_proxy"] for report in reports]
    bests = [report.metrics["best_fid_proxy"] for report in reports]
    assert bests == [min(scores[: i + 1]) for i in range(3)]


def test_the_moving_average_is_that_of_weights_and_of_batch_norm(tmp_path: Path) -> None:
    """Scored, sampled and kept is the average; the first step's weights are where it begins."""
    values = {"architecture": "dcgan28", "features": 2, "batch_size": 8, "report_every": 1}
    config = GanConfig.parse({**TINY_DIGITS, **values, "num_iterations": 3, "ema_decay": 0.75})
    expected: dict[str, torch.Tensor] = {}
    best: dict[str, torch.Tensor] = {}
    for report in iterate(config):
        training = report.training
        now = {k: v.double() for k, v in training.generator.state_dict().items()}
        expected = {k: 0.75 * expected.get(k, v) + 0.25 * v for k, v in now.items()}
        average = training.scored_generator.state_dict()
        assert any("running_var" in name for name in average)
        for name, value in expected.items():
            if "num_batches" not in name:
                torch.testing.assert_close(average[name].double(), value, rtol=1e-5, atol=1e-7)
        assert training.scored_generator is not training.generator
        if training.best.fid_proxy == report.metrics["fid_proxy"]:
            best = {name: value.clone() for name, value in average.items()}
    assert all(torch.equal(training.best_generator[name], value) for name, value in best.items())
    samples = generate(training.scored_generator, score_latents(config.latent_dim))
    scorer = load_scorer("digits", places.data_root(None), 28)
    assert scorer.score(samples)["fid_proxy"] == report.metrics["fid_proxy"]


def test_penalties_count_in_the_loss_and_change_the_training(tiny_ring: GanConfig) -> None:
    config = tiny_ring.model_copy(update={"dropout": 0.0, "num_iterations": 1, "report_every": 1})
    plain = next(iterate(config)).metrics
    for weight in ("gp_weight", "r1_weight"):
        start = begin(config, load_data(config))
        real = load_data(config).train[start.batches.next()]
        latents = torch.randn(len(real), config.latent_dim, generator=start.latent_source)
        fake = start.generator(latents).detach()
        shares = torch.rand(len(real), generator=start.latent_source)
        penalty = (
            r1_penalty(start.discriminator, real)
            if weight == "r1_weight"
            else gradient_penalty(start.discriminator, real, fake, shares)
        ).item()
        other = next(iterate(config.model_copy(update={weight: 10.0}))).metrics
        assert other["disc_loss"] - plain["disc_loss"] == pytest.approx(10 * penalty, rel=1e-4)
        assert other["fid_proxy"] != plain["fid_proxy"]


def test_epochs_are_passes_over_the_training_samples() -> None:
    config = GanConfig.parse({**TINY_DIGITS, "batch_size": 500, "num_iterations": 4, "report_every": 2})
    # 1,297 training images: two batches an epoch, the rest of it left out.
    assert [r.metrics["epoch"] for r in iterate(config)] == [1000 / 1297, 1 + 1000 / 1297]


def test_the_last_report_is_at_the_end(tiny_ring: GanConfig) -> None:
    config = tiny_ring.model_copy(update={"num_iterations": 5})
    assert [r.metrics["iteration"] for r in iterate(config)] == [2, 4, 5]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "sgd", "loss": "hinge"},
        {"optimizer": "rmsprop", "loss": "least_squares"},
        {"optimizer": "nadam", "precision": "bf16"},
        {"optimizer": "adamw", "disc_steps": 2},
        {"optimizer": "radam", "loss": "minimax", "label_smoothing": 0.1},
        {"loss": "wasserstein", "gp_weight": 10.0, "disc_steps": 2},
        {"r1_weight": 1.0, "disc_logits": 3},
        {"spectral_norm": True, "disc_batch_norm": True, "ema_decay": 0.9},
        {"architecture": "dcgan28", "features": 2, "batch_size": 8},
        {"architecture": "dcgan28", "features": 2, "batch_size": 8, "ema_decay": 0.5},
        {"architecture": "dcgan64", "features": 2, "batch_size": 8},
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one(changes: dict[str, Any], tmp_path: Path) -> None:
    """Bit for bit: numbers, weights of both networks, and the best generator kept."""
    config = GanConfig.parse({**TINY_DIGITS, "beta1": 0.5, **changes})
    whole = [(numbers(report), weights(report)) for report in iterate(config)]
    best_of_whole = dict(list(iterate(config))[-1].training.best_generator)

    for stop_after in (1, 3):
        stopped = list(islice(iterate(config), stop_after))[-1]
        stopped.training.save(tmp_path / "checkpoint")
        torch.manual_seed(99)
        resumed = [
            (numbers(report), weights(report), report)
            for report in iterate(config, tmp_path / "checkpoint")
        ]
        assert len(resumed) == len(whole) - stop_after
        for (expected, weights_expected), (got, weights_got, _) in zip(
            whole[stop_after:], resumed, strict=True
        ):
            assert got == expected
            for name, weight in weights_expected.items():
                assert torch.equal(weights_got[name], weight), name
        best = resumed[-1][2].training.best_generator
        assert best.keys() == best_of_whole.keys()
        assert all(torch.equal(best[name], best_of_whole[name]) for name in best)


def test_the_same_config_gives_the_same_numbers_whatever_ran_before(tiny_ring: GanConfig) -> None:
    first = [numbers(report) for report in iterate(tiny_ring)]
    list(iterate(GanConfig.parse({**TINY_DIGITS, "seed": 5})))
    torch.set_num_threads(2)
    torch.randn(7)
    assert [numbers(report) for report in iterate(tiny_ring)] == first
    assert torch.get_num_threads() == 1


def test_loading_the_score_for_the_first_time_changes_no_number() -> None:
    config = GanConfig.parse({**TINY_DIGITS, "num_iterations": 2})
    load_scorer.cache_clear()
    first = [numbers(report) for report in iterate(config)]
    assert [numbers(report) for report in iterate(config)] == first


def test_another_seed_gives_other_numbers(tiny_ring: GanConfig) -> None:
    other = tiny_ring.model_copy(update={"seed": 1})
    assert numbers(next(iterate(tiny_ring))) != numbers(next(iterate(other)))


class _Spy(nn.Module):
    """A discriminator that writes down how each call found it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.calls: list[tuple[bool, bool, bool]] = []

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        dropout = next(m for m in self.modules() if isinstance(m, nn.Dropout))
        frozen = not any(p.requires_grad for p in self.parameters())
        self.calls.append((dropout.training, frozen, samples.requires_grad))
        logits: torch.Tensor = self.inner(samples)
        return logits


def test_the_phases_of_an_iteration(tiny_ring: GanConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    spies: list[_Spy] = []
    build = models.build_networks

    def build_with_spy(config: GanConfig) -> tuple[nn.Module, nn.Module]:
        generator, discriminator = build(config)
        spies.append(_Spy(discriminator))
        return generator, spies[-1]

    monkeypatch.setattr(training, "build_networks", build_with_spy)
    config = tiny_ring.model_copy(
        update={"disc_steps": 2, "dropout": 0.5, "num_iterations": 1, "report_every": 1}
    )
    list(iterate(config))
    real_and_fake = (True, False, False)
    through_the_frozen = (False, True, True)
    assert spies[0].calls == [real_and_fake] * 2 + [through_the_frozen]


def test_batch_norm_of_the_discriminator_stays_in_training_mode(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    modes: list[nn.Module] = []

    class Watching(iteration._Frozen):
        def __init__(self, discriminator: nn.Module) -> None:
            super().__init__(discriminator)
            self.discriminator = discriminator

        def __enter__(self) -> None:
            super().__enter__()
            norms = (m for m in self.discriminator.modules() if isinstance(m, nn.BatchNorm2d))
            modes.extend(norm for norm in norms if norm.training)

    monkeypatch.setattr(iteration, "_Frozen", Watching)
    changes = {"architecture": "dcgan64", "features": 2, "batch_size": 4, "num_iterations": 1}
    list(iterate(GanConfig.parse({**TINY_DIGITS, **changes, "report_every": 1})))
    assert len(modes) == 3


def test_training_improves_the_score_of_the_ring() -> None:
    config = GanConfig(
        dataset="circle",
        gen_hidden=(64, 64),
        disc_hidden=(64, 64),
        latent_dim=2,
        gen_lr=1e-3,
        disc_lr=2e-3,
        dropout=0.0,
        num_iterations=1500,
        report_every=100,
    )
    reports = [report.metrics for report in iterate(config)]
    assert reports[-1]["best_fid_proxy"] < reports[0]["fid_proxy"] / 10
    assert min(report["radial_error"] for report in reports) < 0.15


def test_divergence_ends_the_run_with_a_finite_worst_score(tiny_ring: GanConfig) -> None:
    config = tiny_ring.model_copy(
        update={"optimizer": "sgd", "gen_lr": 1.0, "disc_lr": 1.0, "loss": "least_squares"}
    )
    reports = list(iterate(config.model_copy(update={"num_iterations": 500})))
    assert reports[-1].state == ReportState.DIVERGED
    assert reports[-1].metrics["iteration"] < 500
    assert "not finite" in reports[-1].cause or "is nan" in reports[-1].cause
    assert reports[-1].metrics["fid_proxy"] == WORST_SCORE
    assert all(math.isfinite(report.metrics["best_fid_proxy"]) for report in reports)


def test_generate_leaves_the_generator_as_it_was(tiny_ring: GanConfig) -> None:
    report = next(iterate(tiny_ring))
    generator = report.training.generator
    before = weights(report)
    samples = generate(generator, score_latents(2)[:700])
    assert samples.shape == (700, 2)
    assert generator.training
    assert all(torch.equal(weights(report)[name], before[name]) for name in before)
    assert torch.equal(samples, generate(generator, score_latents(2)[:700]))


def test_a_batch_above_the_data_set() -> None:
    with pytest.raises(DataError, match="1297 training samples"):
        next(iterate(GanConfig.parse({**TINY_DIGITS, "batch_size": 2000})))


@pytest.fixture
def checkpoint(tiny_ring: GanConfig, tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    next(iterate(tiny_ring)).training.save(folder)
    return folder


def test_a_checkpoint_is_one_file_without_pickle(checkpoint: Path) -> None:
    assert [path.name for path in checkpoint.iterdir()] == [FILE_NAME]
    length = int.from_bytes((checkpoint / FILE_NAME).read_bytes()[:8], "little")
    header = json.loads((checkpoint / FILE_NAME).read_bytes()[8 : 8 + length])
    assert "generator.layers.0.weight" in header
    assert read_progress(checkpoint).iteration == 2


def test_the_best_generator_can_be_read_alone(checkpoint: Path, tiny_ring: GanConfig) -> None:
    config, best = load_best_generator(checkpoint)
    # What auto stood for, it says.
    assert config == tiny_ring.model_copy(update={"precision": "fp32"})
    assert best["layers.0.weight"].shape == (16, 2)


def test_damaged_checkpoints_are_refused(checkpoint: Path, tiny_ring: GanConfig) -> None:
    path = checkpoint / FILE_NAME
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[20] ^= 0xFF
    absurd_header = (2**40).to_bytes(8, "little") + whole[8:]
    pickled = b"\x80\x04\x95\x1e\x00\x00\x00cos\nsystem\n"
    for content in (b"", whole[:100], whole[:-9], bytes(flipped), absurd_header, pickled):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="damaged") as caught:
            next(iterate(tiny_ring, checkpoint))
        assert "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        next(iterate(tiny_ring, checkpoint))


def test_a_checkpoint_of_another_configuration_is_refused(
    checkpoint: Path, tiny_ring: GanConfig
) -> None:
    other = tiny_ring.model_copy(update={"gen_lr": 0.5})
    with pytest.raises(CheckpointError, match=r"another configuration: gen_lr 0\.0002 is now 0\.5"):
        next(iterate(other, checkpoint))


def test_a_checkpoint_of_another_kind_of_device_is_refused_and_not_called_damaged(
    tiny_ring: GanConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = next(iterate(tiny_ring))
    write = json.dumps
    monkeypatch.setattr(json, "dumps", lambda values: write({**values, "device": "cuda"}))
    report.training.save(tmp_path)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="was trained on cuda and cannot go on on cpu"):
        next(iterate(tiny_ring, tmp_path))


def test_a_checkpoint_may_go_on_for_longer(checkpoint: Path, tiny_ring: GanConfig) -> None:
    longer = tiny_ring.model_copy(update={"num_iterations": 10})
    assert [r.metrics["iteration"] for r in iterate(longer, checkpoint)] == [4, 6, 8, 10]


def test_scores_of_another_instrument_are_not_gone_on_with(
    tiny_ring: GanConfig, tmp_path: Path
) -> None:
    report = next(iterate(tiny_ring))
    assert report.training.instrument == "circle-fourier-v1, N=2000"
    report.training.save(tmp_path / "same")
    assert len(list(iterate(tiny_ring, tmp_path / "same"))) == 2
    report.training.instrument = "circle-fourier-v0, N=2000"
    report.training.save(tmp_path / "other")
    assert read_progress(tmp_path / "other").instrument == "circle-fourier-v0, N=2000"
    with pytest.raises(CheckpointError, match=r"was scored with circle-fourier-v0, N=2000, and would"):
        next(iterate(tiny_ring, tmp_path / "other"))


def test_the_first_training_of_a_process_has_the_numbers_of_the_second() -> None:
    """What the score needs is loaded by the first alone, and must draw no random numbers of torch's."""
    config = GanConfig.parse({**TINY_DIGITS, "dropout": 0.5})
    load_scorer.cache_clear()
    load_shipped.cache_clear()
    first = [numbers(report) for report in iterate(config)]
    assert first == [numbers(report) for report in iterate(config)]
    torch.manual_seed(5)
    load_shipped.cache_clear()
    before = torch.get_rng_state()
    load_shipped("digits")
    assert torch.equal(torch.get_rng_state(), before)


def test_what_is_done_meanwhile_is_no_training(tiny_ring: GanConfig) -> None:
    waits = 0

    def wait() -> None:
        nonlocal waits
        waits += 1
        time.sleep(0.5)

    config = tiny_ring.model_copy(update={"num_iterations": 2, "report_every": 1})
    *_, last = iterate(config, meanwhile=wait)
    assert waits == 2
    assert last.metrics["train_time_s"] < 0.5
