"""Numbers that callers hand in: honest ones of any integer type pass, and messages name what was given, in a line."""

import numpy as np
import pytest

from fedmrn.errors import ConfigError, EncodeError
from fedmrn.whole import shown, whole

HONEST = [7, np.int8(7), np.int64(7), np.uint64(7), np.uint8(7), np.array(7)]


@pytest.mark.parametrize("value", HONEST, ids=lambda v: type(v).__name__)
def test_any_integer_type_will_do(value: object) -> None:
    number = whole(value, "a weight")
    assert number == 7
    assert type(number) is int


@pytest.mark.parametrize("value", [True, np.True_, 2.5, 2.0, np.float32(2), "7", None, b"7", [7], np.array([7, 8])])
def test_what_is_no_whole_number_is_named(value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        whole(value, "a weight")
    message = str(caught.value)
    assert message.startswith("a weight is a whole number, got ")
    assert message.endswith(f"of type {type(value).__name__}")
    assert "\n" not in message


def test_too_small_is_not_too_large() -> None:
    for value, words in ((0, "is at least 1, got 0"), (-3, "is at least 1, got -3"), (2**70, "is too large")):
        with pytest.raises(EncodeError, match=words):
            whole(value, "a weight", error=EncodeError)
    assert whole(2**64 - 1, "a weight") == 2**64 - 1


@pytest.mark.parametrize("digits", [400, 5000])
def test_long_numbers_are_not_written_out(digits: int) -> None:
    for value in (10**digits, -(10**digits)):
        assert shown(value) == f"a whole number of about {digits:,} digits"
        with pytest.raises(ConfigError) as caught:
            whole(value, "a weight")
        assert len(str(caught.value)) < 120
    assert shown({"n": 10**5000}) == "a value of type dict"
    assert shown("a" * 1000) == "'" + "a" * 58 + "…"
    assert shown(2**70) == str(2**70)
    assert "\n" not in shown(np.eye(3))
