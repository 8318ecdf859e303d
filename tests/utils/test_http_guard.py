"""Which HTTP requests a server on the loopback serves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smolvla_gym.utils.http_guard import MAX_FRAGMENTS, FragmentLimit, is_loopback_host, refusal

LOOPBACK = [
    "localhost", "LocalHost:8080", "127.0.0.1", "127.0.0.1:1", "127.0.0.1:65535", "127.3.2.1:80", "[::1]", "[::1]:8080",
]  # fmt: skip
FOREIGN = [
    "", " ", "evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example", "127.0.0.1:x",
    "127.0.0.1:0", "127.0.0.1:99999", "127.1", "2130706433", "0x7f.0.0.1", "0.0.0.0", "[::]", "::1", "::1:80", "[::2]",
    "[::ffff:127.0.0.1]", "[127.0.0.1]", "10.0.0.1", "user@localhost", "localhost/", "localhost\n", "localhost.",
    "127.0.0.1:80:80", "127.0.0.1:٣",
]  # fmt: skip


@pytest.mark.parametrize("host", LOOPBACK)
def test_loopback_names_are_served_with_any_port(host):
    assert is_loopback_host(host)
    assert refusal([host], [], own_pages=True) is None
    assert refusal([host], [f"http://{host}"], own_pages=True) is None
    assert refusal([host], [f"http://{host}"], own_pages=False) is not None


@pytest.mark.parametrize("host", FOREIGN)
def test_other_names_are_refused_also_where_the_origin_equals_them(host):
    assert not is_loopback_host(host)
    for origins in ([], [f"http://{host}"]):
        assert "Host" in refusal([host], origins, own_pages=True)


@pytest.mark.parametrize(
    "origins",
    [
        ["https://evil.example"], ["null"], [""], ["http://127.0.0.1:8081"], ["http://localhost:8080"],
        ["http://127.0.0.1:8080/"], ["http://127.0.0.1:8080@evil.example"], ["ftp://127.0.0.1:8080"],
        ["http://127.0.0.1:8080", "http://127.0.0.1:8080"],
    ],
)  # fmt: skip
def test_pages_of_other_origins_are_refused(origins):
    assert "Origin" in refusal(["127.0.0.1:8080"], origins, own_pages=True)


def test_one_host_is_wanted():
    assert refusal([], [], own_pages=True)
    assert refusal(["localhost", "localhost"], [], own_pages=True)


@given(st.text(max_size=200), st.text(max_size=200))
def test_nothing_else_gets_in_and_messages_stay_short_and_printable(host, origin):
    why = refusal([host], [origin], own_pages=True)
    assert why is None or (why.isprintable() and len(why) < 600)
    assert why is not None or is_loopback_host(host)


def test_a_message_may_have_many_frames_and_not_endlessly_many():
    limit = FragmentLimit()
    for _ in range(3):
        assert not any(limit.is_passed(opcode, False) for opcode in [2] + [0] * (MAX_FRAGMENTS - 1))
        assert not limit.is_passed(9, True)
        assert not limit.is_passed(0, True)
    assert not any(limit.is_passed(0, False) for _ in range(MAX_FRAGMENTS))
    assert not limit.is_passed(0, True)
    assert [limit.is_passed(0, False) for _ in range(MAX_FRAGMENTS + 1)][-1]
