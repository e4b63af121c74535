"""Process setup before computation."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from threadpoolctl import threadpool_info, threadpool_limits

from ilt.machine import multiplies_bfloat16
from ilt.training import runtime
from ilt.training.runtime import precision_of, set_up
from tests.training.toy_training import demonstrations, train, train_config


def blas_threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


@pytest.mark.parametrize(("threads", "expected"), [(1, {1}), (None, {2})])
def test_the_number_of_threads_also_applies_to_numpy(threads: int | None, expected: set[int]) -> None:
    before = torch.get_num_threads()
    with threadpool_limits(2, user_api="blas"):
        set_up(threads)
        assert blas_threads() == expected
    assert torch.get_num_threads() == (threads or before)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("avx2 avx512_bf16", True), ("amx_bf16 amx_tile", True), ("avx512f amx_tile", False), ("xavx512_bf16", False)],
)
def test_whether_a_cpu_multiplies_bfloat16_is_read_from_its_flags(flags: str, expected: bool, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: fpu {flags}\nbugs\t\t:\n")
    assert multiplies_bfloat16(tmp_path / "cpuinfo") == expected
    assert not multiplies_bfloat16(tmp_path / "none")


@pytest.mark.parametrize(("faster", "chosen"), [(True, "bf16-mixed"), (False, "32-true")])
def test_auto_precision_is_what_is_fast_here(
    faster: bool, chosen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(runtime, "multiplies_bfloat16", lambda: faster)
    assert precision_of(OmegaConf.create({"accelerator": "cpu", "precision": "64-true"})) == "64-true"
    ends, demos = [], demonstrations(tmp_path)
    for precision in ("auto", chosen):
        cfg = train_config(tmp_path, f"trainer.precision={precision}", "trainer.max_steps=5")
        with caplog.at_level("INFO"):
            checkpoint, fitted = train(cfg, tmp_path / precision, demos)
        ends.append(checkpoint["state_dict"])
        assert fitted.precision == chosen
    torch.testing.assert_close(*ends, atol=0, rtol=0)
    said = [message for message in caplog.messages if "trainer.precision" in message]
    assert said == [f"trainer.precision=auto: training in {chosen} on this device"]
