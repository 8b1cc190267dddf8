import pytest

from tune_gan import load_preset
from tune_gan.errors import ConfigError
from tune_gan.presets import preset_names, resolve_gan
from tune_gan.search.spec import load_spec


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


def test_unknown_preset() -> None:
    with pytest.raises(ConfigError, match=r"no preset 'vanila'; did you mean vanilla\?"):
        load_preset("vanila")
