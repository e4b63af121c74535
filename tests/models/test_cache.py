"""A decoder with cached keys and values gives the same outputs as one that recomputes its window."""

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ilt.models import native
from ilt.models.cache import CachedDecoder
from ilt.models.decoder import Decoder
from tests.models.test_decoder import ATTENTIONS, POSITIONS, TOKENS, close, decoder, each, window

LENGTHS = (1, 2, 3, 5, 8, 16)


@pytest.fixture(params=["c", "numpy"], autouse=True)
def language(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each test with the step in C, if ilt was installed with a compiler, and with the one in NumPy."""
    if request.param == "numpy":
        monkeypatch.setattr(native, "decode", None)
    elif native.decode is None:
        pytest.skip("ilt was installed without a C compiler")


def made_up(n_steps: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Return observations (T, 3) and actions (T,) of one episode."""
    observations, actions = window(1, n_steps, seed)
    return observations[0], actions[0]


def one_by_one(model: Decoder, observations: Tensor, actions: Tensor, *, steps_done: int = 0) -> Tensor:
    """Return the cached outputs of an episode, (T, 4), starting after `steps_done` steps."""
    cached, slot = CachedDecoder(model), np.zeros(1, dtype=np.int64)
    cached.reset(slot)
    cached._steps[slot] = steps_done
    steps = zip(observations[:, None].numpy(), actions.roll(1)[:, None].numpy(), strict=True)
    return torch.from_numpy(np.concatenate([cached.step(slot, seen, past) for seen, past in steps]))


@torch.inference_mode()
def recomputed(model: Decoder, observations: Tensor, actions: Tensor) -> Tensor:
    """Return each step's outputs from the window that ends there, (T, 4), right-padded at the episode's start."""
    last, within = torch.arange(len(actions))[:, None], torch.arange(model.context_length)
    steps = (last - model.context_length + 1).clamp(min=0) + within
    mask = steps <= last
    outputs = model(observations[steps * mask], actions[steps * mask], mask)
    return outputs[last[:, 0], mask.sum(dim=1) - 1]


def at_random(model: Decoder, n_ticks: int, n_slots: int = 4) -> list[list[Tensor]]:
    """Return observations, actions and cached outputs of episodes in slots that step and pause in random order.

    Slots restart at random, with an arbitrary past action at the start. The last slot starts after half of the ticks.
    """
    rng, cached = np.random.default_rng(0), CachedDecoder(model)
    active: dict[int, list[tuple[Tensor, ...]]] = {}
    ended = []
    for tick in range(n_ticks):
        known = n_slots if 2 * tick >= n_ticks else n_slots - 1
        fresh = [s for s in range(known) if s not in active or rng.random() < 1 / (2 * model.context_length + 8)]
        ended += [active.pop(slot) for slot in fresh if slot in active]
        active |= {slot: [] for slot in fresh}
        if fresh:
            cached.reset(np.array(fresh))
        going = [slot for slot in rng.permutation(known).tolist() if rng.random() < 0.8]
        if going:
            observations, actions = made_up(len(going), seed=tick)
            past = np.array([active[slot][-1][1] if active[slot] else rng.integers(4) for slot in going])
            outputs = torch.from_numpy(cached.step(np.array(going), observations.numpy(), past))
            for slot, *step in zip(going, observations, actions, outputs, strict=True):
                active[slot].append(tuple(step))
    return [[torch.stack(part) for part in zip(*steps, strict=True)] for steps in [*ended, *active.values()] if steps]


@pytest.mark.parametrize(("n_layer", "attention"), [*product((1, 2, 3, 4), ["banded"]), (1, "full")])
@each(tokens=TOKENS, positions=("rotary", "none"), context_length=LENGTHS)
def test_cached_outputs_equal_recomputed_ones_at_every_step(
    options: dict[str, Any], n_layer: int, attention: str
) -> None:
    model = decoder(**options, n_layer=n_layer, attention=attention)
    episodes = at_random(model, n_ticks=3 * model.context_length + 16)
    assert len(episodes) >= 4
    assert max(len(actions) for _, actions, _ in episodes) > model.context_length + 2
    for observations, actions, outputs in episodes:
        close(outputs, recomputed(model, observations, actions))


@pytest.mark.parametrize(("n_layer", "attention"), [(1, "banded"), (2, "banded"), (4, "banded"), (1, "full")])
@each(tokens=TOKENS, positions=("rotary", "none"), context_length=(1, 2, 5, 8))
def test_the_same_holds_with_returns(options: dict[str, Any], n_layer: int, attention: str) -> None:
    model = decoder(**options, n_layer=n_layer, attention=attention, return_conditioned=True)
    for observations, actions, outputs in at_random(model, n_ticks=3 * model.context_length + 16):
        close(outputs, recomputed(model, observations, actions))


@each(tokens=TOKENS, return_conditioned=(False, True))
def test_cached_outputs_equal_recomputed_ones_over_a_thousand_steps(options: dict[str, Any]) -> None:
    model, episode = decoder(**options), made_up(1_100)
    close(one_by_one(model, *episode), recomputed(model, *episode))


def test_distances_stay_exact_after_a_million_steps() -> None:
    model, episode = decoder(), made_up(20)
    late, at_first = one_by_one(model, *episode, steps_done=999_996), one_by_one(model, *episode)
    close(late[model.context_length - 1 :], at_first[model.context_length - 1 :])


@pytest.mark.parametrize(
    ("mean", "std"),
    [([1.0, 2.0, 3.0], [0.5, 1.0, 4.0]), ([0.0, 500.0, -300.0], [1.0, 0.1, 0.01])],
    ids=["as usual", "hardly varying"],
)
@each(tokens=TOKENS, return_conditioned=(False, True))
def test_the_cached_decoder_normalizes_without_losing_precision(
    options: dict[str, Any], mean: list[float], std: list[float]
) -> None:
    model, (observations, actions) = decoder(**options), made_up(20)
    model.set_normalization(torch.tensor(mean), torch.tensor(std))
    observations = observations * torch.tensor(std) + torch.tensor(mean)
    close(one_by_one(model, observations, actions), recomputed(model, observations, actions))


@each(tokens=TOKENS, attention=ATTENTIONS, positions=POSITIONS, context_length=(1, 2, 5), n_layer=(1, 2, 3))
def test_caching_suits_decoders_that_split_the_context_over_layers_without_learned_positions(
    options: dict[str, Any],
) -> None:
    shares = options["attention"] == "banded" or options["n_layer"] == 1 or options["context_length"] == 1
    assert CachedDecoder.suits(decoder(**options)) == (options["positions"] != "learned" and shares)


def test_caching_refuses_other_models() -> None:
    assert not CachedDecoder.suits(nn.Linear(3, 4))
    with pytest.raises(AssertionError, match="change as the window slides"):
        CachedDecoder(decoder(attention="full"))


@each(tokens=TOKENS, context_length=(1, 2, 5, 8, 16), n_layer=(1, 2, 3, 4), return_conditioned=(False, True))
def test_a_step_is_visible_for_exactly_the_context_length(options: dict[str, Any]) -> None:
    model, k, t = decoder(**options), options["context_length"], options["context_length"] + 1
    observations, actions = made_up(3 * k + 4)
    at_t = torch.arange(len(actions)) == t
    before = one_by_one(model, observations, actions)
    for first, changed in {
        t: (observations + 3.0 * at_t[:, None], actions),
        t + 1: (observations, (actions + at_t) % 4),  # an action is visible from the next step on
    }.items():
        rows = zip(before, one_by_one(model, *changed), strict=True)
        seen = range(first, t + k) if first == t or model.with_actions else ()
        assert [not torch.equal(*pair) for pair in rows] == [step in seen for step in range(len(actions))]


@each(context_length=LENGTHS, n_layer=(1, 2, 3, 4, 9))
def test_window_sizes_add_up_to_the_steps_before_the_present(options: dict[str, int]) -> None:
    window_sizes = decoder(**options).window_sizes
    assert len(window_sizes) == options["n_layer"]
    assert sum(window_sizes) == options["context_length"] - 1
    assert max(window_sizes) - min(window_sizes) <= 1
    assert window_sizes == sorted(window_sizes, reverse=True)


@pytest.mark.parametrize("context_length", LENGTHS)
def test_an_episode_acts_the_same_wherever_it_stands_in_a_batch(context_length: int) -> None:
    """Up to the rounding of matrix products, in which a row's last bit depends on its place on some CPUs."""
    n, model, rng = 17, decoder(context_length=context_length), np.random.default_rng(0)
    order, slots = rng.permutation(n), np.arange(n)
    straight, shuffled = CachedDecoder(model), CachedDecoder(model)
    for cached in (straight, shuffled):
        cached.reset(slots)
    for tick in range(12):
        observations, past = (part.numpy() for part in made_up(n, seed=tick))
        outputs = straight.step(slots, observations, past)
        elsewhere = shuffled.step(slots, observations[order], past[order])
        np.testing.assert_allclose(elsewhere, outputs[order], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("d_model", "n_head"), [(8, 2), (12, 3), (16, 1), (24, 2), (40, 2), (96, 3)])
def test_any_width_and_number_of_heads_is_computed(d_model: int, n_head: int) -> None:
    model, (observations, actions) = decoder(d_model=d_model, n_head=n_head), made_up(12)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=d_model**-0.5)
    close(one_by_one(model, observations, actions), recomputed(model, observations, actions))


