"""Gymnasium's hand-written controllers that remember something."""

from pathlib import Path

import numpy as np
from gymnasium.envs.box2d.bipedal_walker import BipedalWalkerHeuristics
from omegaconf import OmegaConf

from ilt.envs.spec import EnvSpec
from ilt.experts.base import HeuristicExpert
from ilt.experts.check import check_expert
from ilt.experts.find import canonical_config_of
from ilt.experts.heuristics import BipedalWalker
from ilt.registry import load_option
from ilt.rollout.recorded import Context
from ilt.tracking.store import Store


def test_each_slot_has_a_controller_of_its_own_which_acts_as_gymnasiums() -> None:
    policy, observations = BipedalWalker(), np.random.default_rng(0).normal(0, 0.5, (3, 40, 24)).astype(np.float32)
    policy.reset(np.arange(2), np.arange(2))
    walked = [policy.act(np.arange(2), observations[:2, t]) for t in range(40)]
    policy.reset(np.array([1]), np.array([7]))  # a new episode in one slot
    again = [policy.act(np.array([1]), observations[2:, t]) for t in range(40)]
    for actions, seen in ((np.array(walked)[:, 0], 0), (np.array(walked)[:, 1], 1), (np.array(again)[:, 0], 2)):
        alone = BipedalWalkerHeuristics()
        expected = [alone.step_heuristic(observation).copy() for observation in observations[seen]]
        np.testing.assert_array_equal(actions, np.array(expected, dtype=np.float32))
    assert np.abs(walked).max() == 1.0


def test_the_controller_of_bipedal_walker_keeps_the_contract_of_experts() -> None:
    check_expert(HeuristicExpert(), EnvSpec.from_config(load_option("env", "bipedal_walker")))


def test_two_controllers_of_one_environment_are_two_experts(tmp_path: Path) -> None:
    identities = []
    for controller in ("ilt.envs.lunar_lander.heuristic", "ilt.envs.lunar_lander.heuristic_continuous"):
        cfg = OmegaConf.create(
            {"env": load_option("env", "lunar_lander"), "expert": load_option("expert", "heuristic")}
        )
        cfg.env.heuristic = controller
        ctx = Context(EnvSpec.from_config(cfg.env), Store(tmp_path))
        identities.append(canonical_config_of(ctx, cfg.expert))
    assert identities[0] != identities[1]
