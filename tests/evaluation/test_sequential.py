"""Confidence sequences and decisions, by hand, beside a published implementation, and by simulation."""

import sys
from dataclasses import replace

import numpy as np
import pytest

from ilt.evaluation.sequential import (
    BATCH,
    BETTER,
    EQUAL,
    UNDECIDED,
    WORSE,
    Decision,
    confidence_sequence,
    decide,
    log_wealth,
    plausible_bound,
)

DIFFERENCES = np.array([3.0, -1, 4, 1, -5, 9, 2, 6, -5, 3])
MARGIN = 5.0


@pytest.mark.parametrize(
    ("mean", "expected"),
    [
        (0.0, [0.0, -0.03295424, 0.04275558]),
        (1.0, [-0.00309847, -0.02557372, -0.09997503]),
        (5.0, [0.01632436, 0.43082167, 0.71361482]),
        (-3.0, [0.02801657, 0.19264066, 1.1051449]),
    ],
)
def test_the_wealth_is_that_of_the_published_implementation(mean: float, expected: list[float]) -> None:
    # `diversified_betting_mart` of confseq 0.0.11 on (DIFFERENCES + 20) / 40, after 1, 5 and 10 values
    assert [log_wealth(DIFFERENCES[:n], mean, 20.0) for n in (1, 5, 10)] == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(
    ("n", "expected"), [(10, [-6.19, 8.435]), (50, [-0.495, 3.67]), (100, [0.365, 2.95]), (200, [0.815, 2.57])]
)
def test_the_interval_is_that_of_the_published_implementation(n: int, expected: list[float]) -> None:
    # `cs_from_martingale` of confseq 0.0.11, which rounds outwards to a grid of 0.005
    assert confidence_sequence(np.tile(DIFFERENCES, 20)[:n], 20.0) == pytest.approx(expected, abs=0.006)


def test_the_wealth_by_hand() -> None:
    assert log_wealth(np.array([10.0]), 0.0, 10.0) == pytest.approx(0.0)
    wealth = 0.5 * (0.5 * 4 + 0.125 * (1.5**2 + 1.25**2 + 1.125**2 + 1.0625**2))
    wealth += 0.5 * 0.125 * (0.5**2 + 0.75**2 + 0.875**2 + 0.9375**2)
    assert np.exp(log_wealth(np.array([10.0, 10.0]), 0.0, 10.0)) == pytest.approx(wealth)
    assert np.exp(log_wealth(np.array([10.0, -10.0]), 0.0, 10.0)) < 1  # what was bet as a whole is lost
    several = np.stack([DIFFERENCES, -DIFFERENCES])
    assert log_wealth(several, 0.0, np.array([20.0, 30.0])) == pytest.approx(
        [log_wealth(DIFFERENCES, 0.0, 20.0), log_wealth(-DIFFERENCES, 0.0, 30.0)]
    )


def test_the_interval_contains_the_mean_and_ends_where_the_wealth_is_twenty() -> None:
    values = np.random.default_rng(0).normal(3.0, 10.0, 400)
    low, high = confidence_sequence(values, 100.0)
    assert low < values.mean() < high
    assert [log_wealth(values, end, 100.0) for end in (low, high)] == pytest.approx([np.log(20)] * 2, abs=1e-3)
    wider = confidence_sequence(values, 100.0, confidence=0.99)
    assert wider[0] < low < high < wider[1]
    assert confidence_sequence(-values, 100.0) == pytest.approx([-high, -low])


def test_the_intervals_of_constants() -> None:
    assert confidence_sequence(np.zeros(500), 500.0) == pytest.approx([-4.3, 4.3], abs=0.05)
    assert confidence_sequence(np.full(500, 20.0), 500.0) == pytest.approx([15.5, 24.1], abs=0.05)
    assert confidence_sequence(np.zeros(5), 0.0) == [0.0, 0.0]
    assert confidence_sequence(np.zeros(1), 1.0) == pytest.approx([-1.0, 1.0], abs=0.05)
    low, high = confidence_sequence(np.ones(50), 1.0)
    assert 0.8 < low < high == pytest.approx(1.0)
    with pytest.raises(ValueError, match=r"differences must be at most bound = 1, got 2"):
        confidence_sequence(np.array([0.0, -2.0]), 1.0)


