"""Evaluation that stops when it knows: confidence sequences of paired differences, and what they decide.

A confidence interval is valid for a number of episodes that was fixed beforehand. Looking at it after every batch, and
stopping once it excludes zero, is wrong more often than 1 time in 20. A confidence sequence is valid for all numbers of
episodes at once, so the evaluation may stop at any time.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import logsumexp

BATCH = 100
"""Episodes between two looks. Smaller batches leave worker processes with too few active episodes to be fast."""

ERROR = 0.05
"""Largest probability that any of a command's decisions is wrong."""

FRACTIONS = np.array([1.0, 1 / 2, 1 / 4, 1 / 8, 1 / 16])
"""The bets of `log_wealth`, as fractions of the wealth: large ones suit steady differences, small ones noisy ones."""

WEIGHTS = np.array([1 / 2, 1 / 8, 1 / 8, 1 / 8, 1 / 8])
"""How the initial wealth is split between `FRACTIONS`, so half of it goes to steady differences."""

BETTER, WORSE, EQUAL, UNDECIDED = "better", "worse", "equal", "undecided"


def log_wealth(differences: np.ndarray, mean: float, bound: float | np.ndarray) -> np.ndarray:
    """Return the log (…,) of the wealth of a gambler who bets against a hypothetical mean of (…, E) differences.

    An initial wealth of 1 is split between both directions and `FRACTIONS`. Each part bets its fraction on every
    episode: up, it is multiplied by 1 + fraction · (difference − mean) / (bound + mean), which is 0 if everything was
    bet and the difference is −bound. If `mean` is the true mean, the wealth is a martingale, and by Ville's inequality
    it *ever* reaches 1 / α with a probability of at most α. Constant bets are averaged as in Waudby-Smith and Ramdas
    (2024), "Estimating means of bounded random variables by betting", JRSS B 86(1). This holds for all distributions
    of differences within the bound, with any skew or tails, at any number of episodes.

    Args:
        differences: (…, E), each from −bound to bound.
        mean: above −bound and below bound.
        bound: the largest possible difference; a number or (…,).

    Example:
        With a bound of 10, a difference of 10 multiplies bets against a mean of 0 by 1 + fraction if they are up, and
        by 1 − fraction if they are down. After one such episode, the wealth is still 1; after two it is 1.54.
    """
    bound = np.asarray(bound, dtype=np.float64)[..., None]
    up, down = (differences - mean) / (bound + mean), (mean - differences) / (bound - mean)
    with np.errstate(divide="ignore"):  # everything was bet and lost
        parts = [
            np.log(weight / 2) + np.log(np.maximum(1 + fraction * won, 0)).sum(axis=-1)
            for won in (up, down)
            for fraction, weight in zip(FRACTIONS, WEIGHTS, strict=True)
        ]
    wealth: np.ndarray = logsumexp(parts, axis=0)
    return wealth


def confidence_sequence(differences: np.ndarray, bound: float, *, confidence: float = 0.95) -> list[float]:
    """Return the interval [low, high] of the mean of (E,) differences, valid at all E at once.

    It contains the means against which `log_wealth` is below log(1 / (1 − confidence)): a wealth is a sum of products
    of log-convex functions of the hypothetical mean, so these means are an interval; against the sample mean, no
    constant bet wins, so the interval contains it. Raise ValueError if a difference exceeds the bound.

    Example:
        `confidence_sequence(np.zeros(500), 500.0)` is [−4.3, 4.3]: nothing happened in 500 episodes, but a failure that
        costs 500 may happen once in 116. If all differences are 20, it is [15.5, 24.1].
    """
    largest = float(np.abs(differences).max())
    if largest > bound * (1 + 1e-9):
        raise ValueError(f"differences must be at most bound = {bound:g}, got {largest:g}")
    if bound == 0:
        return [0.0, 0.0]
    inside = bound * (1 - 1e-9)  # no bet is possible against the bound itself
    middle = float(np.clip(differences.mean(), -inside, inside))

    def excess(mean: float) -> float:
        return float(log_wealth(differences, mean, bound)) + np.log(1 - confidence)

    def end(outermost: float) -> float:
        return outermost if excess(outermost) <= 0 else float(brentq(excess, middle, outermost, xtol=1e-6 * bound))

    return [end(-inside), end(inside)]


