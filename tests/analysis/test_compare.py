"""Policies that are rolled out until they are decided, in the toy environment whose reward is the action."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from ilt.analysis.compare import find_or_compare, roll_out, roll_out_until_decided
from ilt.evaluation import sequential
from ilt.evaluation.comparison import ALL
from ilt.evaluation.sequential import BETTER, EQUAL, UNDECIDED, WORSE, Decision
from ilt.rollout.policies import FunctionPolicy
from ilt.rollout.recorded import Context, NamedPolicy, StoredEpisodes, random_policy
from ilt.tracking.store import Artifact, Store
from tests.toys import countdown

SEEDS = np.arange(3000, 3060)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequential, "BATCH", 10)


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    return Context(countdown(), Store(tmp_path), n_envs=8)


def always(action: int, *, except_seed: int | None = None) -> NamedPolicy:
    """Return a policy that always takes this action, except 0 in one episode."""
    name = f"always{action}-{except_seed}"

    def act(observations: np.ndarray) -> np.ndarray:
        return np.where(observations[:, 1] == (except_seed or -1), 0, action)

    policy = FunctionPolicy(act, countdown().action_space)
    return NamedPolicy(policy=policy, name=name, identity=name, deterministic=True)


def undecided(
    ctx: Context, margin: float | None = 1.5, **policies: list[NamedPolicy]
) -> tuple[dict[str, list[StoredEpisodes]], dict[str, Decision]]:
    """Compare policies with one that always takes action 1."""
    acting = {"reference": [always(1)], **policies, "random": [random_policy(ctx.env)]}
    return roll_out_until_decided(ctx, acting, SEEDS, compared=list(policies), reference="reference", margin=margin)


def lengths(rollouts: dict[str, list[StoredEpisodes]]) -> dict[str, int]:
    return {name: len(runs[0].load()) for name, runs in rollouts.items()}


def test_each_policy_stops_when_it_is_decided(ctx: Context) -> None:
    rollouts, decisions = undecided(ctx, better=[always(2)], worse=[always(0)], same=[always(1, except_seed=3002)])
    assert [decision.outcome for decision in decisions.values()] == [BETTER, WORSE, EQUAL]
    counts = lengths(rollouts)
    assert {name: counts[name] for name in decisions} == {n: decision.n_episodes for n, decision in decisions.items()}
    assert counts["better"] < counts["same"] < len(SEEDS)
    assert counts["reference"] == counts["random"] == max(counts.values())


def test_without_a_margin_equal_policies_are_undecided_and_have_the_numbers_of_the_fixed_evaluation(
    ctx: Context,
) -> None:
    policies = {"reference": [always(1)], "same": [always(1)], "random": [random_policy(ctx.env)]}
    rollouts, decisions = undecided(ctx, margin=None, same=[always(1)])
    assert decisions["same"].outcome == UNDECIDED
    fixed = roll_out(ctx, policies, SEEDS)
    for name in policies:
        expected, found = fixed[name][0].load(), rollouts[name][0].load()
        assert np.array_equal(found.seeds, SEEDS)
        assert np.array_equal(found.observations, expected.observations)
        assert np.array_equal(found.rewards, expected.rewards)


def test_stored_episodes_are_reused(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    first, decisions = undecided(ctx, better=[always(2)])
    others = Context(ctx.env, Store(ctx.store.root / "others"), n_envs=8)
    whole = roll_out(others, {"a": [always(1)], "b": [always(2)], "c": [random_policy(ctx.env)]}, SEEDS)
    monkeypatch.setattr(Context, "rollout", None)
    assert undecided(ctx, better=[always(2)]) == (first, decisions)
    from_whole, same = undecided(others, better=[always(2)])
    assert same == decisions
    assert lengths(from_whole) == lengths(first)
    assert from_whole["better"][0].artifacts == whole["b"][0].artifacts


def test_several_runs_are_decided_by_the_difference_of_their_means(ctx: Context) -> None:
    rollouts, decisions = undecided(ctx, mixed=[always(2), always(0), always(2), always(2)])
    reference = rollouts["reference"][0].load().returns
    runs = np.stack([run.load().returns for run in rollouts["mixed"]])
    assert decisions["mixed"].mean == pytest.approx((runs.mean(axis=0) - reference[: runs.shape[1]]).mean())
    assert decisions["mixed"].outcome == BETTER


def test_several_comparisons_share_the_probability_of_an_error(ctx: Context) -> None:
    alone = undecided(ctx, better=[always(2)])[1]["better"]
    together = undecided(ctx, better=[always(2)], same=[always(1)])[1]["better"]
    assert together.n_episodes > alone.n_episodes or together.interval[0] < alone.interval[0]


def decided_comparison(ctx: Context) -> Artifact:
    rollouts, decisions = undecided(ctx, margin=1.0, better=[always(2)], same=[always(1)])
    return find_or_compare(
        ctx, rollouts, name="toy", reference="reference", subsets={}, video=[],
        seeds={"block": "test", "offset": 0, "count": len(SEEDS)}, deterministic=True, margin=1.0, decisions=decisions,
    )  # fmt: skip


def test_the_files_say_what_was_decided_after_how_many_episodes(ctx: Context) -> None:
    comparison = decided_comparison(ctx)
    content = json.loads(comparison.file("comparison.json").read_text())
    until, metrics = content["until"], content["metrics"][ALL]
    assert (until["margin"], until["most_episodes"], until["confidence"]) == (1.0, 60, 0.95)
    assert {name: each["outcome"] for name, each in until["decisions"].items()} == {"better": BETTER, "same": EQUAL}
    difference, decision = metrics["better"]["difference"], until["decisions"]["better"]
    assert (difference["kind"], difference["interval"]) == ("confidence sequence", decision["interval"])
    assert metrics["better"]["n_episodes"] == decision["n_episodes"] < metrics["reference"]["n_episodes"]
    assert difference["mean"] == decision["mean"]
    with comparison.file("comparison.csv").open() as file:
        lines = {line["policy"]: line for line in csv.DictReader(file)}
    assert [line["decision"] for line in lines.values()] == ["", "better", "equal", ""]
    assert lines["better"]["difference_interval"] == "confidence sequence"
    assert float(lines["better"]["difference_low"]) == decision["interval"][0]
    assert int(lines["better"]["n_episodes"]) == decision["n_episodes"]
    markdown = comparison.file("comparison.md").read_text()
    assert markdown.startswith(f"toy, {metrics['reference']['n_episodes']} of at most 60 test episodes\n")
    assert "| policy | runs | episodes | return |" in markdown
    assert "| − reference | confidence sequence |" in markdown
    assert f"\n- {decision['sentence']}\n" in markdown
    assert decided_comparison(ctx).path == comparison.path
