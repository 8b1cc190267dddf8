import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.limits import largest_file
from tune_gan.errors import ConfigError, StorageError
from tune_gan.files import append_line, read_lines, require_writable, write_whole

_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def test_a_file_is_written_and_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_whole(path, "é\n")
    assert path.read_bytes() == b"\xc3\xa9\n"
    write_whole(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize("old", [None, b"what was there"])
def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path: Path, old: bytes | None) -> None:
    path = tmp_path / "x.json"
    if old is not None:
        path.write_bytes(old)
    with largest_file(5000), pytest.raises(StorageError) as caught:
        write_whole(path, b"n" * 20_000)
    assert str(caught.value) == f"{path} cannot be written (File too large)"
    assert (path.read_bytes() if path.exists() else None) == old
    assert [p.name for p in tmp_path.iterdir()] == (["x.json"] if old is not None else [])


def test_a_file_that_cannot_be_written_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for path, reason in (
        (tmp_path / "none" / "x", "No such file or directory"),
        (tmp_path / "folder", "Is a directory"),
    ):
        with pytest.raises(StorageError) as caught:
            write_whole(path, "x")
        assert str(caught.value) == f"{path} cannot be written ({reason})"
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_a_folder_that_has_become_a_file_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match=r"x cannot be written \(Not a directory\)"):
        write_whole(tmp_path / "file" / "x", "x")


def test_lines_are_appended(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    append_line(path, {"a": 1})
    append_line(path, {"a": "zwei\nZeilen"})
    assert path.read_bytes() == b'{"a": 1}\n{"a": "zwei\\nZeilen"}\n'


@pytest.mark.parametrize("begun", ["{", '{"a": 1}', '{"a": "\u2028', "\x00\x00"])
def test_an_unfinished_line_is_ended_first(tmp_path: Path, begun: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 0}\n' + begun, encoding="utf-8")
    append_line(path, {"a": 2})
    assert path.read_bytes() == b'{"a": 0}\n' + begun.encode() + b'\n{"a": 2}\n'


def test_what_json_has_no_word_for_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    for value in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match="not JSON compliant"):
            append_line(path, {"a": value})
    assert not path.exists()


def test_a_line_that_a_full_disk_cut_spoils_no_later_one(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    append_line(path, {"a": 0})
    with largest_file(50), pytest.raises(StorageError) as caught:
        append_line(path, {"a": "n" * 100})
    assert str(caught.value) == f"{path} cannot be written (File too large)"
    append_line(path, {"a": 2})
    assert read_lines(path) == ([{"a": 0}, {"a": 2}], 1)


def test_a_list_that_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot be written \(Is a directory\)"):
        append_line(tmp_path, {"a": 1})
    with pytest.raises(StorageError, match=r"cannot be read \(Is a directory\)"):
        read_lines(tmp_path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", ([], 0)),
        (b"\n \n\n", ([], 0)),
        (b'{"a": 1}', ([{"a": 1}], 0)),
        (b'{"a": 1}\r\n{"a": 2}\r\n', ([{"a": 1}, {"a": 2}], 0)),
        (b'{"a": 1}\n{"a": \n{"a": 3}\n', ([{"a": 1}, {"a": 3}], 1)),
        (b'[1]\n5\n"x"\nnull\n{}\n', ([{}], 4)),
        (b'\xff\xfe\x00\n{"a": 1}\n', ([{"a": 1}], 1)),
        (b'{"a": "\xff"}\n', ([{"a": "\ufffd"}], 0)),
        (b"[" * 100_000 + b'\n{"a": 1}\n', ([{"a": 1}], 1)),
        (b'{"a": ' + b"9" * 5000 + b'}\n{"a": 1}\n', ([{"a": 1}], 1)),
        ('{"a": "x\u2028y\u0085z"}\n'.encode(), ([{"a": "x\u2028y\u0085z"}], 0)),
    ],
)
def test_damaged_lines_are_left_out_and_counted(
    tmp_path: Path, content: bytes, expected: tuple[list[dict[str, Any]], int]
) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    assert read_lines(path) == expected


def test_no_file_holds_no_lines(tmp_path: Path) -> None:
    assert read_lines(tmp_path / "none.jsonl") == ([], 0)


@settings(max_examples=40)
@given(st.lists(st.dictionaries(st.text(), _JSON, max_size=3), max_size=4))
def test_what_was_appended_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, lines: list[dict[str, Any]]
) -> None:
    path = tmp_path_factory.mktemp("lines") / "x.jsonl"
    for line in lines:
        append_line(path, line)
    assert read_lines(path) == (lines, 0)
    written = path.read_text() if lines else ""
    assert [json.loads(line) for line in written.split("\n")[:-1]] == lines


def test_what_may_be_written_is_told_before(tmp_path: Path) -> None:
    (tmp_path / "there.png").touch()
    (tmp_path / "link.png").symlink_to(tmp_path / "there.png")
    for file in (tmp_path / "there.png", tmp_path / "link.png", tmp_path / "new.png"):
        require_writable(file)
    require_writable(Path("new.png"))
    require_writable(Path(os.devnull))
    assert not (tmp_path / "new.png").exists()


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("nowhere/new.png", "there is no folder"),
        ("", "it is a folder; name a file in it"),
        ("x" * 300, r"\(File name too long\)"),
    ],
)
def test_what_cannot_be_written_is_refused_before(tmp_path: Path, name: str, why: str) -> None:
    with pytest.raises(ConfigError, match=f"cannot be written.*{why}"):
        require_writable(tmp_path / name)