def plausible_bound(returns: Mapping[str, np.ndarray], random: np.ndarray) -> float:
    """Return the largest plausible difference between two returns of the same seed.

    It is the range of all returns that the compared policies have earned so far, and of the mean of the random policy.
    The random policy is what matters: policies that have never failed yet may fail, and an episode that fails is
    assumed to be no worse than a random one is on average. Otherwise a policy that is a little better in 99 % of the
    episodes, and crashes in the rest, would be called better before its first crash.

    Args:
        returns: (runs, E) by compared policy, the reference included.
        random: the returns of the random policy, of any shape.
    """
    seen = [random.mean(), *(end for each in returns.values() for end in (each.min(), each.max()))]
    return float(np.ptp(seen))


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What a number of episodes says about a policy and the reference.

    Attributes:
        outcome: `BETTER` or `WORSE` than the reference if the interval excludes zero; otherwise `EQUAL` if it lies
            within the margin, or `UNDECIDED`.
        mean: mean difference from the reference.
        interval: its confidence sequence.
        n_episodes: how many episodes each run of the policy was evaluated on.
        bound: the largest plausible difference, see `plausible_bound`.
    """

    outcome: str
    mean: float
    interval: list[float]
    n_episodes: int
    bound: float

    def sentence(self, policy: str, reference: str, *, margin: float | None, most: int) -> str:
        """Return the decision in words. `most` is the number of episodes after which it had to be made."""
        mean, (low, high) = self.mean, self.interval
        if self.outcome == WORSE:
            policy, reference, mean, low, high = reference, policy, -mean, -high, -low
        interval = f"(95 % confidence sequence {low:.1f} to {high:.1f})"
        after = f"after {'' if self.n_episodes == most else f'{self.n_episodes:,} of at most '}{most:,} episodes"
        if self.outcome in (BETTER, WORSE):
            return f"{policy} is better than {reference} by {mean:.1f} {interval} {after}"
        what = "undecided" if margin is None or self.outcome == UNDECIDED else f"no difference above {margin:g}"
        return f"{what} {after}: {policy} - {reference} is {mean:.1f} {interval}"


def decide(
    returns: np.ndarray, reference: np.ndarray, bound: float, *, margin: float | None, confidence: float = 0.95
) -> Decision:
    """Decide about a policy from (runs, E) returns, and those of the reference (runs, E) on the same seeds.

    The difference of a seed is that of the means over runs. The interval is about these very runs: it covers the luck
    of the episodes, not that of training seeds.

    Args:
        bound: see `plausible_bound`.
        margin: differences up to it do not matter; None if all do.
    """
    differences = returns.mean(axis=0) - reference.mean(axis=0)
    low, high = interval = confidence_sequence(differences, bound, confidence=confidence)
    if low > 0 or high < 0:
        outcome = BETTER if low > 0 else WORSE
    else:
        outcome = EQUAL if margin is not None and -margin <= low and high <= margin else UNDECIDED
    return Decision(
        outcome=outcome, mean=float(differences.mean()), interval=interval, n_episodes=len(differences), bound=bound
    )


def decide_in_batches(
    returns_of: Callable[[str, int], np.ndarray],
    compared: Sequence[str],
    *,
    reference: str,
    random: str,
    most: int,
    margin: float | None,
    report: Callable[[str, Decision], object],
) -> tuple[dict[str, int], dict[str, Decision]]:
    """Evaluate policies, a batch of episodes at a time, until it is decided how each compares with the reference.

    A decided policy gets no more episodes. The confidence of each comparison is such that all of them are right with a
    probability of 95 % (Bonferroni).

    Args:
        returns_of: returns the (runs, n) returns of the policy with a name on the first n seeds.
        compared: names of the policies to compare with the reference.
        reference, random: names of the reference and of the random policy, which are evaluated until the end.
        most: number of seeds, after which the evaluation ends in any case.
        margin: see `decide`.
        report: called with each policy's name and what its episodes say so far, after each batch.

    Returns:
        the number of episodes of every policy, and the decision about each compared one.
    """
    lengths, decisions, undecided = {reference: 0, random: 0}, dict[str, Decision](), list(compared)
    for n_episodes in [*range(BATCH, most, BATCH), most]:
        lengths |= dict.fromkeys([reference, random, *undecided], n_episodes)
        earned = {name: returns_of(name, lengths[name]) for name in lengths}
        bound = plausible_bound({name: earned[name] for name in (reference, *compared)}, earned[random])
        for name in undecided:
            opposite = earned[reference]
            decisions[name] = decide(earned[name], opposite, bound, margin=margin, confidence=1 - ERROR / len(compared))
            report(name, decisions[name])
        undecided = [name for name in undecided if decisions[name].outcome == UNDECIDED]
        if not undecided:
            break
    return lengths, decisions
