from pathlib import Path

import pytest

from tune_gan.config import GanConfig
from tune_gan.errors import ConfigError
from tune_gan.settings import describe_duration, nearest, parse_duration, parse_yaml, read_yaml


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


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2h", 7200.0),
        ("1h30m", 5400.0),
        ("1h 30m", 5400.0),
        (" 90 m ", 5400.0),
        ("45s", 45.0),
        ("1.5h", 5400.0),
        ("0.25s", 0.25),
        ("2d", 172_800.0),
        ("90", 90.0),
        ("0.5", 0.5),
        ("1d2h3m4s", 93_784.0),
    ],
)
def test_times_with_units_are_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("value", [90, 0.5, None, True, [1]])
def test_what_is_no_text_is_left_for_the_field_to_judge(value: object) -> None:
    assert parse_duration(value) is value


@pytest.mark.parametrize(
    "text", ["", " ", "1e3", "-2", "2 hours", "h", "-2h", "2h!", "1,5h", "1e3s", ".5h", "2H"]
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_duration(text)
    assert str(caught.value) == f"{text!r} is no time; give e.g. 2h, 1h30m, 45s or seconds"


def test_a_long_text_that_is_no_time_is_shortened() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_duration("2h" * 1000 + "x")
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (0.4, "0 s"),
        (89.4, "89 s"),
        (120, "2 min"),
        (3569, "59 min"),
        (3599, "1 h"),
        (3600, "1 h"),
        (5400, "1 h 30 min"),
        (7199, "2 h"),
        (200_000, "55 h 33 min"),
    ],
)
def test_times_in_words(seconds: float, words: str) -> None:
    assert describe_duration(seconds) == words
