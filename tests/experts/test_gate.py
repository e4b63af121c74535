"""The gate that an expert passes before it may demonstrate."""

from pathlib import Path

import pytest

from ilt.experts.gate import GateError, check_gate
from ilt.tracking.store import Artifact

EXPERT = Artifact(
    Path("outputs/experts/ppo-0123456789"),
    {"metrics": {"selection": {"deterministic": {"return_mean": 240.04}, "sampled": {"return_mean": 180.0}}}},
)


@pytest.mark.parametrize(("gate", "deterministic"), [(240.0, True), (240.04, True), (180.0, False), (-50.0, False)])
def test_an_expert_that_is_good_enough_passes(gate: float, deterministic: bool) -> None:
    check_gate(EXPERT, gate=gate, deterministic=deterministic)


@pytest.mark.parametrize(("gate", "deterministic"), [(240.05, True), (180.5, False)])
def test_an_expert_that_is_not_good_enough_is_refused(gate: float, deterministic: bool) -> None:
    with pytest.raises(GateError):
        check_gate(EXPERT, gate=gate, deterministic=deterministic)


def test_without_a_gate_every_expert_passes() -> None:
    check_gate(EXPERT, gate=None, deterministic=False)


def test_the_error_says_what_was_reached_what_to_change_and_where_the_expert_is() -> None:
    with pytest.raises(GateError) as error:
        check_gate(EXPERT, gate=250.0, deterministic=False)
    for told in ("expert.gate", "at least 250.0", "sampling its actions, reaches 180.0", "(expert.total_steps)",
                 "expert.seed", "lower expert.gate", "ppo-0123456789", str(EXPERT.path)):  # fmt: skip
        assert told in str(error.value)
