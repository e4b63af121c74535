"""Marks of parametrized tests."""

from typing import Any

import pytest


def slow(*values: Any) -> list[Any]:
    """Return values of a parameter, or tuples of several, whose tests carry the mark `slow`."""
    return [
        pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.slow) for value in values
    ]