def test_the_plausible_bound_reaches_from_random_to_the_best_return() -> None:
    returns = {"expert": np.array([[250.0, 300.0]]), "student": np.array([[240.0, 280.0], [200.0, 290.0]])}
    assert plausible_bound(returns, np.array([-150.0, -250.0])) == 300.0 + 200.0
    assert plausible_bound({**returns, "failing": np.array([[-400.0]])}, np.array([-200.0])) == 700.0


@pytest.mark.parametrize(
    ("differences", "outcome"),
    [
        (np.full(300, 30.0), BETTER),
        (np.full(300, -30.0), WORSE),
        (np.zeros(600), EQUAL),
        (np.full(600, 0.5), EQUAL),
        (np.zeros(300), UNDECIDED),
        (np.tile([-200.0, 210.0], 100), UNDECIDED),
    ],
)
def test_a_decision_by_its_interval(differences: np.ndarray, outcome: str) -> None:
    reference = np.full((1, len(differences)), 280.0)
    decision = decide(reference + differences, reference, 500.0, margin=MARGIN)
    assert (decision.outcome, decision.n_episodes) == (outcome, len(differences))
    assert decision.interval == confidence_sequence(differences, 500.0)
    assert decide(reference, reference, 500.0, margin=None).outcome == UNDECIDED
    assert decide(reference, reference, 0.0, margin=MARGIN).outcome == EQUAL


def test_several_runs_are_compared_by_their_means() -> None:
    runs, reference = np.array([[10.0, 12.0], [14.0, 12.0]]), np.array([[9.0, 9.0], [11.0, 13.0], [10.0, 11.0]])
    assert decide(runs, reference, 20.0, margin=None).mean == pytest.approx(1.5)  # of 2 and 1
    assert decide(runs, reference, 20.0, margin=None).interval == confidence_sequence(np.array([2.0, 1.0]), 20.0)


def test_a_decision_in_words() -> None:
    better = Decision(outcome=BETTER, mean=12.3, interval=[4.1, 20.5], n_episodes=300, bound=500.0)
    words = {"margin": MARGIN, "most": 1000}
    interval = "by 12.3 (95 % confidence sequence 4.1 to 20.5) after 300 of at most 1,000 episodes"
    assert better.sentence("A", "B", **words) == f"A is better than B {interval}"
    worse = replace(better, outcome=WORSE, mean=-12.3, interval=[-20.5, -4.1])
    assert worse.sentence("A", "B", **words) == f"B is better than A {interval}"
    assert replace(better, outcome=EQUAL, mean=1.0, interval=[-2.0, 4.0]).sentence("A", "B", **words) == (
        "no difference above 5 after 300 of at most 1,000 episodes: A - B is 1.0 (95 % confidence sequence -2.0 to 4.0)"
    )
    left = replace(better, outcome=UNDECIDED, mean=1.0, interval=[-9.0, 8.0], n_episodes=1000)
    expected = "undecided after 1,000 episodes: A - B is 1.0 (95 % confidence sequence -9.0 to 8.0)"
    assert left.sentence("A", "B", **words) == left.sentence("A", "B", margin=None, most=1000) == expected


NULLS = [
    "normal", "Student's t", "crashes 0.5 %, else 0", "crashes 1 %", "crashes 2 %", "skewed 0.5 %", "skewed 1 %",
    "skewed 2 %", "equal",
]  # fmt: skip
"""Paired differences with a mean of 0: normal, Student's t with three degrees of freedom, crashes of either policy, a
policy that is a little better but crashes alone, and equal policies."""


