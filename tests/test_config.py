import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tune_gan.config import GanConfig
from tune_gan.errors import ConfigError
from tune_gan.settings import parse_yaml

_PROBABILITY = st.floats(0, 0.99)
_RATE = st.floats(1e-9, 1.0)
_WIDTHS = st.lists(st.integers(1, 4096), min_size=1, max_size=5).map(tuple)
_FIELDS = {
    "dataset": st.sampled_from(["circle", "digits", "mnist", "fashion_mnist"]),
    "data_root": st.none()
    | st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=40),
    "gen_hidden": _WIDTHS,
    "disc_hidden": _WIDTHS,
    "latent_dim": st.integers(1, 4096),
    "activation": st.sampled_from(["relu", "leaky_relu", "mish"]),
    "activation_alpha": st.floats(0, 10),
    "loss": st.sampled_from(["non_saturating", "minimax", "least_squares", "hinge"]),
    "disc_batch_norm": st.none() | st.booleans(),
    "spectral_norm": st.booleans(),
    "disc_logits": st.integers(1, 64),
    "gp_weight": st.floats(0, 1e6),
    "r1_weight": st.floats(0, 1e6),
    "ema_decay": _PROBABILITY,
    "gen_lr": _RATE,
    "disc_lr": _RATE,
    "beta1": _PROBABILITY,
    "dropout": _PROBABILITY,
    "batch_size": st.integers(2, 65536),
    "disc_steps": st.integers(1, 100),
    "seed": st.integers(0, 2**32 - 1),
    "precision": st.sampled_from(["fp32", "tf32", "bf16"]),
}


def configs() -> st.SearchStrategy[GanConfig]:
    return st.fixed_dictionaries({}, optional=_FIELDS).map(GanConfig.parse)


@given(configs())
def test_round_trip_through_yaml_and_json(config: GanConfig) -> None:
    assert GanConfig.parse(parse_yaml(config.to_yaml())) == config
    assert GanConfig.parse(json.loads(config.model_dump_json())) == config


@pytest.mark.parametrize(
    ("field", "given", "meant"),
    [
        ("optimizer", "ADAM", "adam"),
        ("optimizer", "RMSProp", "rmsprop"),
        ("optimizer", "NAdam", "nadam"),
        ("activation", "leakyrelu", "leaky_relu"),
        ("activation", "LeakyReLU", "leaky_relu"),
        ("activation", "TReLU", "trelu"),
        ("dataset", "Fashion-MNIST", "fashion_mnist"),
        ("loss", "Non-Saturating", "non_saturating"),
    ],
)
def test_names_are_taken_in_any_spelling(field: str, given: str, meant: str) -> None:
    assert getattr(GanConfig.parse({field: given}), field) == meant


@pytest.mark.parametrize("given", [16, "16", [16], (16,)])
def test_one_hidden_layer_needs_no_list(given: object) -> None:
    assert GanConfig.parse({"gen_hidden": given}).gen_hidden == (16,)


def test_a_name_that_is_none_is_refused_as_it_was_given() -> None:
    with pytest.raises(ConfigError, match="optimizer: 'ADAMM' is not valid; give one of adam, adamw"):
        GanConfig.parse({"optimizer": "ADAMM"})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"dataset": "folder"}, "needs data_root"),
        ({"loss": "wasserstein"}, "set gp_weight"),
        ({"architecture": "dcgan28", "disc_logits": 2}, "goes with architecture mlp"),
    ],
)
def test_fields_that_do_not_fit_each_other(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        GanConfig.parse(values)


def test_batch_norm_follows_from_the_architecture() -> None:
    assert GanConfig(architecture="dcgan64").disc_batch_norm is True
    assert GanConfig(architecture="dcgan28").disc_batch_norm is False
    assert GanConfig(architecture="dcgan64", disc_batch_norm=False).disc_batch_norm is False


def test_file_round_trip(tmp_path: Path) -> None:
    config = GanConfig(dataset="digits", gen_lr=1e-4)
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    assert GanConfig.from_yaml(tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"gen_lrr": 0.1}, ["gen_lrr", "0.1", "did you mean gen_lr?"]),
        ({"zzz": 1}, ["zzz", "valid: dataset, data_root"]),
        ({"gen_lr": -1.0}, ["gen_lr", "-1.0", "a number above 0 and at most 1"]),
        ({"gen_lr": "1e-4"}, ["gen_lr", "'1e-4'", "a number"]),
        ({"disc_steps": 1.5}, ["disc_steps", "1.5", "a whole number at least 1 and at most 100"]),
        ({"disc_steps": True}, ["disc_steps", "True", "a whole number"]),
        ({"dropout": float("nan")}, ["dropout", "nan", "at least 0 and below 1"]),
        ({"loss": "wgan"}, ["loss", "'wgan'", "non_saturating, minimax, least_squares, hinge"]),
        ({"gen_hidden": [0]}, ["gen_hidden", "0", "a whole number at least 1"]),
        ({"gen_hidden": "12,x"}, ["gen_hidden", "'x'", "a list"]),
        ({"data_root": "a\nb"}, ["data_root", r"'a\nb'", "control character"]),
        ({"data_root": ""}, ["data_root", "empty"]),
        ({"device": "gpu"}, ["device", "'gpu'"]),
        ({"dataset": "circle", "architecture": "dcgan28"}, ["circle", "mlp"]),
        ({"architecture": "dcgan64", "image_size": 28}, ["dcgan64", "64x64", "image_size 28"]),
        ({"num_iterations": 10, "report_every": 11}, ["report_every 11", "num_iterations 10"]),
        ({"activation": "celu", "activation_alpha": 0.0}, ["celu", "activation_alpha"]),
    ],
)
def test_wrong_values_are_refused_in_one_line(values: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        GanConfig(**values)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_several_mistakes_are_all_named() -> None:
    with pytest.raises(ConfigError, match=r"gen_lr.*; .*disc_lr"):
        GanConfig(gen_lr=2.0, disc_lr=2.0)


def test_image_size_follows_from_architecture_and_data_set() -> None:
    assert GanConfig().image_size == 28
    assert GanConfig(dataset="digits").image_size == 8
    assert GanConfig(dataset="digits", architecture="dcgan64").image_size == 64
    assert GanConfig(dataset="circle").sample_shape == (2,)


def test_widths_are_read_from_text() -> None:
    assert GanConfig.parse({"gen_hidden": "256,512"}).gen_hidden == (256, 512)


def test_reports_include_one_at_the_end() -> None:
    assert GanConfig(num_iterations=250, report_every=100).num_reports == 3


def test_config_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        GanConfig().gen_lr = 0.1  # type: ignore[misc]
