from pathlib import Path

import pytest

from tune_gan.config import GanConfig
from tune_gan.errors import ConfigError
from tune_gan.settings import nearest, parse_yaml, read_yaml


def test_yaml_1_2_reads_exponents_as_numbers() -> None:
    assert parse_yaml("1e-4") == 1e-4
    assert parse_yaml("[1e-5, 1e-2]") == [1e-5, 1e-2]


@pytest.mark.parametrize(
    "text",
    ["a: 1\na: 2", "!!python/object/apply:os.system ['true']", "a: [1", "a: b: c", "\t- x"],
)
def test_unsafe_or_broken_yaml_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="no valid YAML") as caught:
        parse_yaml(text)
    assert "\n" not in str(caught.value)


def test_the_file_is_named(tmp_path: Path) -> None:
    missing, broken, binary = tmp_path / "a.yaml", tmp_path / "b.yaml", tmp_path / "c.yaml"
    broken.write_text("a: [1")
    binary.write_bytes(b"\xff\xfe\x00")
    for path in (missing, broken, binary):
        with pytest.raises(ConfigError, match=str(path)):
            read_yaml(path)


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "huge.yaml"
    path.write_bytes(b"#" * 200_000)
    with pytest.raises(ConfigError, match="100 kB"):
        read_yaml(path)


def test_a_list_is_no_configuration() -> None:
    with pytest.raises(ConfigError, match="mapping"):
        GanConfig.parse([1, 2])


def test_nearest_name() -> None:
    assert nearest("gen_lrr", ["gen_lr", "dropout"]) == " did you mean gen_lr?"
    assert nearest("qqq", ["gen_lr", "dropout"]) == ""