def differences(kind: str, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Draw paired differences with a mean of 0."""
    if kind == "normal":
        return rng.normal(0, 30, shape)
    if kind == "Student's t":
        return 25 * rng.standard_t(3, shape) / 3**0.5
    if kind == "equal":
        return np.zeros(shape)
    cause, percent, *steady = kind.split(" ", 2)
    rate, drawn, u = float(percent) / 100, rng.normal(0, 10, shape), rng.random(shape)
    if cause == "crashes":
        drawn = np.zeros(shape) if "0" in "".join(steady) else drawn
        return np.where(u < rate / 2, -400.0, np.where(u > 1 - rate / 2, 400.0, drawn))
    return np.where(u < rate, -400.0, drawn + 400 * rate / (1 - rate))


def simulate(kind: str, difference: float, n: int, *, most: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    """Return the outcomes (n,) of simulated evaluations that look after every batch, and their numbers of episodes."""
    rng = np.random.default_rng(0)
    normal, random = rng.normal(280, 20, (n, most)), rng.normal(-180, 110, (n, most))
    paired = differences(kind, (n, most), rng) + difference
    reference = np.where(paired > 300, normal - paired, normal)  # then it was the reference that crashed
    student, threshold = reference + paired, np.log(20)
    outcomes, counts = np.full(n, UNDECIDED, dtype=object), np.full(n, most)
    for count in range(BATCH, most + 1, BATCH):
        left = np.flatnonzero(outcomes == UNDECIDED)
        if len(left) == 0:
            break
        returns = [{"reference": reference[i, :count], "student": student[i, :count]} for i in left]
        bounds = np.array([plausible_bound(each, random[i, :count]) for i, each in zip(left, returns, strict=True)])
        gaps = paired[left, :count]
        means = gaps.mean(axis=1)
        sure = log_wealth(gaps, 0.0, bounds) >= threshold  # the same as an interval without 0, which `decide` computes
        same = np.abs(means) < MARGIN
        for end in (-MARGIN, MARGIN):
            same[same] = log_wealth(gaps[same], end, bounds[same]) >= threshold
        outcomes[left] = np.where(sure, np.where(means > 0, BETTER, WORSE), np.where(same, EQUAL, UNDECIDED))
        counts[left] = count
    return outcomes, counts


def wrong(outcomes: np.ndarray) -> float:
    """Return the rate of evaluations that find a difference."""
    return float(np.mean((outcomes == BETTER) | (outcomes == WORSE)))


@pytest.mark.parametrize("kind", ["Student's t", "crashes 2 %", "skewed 1 %"])
def test_equal_means_are_rarely_told_apart_although_every_batch_is_looked_at(kind: str) -> None:
    assert wrong(simulate(kind, 0.0, 60)[0]) <= 0.05


def test_equal_policies_are_found_to_be_equal() -> None:
    outcomes, counts = simulate("equal", 0.0, 3)
    assert list(outcomes) == [EQUAL] * 3
    assert counts.max() <= 600


@pytest.mark.parametrize("kind", ["Student's t", "skewed 1 %"])
def test_a_difference_of_20_is_found_with_half_of_the_episodes(kind: str) -> None:
    outcomes, counts = simulate(kind, 20.0, 40)
    assert list(outcomes) == [BETTER] * 40
    assert counts.mean() <= 500


@pytest.mark.slow
@pytest.mark.parametrize("kind", NULLS)
def test_errors_and_episodes_over_many_simulations(kind: str) -> None:
    """Print the row of docs/pages/concepts/evaluation.md, which `pytest -s` shows."""
    outcomes, counts = simulate(kind, 0.0, 2000)
    cells = [kind, f"{100 * wrong(outcomes):.1f} %", f"{100 * np.mean(outcomes == EQUAL):.0f} %, {counts.mean():.0f}"]
    assert wrong(outcomes) <= 0.05
    for difference in (5.0, 20.0, 50.0):
        outcomes, counts = simulate(kind, difference, 500)
        cells.append(f"{100 * np.mean(outcomes == BETTER):.0f} %, {counts.mean():.0f}")
        assert np.mean(outcomes == WORSE) <= 0.025
        assert difference < 20 or (np.mean(outcomes == BETTER) == 1 and counts.mean() <= 500)
    sys.stdout.write(f"\n| {' | '.join(cells)} |\n")
