"""Fields of untrusted objects are returned checked, or refused by their name with what is expected."""

import pytest

from smolvla_gym.utils import schema

FIELDS = {
    "width": schema.whole(1, 9),
    "rate": schema.Default(schema.optional(schema.number(0.0, 1.0)), 0.5),
    "part": schema.object_of({"names": schema.list_of(schema.text(3), 0, 2)}, ("names",), others=True),
}


def test_checked_fields_and_defaults_are_returned():
    assert schema.check_fields({"width": 3}, FIELDS, ("width",)) == {"width": 3, "rate": 0.5}
    content = {"rate": None, "part": {"names": ["a"], "more": 1}}
    assert schema.check_fields(content, FIELDS) == {"rate": None, "part": {"names": ("a",)}}
    assert schema.check_fields({"width": 3, "x": 1}, FIELDS, others=True) == {"width": 3, "rate": 0.5}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "a list of 0 stands where an object is expected"),
        ({"x": 1}, "unknown field 'x'"),
        ({"rate": 0.1}, "width is missing"),
        ({"width": True}, "width is True; expected a whole number from 1 to 9"),
        ({"width": 3, "rate": 2}, "rate is 2; expected a number from 0 to 1"),
        ({"width": 3, "part": {}}, "part: names is missing"),
        ({"width": 3, "part": {"names": ["long"]}}, "part: names: an entry is 'long'; expected"),
        ({"width": 3, "part": {"names": ["\ud800"]}}, "an entry is .* expected"),
        ({"width": 3, "part": {"names": ["\0"]}}, "an entry is .* expected"),
    ],
)
def test_a_wrong_field_is_named(content, message):
    with pytest.raises(ValueError, match=message):
        schema.check_fields(content, FIELDS, ("width",))
