"""A decoder that keeps its keys and values gives the outputs of one that recomputes its window."""

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ilt.models.cache import CachedDecoder
from ilt.models.decoder import Decoder, split_context
from tests.models.test_decoder import ATTENTIONS, FOUR, POSITIONS, TOKENS, close

LENGTHS = (1, 2, 3, 5, 8, 16)
RELATIVE = ("rotary", "none")


def decoder(**changes: Any) -> Decoder:
    """Eight wide, with weights so large that everything shows."""
    torch.manual_seed(0)
    sizes = {"observation_dim": 3, "context_length": 5, "n_layer": 2, "n_head": 2, "d_model": 8}
    model = Decoder(action_space=FOUR, n_outputs=4, **{**sizes, **changes})
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()


class Acting:
    """A cached decoder that is given tensors, and gives tensors."""

    def __init__(self, model: Decoder) -> None:
        self.cached = CachedDecoder(model)

    def reset(self, slots: Tensor) -> None:
        self.cached.reset(slots.numpy())

    def step(self, slots: Tensor, observations: Tensor, past: Tensor) -> Tensor:
        return torch.from_numpy(self.cached.step(slots.numpy(), observations.numpy(), past.numpy()))


class Episode(NamedTuple):
    """What was seen, what was done, and the outputs of a cached acting: (T, 3), (T,), (T, 4)."""

    observations: Tensor
    actions: Tensor
    outputs: Tensor


def made_up(n_steps: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n_steps, 3, generator=generator), torch.randint(4, (n_steps,), generator=generator)


@torch.inference_mode()
def one_by_one(model: Decoder, observations: Tensor, actions: Tensor, cached: Acting | None = None) -> Tensor:
    """(T, 4): the outputs of one whole episode, acting alone."""
    cached, slot = cached or Acting(model), torch.zeros(1, dtype=torch.int64)
    cached.reset(slot)
    past = torch.cat([actions[:1], actions[:-1]])
    return torch.cat([cached.step(slot, observations[t, None], past[t, None]) for t in range(len(actions))])


@torch.inference_mode()
def recomputed(model: Decoder, observations: Tensor, actions: Tensor) -> Tensor:
    """(T, 4): every step's outputs from the window that ends with it, padded on the right at the episode's start."""
    last, within = torch.arange(len(actions))[:, None], torch.arange(model.context_length)
    steps = (last - model.context_length + 1).clamp(min=0) + within
    mask = steps <= last
    outputs = model(observations[steps * mask], actions[steps * mask], mask)
    return outputs[last[:, 0], mask.sum(dim=1) - 1]


@torch.inference_mode()
def at_random(model: Decoder, n_ticks: int, n_slots: int = 4) -> list[Episode]:
    """Slots that begin late, rest while others go on, and end one episode for the next; the past at its start is any.

    The last slot begins when half of the ticks are over.
    """
    rng, cached = np.random.default_rng(0), Acting(model)
    active: dict[int, list[tuple[Tensor, Tensor, Tensor]]] = {}
    ended = []
    for tick in range(n_ticks):
        known = n_slots if 2 * tick >= n_ticks else n_slots - 1
        fresh = [
            slot for slot in range(known) if slot not in active or rng.random() < 1 / (2 * model.context_length + 8)
        ]
        ended += [active.pop(slot) for slot in fresh if slot in active]
        for slot in fresh:
            active[slot] = []
        if fresh:
            cached.reset(torch.tensor(fresh))
        going = [slot for slot in range(known) if rng.random() < 0.8]
        if not going:
            continue
        observations, actions = made_up(len(going), seed=tick)
        any_past = torch.from_numpy(rng.integers(4, size=len(going)))
        past = [active[slot][-1][1] if active[slot] else any_past[i] for i, slot in enumerate(going)]
        outputs = cached.step(torch.tensor(going), observations, torch.stack(past))
        for slot, *step in zip(going, observations, actions, outputs, strict=True):
            active[slot].append(tuple(step))
    return [Episode(*map(torch.stack, zip(*steps, strict=True))) for steps in [*ended, *active.values()] if steps]


# --- cached = recomputed ---


@pytest.mark.parametrize("n_layer", [1, 2, 3, 4])
@pytest.mark.parametrize("context_length", LENGTHS)
@pytest.mark.parametrize("positions", RELATIVE)
@pytest.mark.parametrize("tokens", TOKENS)
def test_cached_is_recomputed_at_every_step(tokens: str, positions: str, context_length: int, n_layer: int) -> None:
    model = decoder(tokens=tokens, positions=positions, context_length=context_length, n_layer=n_layer)
    episodes = at_random(model, n_ticks=3 * context_length + 16)
    assert len(episodes) >= 4
    assert max(len(episode.actions) for episode in episodes) > context_length + 2
    for episode in episodes:
        close(episode.outputs, recomputed(model, episode.observations, episode.actions))


