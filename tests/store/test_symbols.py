import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pd_lightning.store.symbols import LARGEST, from_symbols, to_symbols


def joined(numbers):
    symbols, rest = to_symbols(np.array(numbers, dtype=np.int64))
    return from_symbols(symbols, np.frombuffer(rest, dtype=np.uint8))


@given(st.lists(st.integers(0, LARGEST) | st.integers(0, 20)))
@settings(max_examples=200, deadline=None)
def test_numbers_come_back(numbers):
    np.testing.assert_array_equal(joined(numbers), numbers)


def test_every_length_comes_back():
    powers = 1 << np.arange(28)
    numbers = np.concatenate((powers - 1, powers, powers + 1)).clip(max=LARGEST)
    np.testing.assert_array_equal(joined(numbers), numbers)


def test_small_numbers_are_their_symbols_and_need_no_bits():
    symbols, rest = to_symbols(np.arange(8))
    assert symbols.tolist() == list(range(8))
    assert rest == b""


def test_what_does_not_fit_together_is_refused():
    symbols, rest = to_symbols(np.array([100, 1000]))
    octets = np.frombuffer(rest, dtype=np.uint8)
    with pytest.raises(ValueError, match=r"its numbers have 11 more bits, not 8"):
        from_symbols(symbols, octets[:-1])
    with pytest.raises(ValueError, match="a symbol is not one"):
        from_symbols(np.array([255], dtype=np.uint8), octets)
