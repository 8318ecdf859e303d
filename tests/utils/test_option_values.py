"""Values of any type: taken for what they mean, or refused with a sentence."""

from pathlib import Path

import numpy as np
import pytest

from smolvla_gym.errors import OptionError
from smolvla_gym.utils import option_values as options


@pytest.mark.parametrize(
    ("given", "serial"),
    [(405000000001, "405000000001"), (5000000001, "005000000001"), (np.int64(405000000001), "405000000001"),
     ("405000000001", "405000000001"), (" 0123 ", "0123"), (np.str_("TWIN0001"), "TWIN0001")],
)  # fmt: skip
def test_a_serial_number_may_be_a_number(given, serial):
    taken = options.check_serial("camera", given)
    assert (taken, type(taken)) == (serial, str)


@pytest.mark.parametrize("given", [True, 0, -5, 10**12, 4.05e11, "", " ", b"405", ["405"], None, "4\n5", np.ones(2)])
def test_what_is_no_serial_number_is_refused(given):
    with pytest.raises(OptionError, match=r"camera=.*serial number"):
        options.check_serial("camera", given)


@pytest.mark.parametrize(
    ("check", "given", "taken"),
    [
        (options.check_switch, np.True_, True),
        (options.check_switch, np.array(False), False),
        (lambda o, v: options.check_choice(o, v, range(3)), np.int8(2), 2),
        (lambda o, v: options.check_choice(o, v, range(3)), 1.0, 1),
        (lambda o, v: options.check_choice(o, v, ("a", "b")), np.str_("b"), "b"),
        (lambda o, v: options.check_number(o, v, "any"), np.float32(0.5), 0.5),
        (lambda o, v: options.check_number(o, v, "any"), np.array(3), 3.0),
        (lambda o, v: options.check_pair(o, v, "any", low=1, high=9), np.array([3, 4]), (3, 4)),
        (lambda o, v: options.check_pair(o, v, "any", low=1, high=9), [np.uint8(3), 4], (3, 4)),
        (lambda o, v: options.check_path(o, v, "any"), Path("a"), Path("a")),
        (lambda o, v: options.check_path(o, v, "any"), "a/b", Path("a/b")),
    ],
)
def test_numpys_values_and_paths_become_plain_ones(check, given, taken):
    result = check("option", given)
    assert (result, type(result)) == (taken, type(taken))


HUGE = 10**5000


def type_name(value):
    return type(value).__name__


@pytest.mark.parametrize(
    "given", ["1", HUGE, -HUGE, np.ones(3), [1], {}, None, float("nan"), "\ud800", b"1", object()], ids=type_name
)
def test_everything_else_is_refused_in_one_short_line(given):
    for check in (
        options.check_switch,
        lambda o, v: options.check_choice(o, v, (7, 8)),
        lambda o, v: options.check_number(o, v, "a number"),
        lambda o, v: options.check_whole(o, v, "a number", low=2, high=9),
        lambda o, v: options.check_pair(o, v, "two numbers", low=2, high=9),
    ):
        with pytest.raises(OptionError, match=r"^option=") as error:
            check("option", given)
        assert len(str(error.value)) < 400
        assert "\n" not in str(error.value)


class Evil:
    """Nothing of it may be called for a message."""

    def __repr__(self):
        raise RuntimeError

    def __eq__(self, other):
        raise RuntimeError

    __hash__ = None


def test_a_value_that_cannot_be_printed_is_refused_too():
    for check in (options.check_switch, lambda o, v: options.check_choice(o, v, (7, 8))):
        with pytest.raises(OptionError, match="option=<Evil>"):
            check("option", Evil())


@pytest.mark.parametrize("given", ["", " ", "a\0b", b"log", 3, None, ["a"]])
def test_what_names_no_file_is_refused(given):
    with pytest.raises(OptionError):
        options.check_path("log", given, "a file")
