import json
from pathlib import Path
from typing import Any

import pytest

from tune_gan import load_preset, train
from tune_gan.errors import ConfigError
from tune_gan.metrics.score import WORST_SCORE
from tune_gan.presets import preset_names, preset_text, print_presets, resolve_gan
from tune_gan.search.spec import load_spec
from tune_gan.settings import parse_yaml


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_a_sweep_and_a_configuration(name: str) -> None:
    spec = load_spec(name)
    assert spec.name == name
    assert spec.gan == load_preset(name)


def test_presets_of_the_seed_documents() -> None:
    assert {"vanilla", "simple", "circle", "dcgan28", "dcgan64", "digits"} <= set(preset_names())


def test_own_fields_override_the_preset_and_what_follows_from_it() -> None:
    config = resolve_gan({"preset": "vanilla", "dataset": "digits", "gen_lr": 0.01})
    assert (config.dataset, config.image_size, config.gen_lr) == ("digits", 8, 0.01)
    assert config.disc_hidden == load_preset("vanilla").disc_hidden


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_trains(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Its own networks (DCGANs with fewer channels) and data, for a few steps."""
    values: dict[str, Any] = {"num_iterations": 4, "report_every": 2, "batch_size": 16}
    if name.startswith("dcgan"):
        values["features"] = 8
    if load_preset(name).dataset == "mnist":
        values["data_root"] = request.getfixturevalue("mnist_root")
    config = resolve_gan({"preset": name, **values})
    result = train(config, tmp_path / "run")
    assert result.state == "completed"
    assert 0 < result.best_fid_proxy < WORST_SCORE
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["iteration"] for line in lines] == [2, 4]
    assert json.loads(lines[0])["gen_loss"] != json.loads(lines[1])["gen_loss"]
    assert ("radial_error" in json.loads(lines[0])) == (name == "circle")


@pytest.mark.parametrize("name", [name for name in preset_names() if name != "digits"])
def test_every_preset_searches_what_the_literature_does(name: str) -> None:
    space = {field: d.to_mapping() for field, d in load_spec(name).space.items()}
    assert space["gen_lr"] == space["disc_lr"] == {"log_uniform": [1e-5, 1e-2]}
    assert space["beta1"] == {"uniform": [0.0, 0.9]}
    assert space["disc_steps"] == {"choice": [1, 2, 5]}
    assert space["disc_batch_norm"] == {"choice": [True, False]}
    assert {"dropout", "activation", "activation_alpha", "batch_size", "latent_dim"} < set(space)


def test_presets_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    print_presets(as_json=True)
    records = json.loads(capsys.readouterr().out)
    assert [record["name"] for record in records] == preset_names()
    for record in records:
        text = preset_text(record["name"])
        assert text.startswith(f"# {record['about']}\n")
        assert load_preset(record["name"]) == resolve_gan(parse_yaml(text)["gan"])


def test_unknown_preset() -> None:
    with pytest.raises(ConfigError, match=r"no preset 'vanila'; did you mean vanilla\?"):
        load_preset("vanila")