@pytest.mark.parametrize("context_length", LENGTHS)
@pytest.mark.parametrize("positions", RELATIVE)
@pytest.mark.parametrize("tokens", TOKENS)
def test_cached_is_recomputed_in_one_layer_of_full_attention(tokens: str, positions: str, context_length: int) -> None:
    changes: dict[str, Any] = {"attention": "full", "n_layer": 1, "context_length": context_length}
    model = decoder(tokens=tokens, positions=positions, **changes)
    for episode in at_random(model, n_ticks=3 * context_length + 16):
        close(episode.outputs, recomputed(model, episode.observations, episode.actions))


@pytest.mark.parametrize("tokens", TOKENS)
def test_cached_is_recomputed_over_more_than_a_thousand_steps(tokens: str) -> None:
    model, episode = decoder(tokens=tokens), made_up(1_100)
    close(one_by_one(model, *episode), recomputed(model, *episode))


def test_distances_stay_exact_after_a_million_steps() -> None:
    model, episode, acting = decoder(), made_up(20), Acting(decoder())
    at_first = one_by_one(model, *episode, acting)
    reset = acting.reset

    def reset_late(slots: Tensor) -> None:
        reset(slots)
        acting.cached._steps[slots] = 999_996  # what went before is garbage, and out of sight after a window

    acting.reset = reset_late  # type: ignore[method-assign]
    late = one_by_one(model, *episode, acting)
    close(late[model.context_length - 1 :], at_first[model.context_length - 1 :])


@pytest.mark.parametrize("tokens", TOKENS)
def test_normalization_is_part_of_it(tokens: str) -> None:
    model, episode = decoder(tokens=tokens), made_up(20)
    model.set_normalization(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, 1.0, 4.0]))
    close(one_by_one(model, *episode), recomputed(model, *episode))


def test_a_coordinate_that_hardly_varies_loses_no_digits() -> None:
    model, (observations, actions) = decoder(), made_up(20)
    mean, std = torch.tensor([0.0, 500.0, -300.0]), torch.tensor([1.0, 0.1, 0.01])
    model.set_normalization(mean, std)
    observations = observations * std + mean
    close(one_by_one(model, observations, actions), recomputed(model, observations, actions))


@pytest.mark.parametrize("tokens", TOKENS)
def test_what_acts_beside_an_episode_does_not_matter_to_it(tokens: str) -> None:
    model = decoder(tokens=tokens)
    for observations, actions, outputs in at_random(model, n_ticks=40):
        close(one_by_one(model, observations, actions), outputs)


# --- where an episode begins ---


@pytest.mark.parametrize("positions", RELATIVE)
@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("n_before", [1, 4, 13])
def test_nothing_of_an_ended_episode_is_left(tokens: str, positions: str, n_before: int) -> None:
    model, episode = decoder(tokens=tokens, positions=positions), made_up(12)
    cached = Acting(model)
    one_by_one(model, *made_up(n_before, seed=2), cached)
    assert torch.equal(one_by_one(model, *episode, cached), one_by_one(model, *episode))


@pytest.mark.parametrize("n_layer", [1, 3])
@pytest.mark.parametrize("context_length", [1, 2, 5])
@pytest.mark.parametrize("tokens", TOKENS)
def test_garbage_for_a_past_action_at_the_start_has_no_influence(
    tokens: str, context_length: int, n_layer: int
) -> None:
    model, (observations, actions) = decoder(tokens=tokens, context_length=context_length, n_layer=n_layer), made_up(12)
    runs = []
    for garbage in range(4):
        cached, slot, past = Acting(model), torch.zeros(1, dtype=torch.int64), torch.tensor([garbage])
        cached.reset(slot)
        with torch.inference_mode():
            outputs = []
            for observation, action in zip(observations, actions, strict=True):
                outputs.append(cached.step(slot, observation[None], past))
                past = action[None]
        runs.append(torch.cat(outputs))
    for acting in runs[1:]:
        assert torch.equal(acting, runs[0])


def test_slots_that_begin_later_leave_the_others_what_they_remember() -> None:
    model, (observations, actions) = decoder(), made_up(12)
    cached, slot, late = Acting(model), torch.tensor([0]), torch.tensor([7])
    expected, outputs = one_by_one(model, observations, actions), []
    with torch.inference_mode():
        for t in range(12):
            if t in (0, 3):
                cached.reset(slot if t == 0 else late)
            outputs.append(cached.step(slot, observations[t, None], actions[t - 1, None]))
    close(torch.cat(outputs), expected)


# --- which models it suits ---


