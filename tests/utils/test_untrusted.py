from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smolvla_gym.utils.untrusted import check_inside, has_link, parse_json, printable, read_file, read_json_object

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(JSON)
def test_what_json_writes_is_read_back(value):
    assert parse_json(json.dumps(value)) == value


@given(st.binary() | st.text())
def test_any_text_is_read_or_refused_with_a_value_error(text):
    try:
        value = parse_json(text)
    except ValueError:
        return
    assert not isinstance(value, float) or math.isfinite(value)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 200_000,
        "[" * 40 + "]" * 40,
        '{"a":' * 40 + "1" + "}" * 40,
        "NaN",
        "[-Infinity]",
        "1e999",
        '{"a": 1, "a": 2}',
        "9" * 5000,
    ],
)
def test_refuses_bombs_and_ambiguous_numbers_at_once(text):
    begin = time.monotonic()
    with pytest.raises(ValueError):  # noqa: PT011
        parse_json(text)
    assert time.monotonic() - begin < 1.0


def test_a_fifo_or_a_large_file_is_refused_without_waiting(tmp_path: Path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "large.json").write_text("[" + " " * 5_000_000 + "]")
    (tmp_path / "list.json").write_text("[1]")
    for name in ("fifo", "large.json", "list.json"):
        with pytest.raises(ValueError):  # noqa: PT011
            read_json_object(tmp_path / name)
    with pytest.raises(OSError):  # noqa: PT011
        read_file(tmp_path, 10)
    with pytest.raises(FileNotFoundError):
        read_json_object(tmp_path / "absent.json")


def test_the_hubs_cache_consists_of_links(tmp_path: Path):
    (tmp_path / "blob").write_text('{"a": 1}')
    (tmp_path / "config.json").symlink_to(tmp_path / "blob")
    assert read_json_object(tmp_path / "config.json") == {"a": 1}


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", "", ".", "a\0b", "C:\\x", "C:/x", 3, None, ["a"]])
def test_names_that_leave_the_folder_are_refused(name, tmp_path: Path):
    with pytest.raises(ValueError):  # noqa: PT011
        check_inside(tmp_path, name)


@given(st.lists(st.sampled_from(["a", "b.parquet", ".hidden", "..x", "x y"]), min_size=1, max_size=5))
def test_other_names_stay_inside(parts):
    assert check_inside(Path("/root"), "/".join(parts)) == Path("/root").joinpath(*parts)


def test_links_on_the_way_are_found(tmp_path: Path):
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert not has_link(tmp_path, tmp_path / "real" / "deep")
    assert has_link(tmp_path, tmp_path / "link" / "deep")
    assert has_link(tmp_path, tmp_path / "link")
    assert has_link(tmp_path, tmp_path / "real" / ".." / "real")
    assert not has_link(tmp_path / "link", tmp_path / "link" / "deep")


@given(st.text())
def test_printable_text_is_one_short_line_without_escapes(text):
    line = printable(text + "\x1b[2J\n\r\x9b", 50)
    assert len(line) <= 50
    assert line.isprintable()
