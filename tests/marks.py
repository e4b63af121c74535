"""Marks of parametrized tests."""

from typing import Any

import pytest


def slow(*values: Any) -> list[Any]:
    """Return values of a parameter whose tests carry the mark `slow`."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]
