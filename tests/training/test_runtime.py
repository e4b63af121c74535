"""Process setup before computation."""

import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from ilt.training.runtime import set_up


def blas_threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


@pytest.mark.parametrize(("threads", "expected"), [(1, {1}), (None, {2})])
def test_the_number_of_threads_also_applies_to_numpy(threads: int | None, expected: set[int]) -> None:
    before = torch.get_num_threads()
    with threadpool_limits(2, user_api="blas"):
        set_up(threads)
        assert blas_threads() == expected
    assert torch.get_num_threads() == (threads or before)
