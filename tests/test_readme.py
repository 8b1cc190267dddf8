"""The README's links, tree, commands and examples are true."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

from tune_gan.cli import app
from tune_gan.presets import preset_names
from tune_gan.search.spec import SweepSpec
from tune_gan.settings import parse_yaml

_CHECKOUT = Path(__file__).parent.parent
_PAGES = ["README.md", "analysis/README.md", "cluster/README.md", "tests/benchmarks/README.md"]
_README = (_CHECKOUT / "README.md").read_text()


@pytest.mark.parametrize("page", _PAGES)
def test_links_lead_somewhere(page: str) -> None:
    path = _CHECKOUT / page
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        assert target.startswith("https://") or (path.parent / target).exists(), target


def test_the_two_commands_come_first() -> None:
    blocks = re.findall(r"```\n(.+?)\n```", _README, re.DOTALL)
    assert blocks[:2] == [
        "pip install . && tune-gan sweep digits",
        "pip install -e '.[test]' && pytest",
    ]


def test_the_tree_names_every_module_and_no_other() -> None:
    tree = _README.split("## Where is what")[1].split("```")[1]
    named = set(re.findall(r"\b\w+\.py\b", tree))
    modules = (_CHECKOUT / "tune_gan").rglob("*.py")
    assert named == {path.name for path in modules if path.name != "__init__.py"}
    for folder in re.findall(r"^ *(\w+)/", tree, re.MULTILINE):
        assert any(path.is_dir() for path in _CHECKOUT.rglob(folder)), folder


@pytest.mark.parametrize("page", _PAGES)
def test_commands_and_flags_exist(page: str) -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    text = (_CHECKOUT / page).read_text()
    for name, rest in re.findall(r"tune-gan ([a-z]+)\b((?:(?!tune-gan )[^`|\n])*)", text):
        flags = {flag for parameter in commands[name].params for flag in parameter.opts}
        named = {flag.replace("_", "-") for flag in re.findall(r"--[a-z_]+[a-z_-]*", rest)}
        assert named <= flags | {"--help"}, rest
    for module in re.findall(r"python -m analysis\.(\w+)", text):
        assert (_CHECKOUT / "analysis" / f"{module}.py").is_file()


def test_all_commands_and_presets_are_named() -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    assert set(re.findall(r"^\| `tune-gan (\w+)", _README, re.MULTILINE)) == set(commands)
    for name in preset_names():
        assert f"`{name}`" in _README


def test_the_example_is_a_sweep() -> None:
    (example,) = re.findall(r"```yaml\n(.+?)```", _README, re.DOTALL)
    spec = SweepSpec.parse(parse_yaml(example))
    assert (spec.gan.dataset, spec.num_trials) == ("digits", 32)
    assert SweepSpec.parse(parse_yaml(spec.to_yaml())) == spec
