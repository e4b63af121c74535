"""The gate that an expert passes before it may demonstrate."""

from pathlib import Path

import pytest

from ilt.experts.gate import GateError, check_gate
from ilt.tracking.store import Artifact

EXPERT = Artifact(
    Path("outputs/experts/ppo-0123456789"),
    {"metrics": {"selection": {"deterministic": {"return_mean": 240.04}, "sampled": {"return_mean": 180.0}}}},
)


@pytest.mark.parametrize(
    ("gate", "deterministic"), [(240.0, True), (240.04, True), (180.0, False), (-50.0, False), (None, False)]
)
def test_an_expert_that_is_good_enough_passes(gate: float | None, deterministic: bool) -> None:
    check_gate(EXPERT, gate=gate, deterministic=deterministic)


@pytest.mark.parametrize(
    ("gate", "deterministic", "reached"),
    [(240.05, True, "acting deterministically, reaches 240.0"), (180.5, False, "sampling its actions, reaches 180.0")],
)
def test_one_that_is_not_is_refused_with_its_return_what_to_change_and_where_it_is(
    gate: float, deterministic: bool, reached: str
) -> None:
    advice = r"\(expert\.total_steps\), with another expert\.seed, or lower expert\.gate\..* in outputs/experts/ppo-"
    with pytest.raises(GateError, match=rf"^expert\.gate .* at least {gate} .* ppo-0123456789, {reached}\..*{advice}"):
        check_gate(EXPERT, gate=gate, deterministic=deterministic)