@pytest.mark.parametrize("n_layer", [1, 2, 3])
@pytest.mark.parametrize("context_length", [1, 2, 5])
@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("tokens", TOKENS)
def test_which_decoders_does_it_suit(
    tokens: str, attention: str, positions: str, context_length: int, n_layer: int
) -> None:
    model = decoder(
        tokens=tokens, attention=attention, positions=positions, context_length=context_length, n_layer=n_layer
    )
    shares = attention == "banded" or n_layer == 1 or context_length == 1
    assert CachedDecoder.suits(model) == (positions != "learned" and shares)


def test_it_suits_no_other_models() -> None:
    assert not CachedDecoder.suits(nn.Linear(3, 4))


UNSUITED = [{"attention": "full"}, {"positions": "learned"}, {"positions": "learned", "n_layer": 1}]


@pytest.mark.parametrize("changes", UNSUITED, ids=str)
def test_what_it_does_not_suit_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(AssertionError, match="change while its window slides"):
        CachedDecoder(decoder(**changes))


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("changes", UNSUITED, ids=str)
def test_what_it_does_not_suit_would_act_wrongly(
    monkeypatch: pytest.MonkeyPatch, tokens: str, changes: dict[str, Any]
) -> None:
    model, episode = decoder(tokens=tokens, **changes), made_up(12)
    monkeypatch.setattr(CachedDecoder, "suits", staticmethod(lambda model: True))
    assert not torch.allclose(one_by_one(model, *episode)[5:], recomputed(model, *episode)[5:], atol=1e-2)


# --- how far it looks back ---


@pytest.mark.parametrize("n_layer", [1, 2, 3, 4])
@pytest.mark.parametrize("context_length", [1, 2, 5, 16])
@pytest.mark.parametrize("tokens", TOKENS)
def test_an_observation_is_seen_for_exactly_as_many_steps_as_the_context_is_long(
    tokens: str, context_length: int, n_layer: int
) -> None:
    model = decoder(tokens=tokens, context_length=context_length, n_layer=n_layer)
    observations, actions = made_up(3 * context_length + 4)
    changed, t = observations.clone(), context_length + 1
    changed[t] += 3.0
    before, after = one_by_one(model, observations, actions), one_by_one(model, changed, actions)
    seen = [not torch.equal(*rows) for rows in zip(before, after, strict=True)]
    assert seen == [t <= step < t + context_length for step in range(len(actions))]


@pytest.mark.parametrize("n_layer", [1, 2, 3])
@pytest.mark.parametrize("context_length", [1, 2, 5, 8])
def test_an_action_is_seen_from_the_next_step_on_and_no_longer_than_its_observation(
    context_length: int, n_layer: int
) -> None:
    model = decoder(context_length=context_length, n_layer=n_layer)
    observations, actions = made_up(3 * context_length + 4)
    changed, t = actions.clone(), context_length + 1
    changed[t] = (changed[t] + 1) % 4
    before, after = one_by_one(model, observations, actions), one_by_one(model, observations, changed)
    seen = [not torch.equal(*rows) for rows in zip(before, after, strict=True)]
    assert seen == [t < step < t + context_length for step in range(len(actions))]


@pytest.mark.parametrize("n_layer", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("context_length", LENGTHS)
def test_layers_together_look_back_on_all_steps_but_the_present_one(context_length: int, n_layer: int) -> None:
    window_sizes = decoder(context_length=context_length, n_layer=n_layer).window_sizes
    assert len(window_sizes) == n_layer
    assert sum(window_sizes) == context_length - 1
    assert max(window_sizes) - min(window_sizes) <= 1


@pytest.mark.parametrize(
    ("context_length", "n_layer", "window_sizes"),
    [
        (1, 1, [0]),
        (1, 3, [0, 0, 0]),
        (2, 3, [1, 0, 0]),
        (5, 1, [4]),
        (5, 2, [2, 2]),
        (8, 2, [4, 3]),
        (8, 3, [3, 2, 2]),
        (16, 4, [4, 4, 4, 3]),
    ],
)
def test_shares_of_the_context_by_hand(context_length: int, n_layer: int, window_sizes: list[int]) -> None:
    assert split_context(context_length, n_layer) == window_sizes


def test_slots_may_come_in_any_order() -> None:
    model = decoder()
    observations, past = torch.randn(4, 6, 3), torch.zeros(4, dtype=torch.int64)
    ordered, shuffled = Acting(model), Acting(model)
    order = torch.tensor([2, 0, 3, 1])
    for cached in (ordered, shuffled):
        cached.reset(torch.arange(4))
    for t in range(6):
        expected = ordered.step(torch.arange(4), observations[:, t], past)
        torch.testing.assert_close(shuffled.step(order, observations[order, t], past), expected[order])
