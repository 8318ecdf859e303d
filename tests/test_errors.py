import pytest

from smolvla_gym.errors import with_causes


def fail():
    try:
        raise ValueError("the\n  cause")
    finally:
        raise RuntimeError("hides it")


def test_what_led_to_an_error_is_told_first_and_in_one_line():
    with pytest.raises(RuntimeError) as caught:
        fail()
    assert with_causes(caught.value) == "ValueError: the cause; RuntimeError: hides it"