def test_a_head_may_be_of_any_size() -> None:
    model, (observations, actions) = decoder(d_model=6, n_head=6, positions="none"), made_up(12)
    close(one_by_one(model, observations, actions), recomputed(model, observations, actions))


@pytest.mark.parametrize("d_model", [8, 16])
@pytest.mark.parametrize("bad", [np.nan, 3e38])
def test_a_value_that_is_not_finite_does_not_outlive_its_episode(bad: float, d_model: int) -> None:
    model, slots, rng = decoder(d_model=d_model, context_length=4), np.arange(2), np.random.default_rng(0)
    spoiled, fresh = CachedDecoder(model), CachedDecoder(model)
    observations, past = rng.standard_normal((8, 2, 3)).astype(np.float32), rng.integers(0, 4, (8, 2))
    spoiled.reset(slots)
    with np.errstate(all="ignore"):
        for t in range(8):
            outputs = spoiled.step(slots, np.where(t == 6, np.float32(bad), observations[t]), past[t])
    assert np.isnan(outputs).any()
    for cached in (spoiled, fresh):
        cached.reset(slots)
    for t in range(8):
        np.testing.assert_array_equal(
            spoiled.step(slots, observations[t], past[t]), fresh.step(slots, observations[t], past[t])
        )


def test_large_inputs_saturate() -> None:
    model, (observations, actions) = decoder(), made_up(12)
    outputs = one_by_one(model, 1e4 * observations, actions)
    torch.testing.assert_close(outputs, recomputed(model, 1e4 * observations, actions), atol=1e-4, rtol=1e-3)


@pytest.mark.skipif(native.decode is None, reason="ilt was installed without a C compiler")
def test_what_does_not_fit_is_refused_before_anything_is_computed() -> None:
    cached, slots = CachedDecoder(decoder()), np.arange(2)
    step = cached._native
    if step is None:
        return  # the one in NumPy
    cached.reset(slots)
    steps = np.zeros(2, dtype=np.int64)
    step.rows((2, 2, 8))[:] = 0
    assert step.step(slots, steps).shape == (2, 4)
    assert steps.tolist() == [1, 1]
    for wrong in (
        (np.array([0, 2]), steps),  # no such slot
        (np.array([0, -1]), steps),
        (np.arange(3), steps),
        (slots, steps - 2),
        (slots, steps[:1]),
        (slots.astype(np.int32), steps),
        (slots, np.zeros(4, dtype=np.int64)[::2]),
    ):
        with pytest.raises(ValueError, match=r"must|slots|contiguous"):
            step.step(*wrong)
