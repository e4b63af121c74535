"""What the decoder may look at, what it must not, and its weights."""

from typing import Any

import pytest
import torch
from torch import Tensor

from ilt.envs.actions import ActionSpace
from ilt.models.decoder import Decoder

K = 5
FOUR = ActionSpace(n_choices=(4,), start=(0,))
ATTENTIONS, POSITIONS, TOKENS = ("banded", "full"), ("rotary", "learned", "none"), ("states_actions", "states")


def decoder(seed: int = 0, *, as_started: bool = False, **changes: Any) -> Decoder:
    """A tiny decoder of context length 5; unless `as_started`, with weights so large that everything shows."""
    torch.manual_seed(seed)
    sizes = {"observation_dim": 3, "context_length": K, "n_layer": 2, "n_head": 2, "d_model": 8}
    model = Decoder(action_space=FOUR, n_outputs=4, **{**sizes, **changes})
    for parameter in [] if as_started else model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()


def window(n_batch: int = 3, length: int = K, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    observations = torch.randn(n_batch, length, 3, generator=generator)
    return observations, torch.randint(4, (n_batch, length), generator=generator)


def differ(a: Tensor, b: Tensor) -> bool:
    return not torch.allclose(a, b, atol=1e-3)


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


# --- causality ---


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("t", range(1, K))
def test_a_future_observation_changes_no_earlier_output(tokens: str, positions: str, attention: str, t: int) -> None:
    model, (observations, actions) = decoder(tokens=tokens, positions=positions, attention=attention), window()
    before = model(observations, actions)
    observations[:, t] += 1.0
    after = model(observations, actions)
    close(after[:, :t], before[:, :t])
    assert differ(after[:, t], before[:, t])


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("t", range(K))
def test_an_action_changes_no_output_up_to_its_own_step(positions: str, attention: str, t: int) -> None:
    model, (observations, actions) = decoder(positions=positions, attention=attention), window()
    before = model(observations, actions)
    actions[:, t] = (actions[:, t] + 1) % 4
    after = model(observations, actions)
    close(after[:, : t + 1], before[:, : t + 1])
    assert t == K - 1 or differ(after[:, t + 1], before[:, t + 1])  # but the next one: the model sees what it did


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_the_last_action_in_the_window_has_no_influence(attention: str) -> None:
    model, (observations, actions) = decoder(attention=attention), window()
    others = actions.clone()
    others[:, -1] = (actions[:, -1] + 2) % 4
    assert torch.equal(model(observations, actions), model(observations, others))


# --- who attends to whom ---


@pytest.mark.parametrize(
    ("window_size", "rows"),
    [
        (0, ["1....", "11...", "..1..", "..11.", "....1"]),
        (1, ["1....", "11...", "111..", "1111.", "..111"]),
        (2, ["1....", "11...", "111..", "1111.", "11111"]),
    ],
)
def test_states_and_actions_that_may_be_attended_to_by_hand(window_size: int, rows: list[str]) -> None:
    tokens = torch.arange(5)  # s_0, a_0, s_1, a_1, s_2
    assert decoder().may_attend(tokens[:, None], tokens, window_size).tolist() == [
        [c == "1" for c in row] for row in rows
    ]


@pytest.mark.parametrize(
    ("window_size", "rows"),
    [
        (0, ["1...", ".1..", "..1.", "...1"]),
        (1, ["1...", "11..", ".11.", "..11"]),
        (3, ["1...", "11..", "111.", "1111"]),
    ],
)
def test_states_that_may_be_attended_to_by_hand(window_size: int, rows: list[str]) -> None:
    model, tokens = decoder(tokens="states"), torch.arange(4)
    assert model.may_attend(tokens[:, None], tokens, window_size).tolist() == [[c == "1" for c in row] for row in rows]


@pytest.mark.parametrize("tokens", TOKENS)
def test_one_layer_of_banded_attention_is_full_attention(tokens: str) -> None:
    banded, full = (decoder(tokens=tokens, n_layer=1, attention=attention) for attention in ATTENTIONS)
    assert torch.equal(banded(*window()), full(*window()))


@pytest.mark.parametrize("tokens", TOKENS)
def test_several_layers_of_banded_attention_are_not(tokens: str) -> None:
    banded, full = (decoder(tokens=tokens, attention=attention) for attention in ATTENTIONS)
    close(banded(*window(length=3)), full(*window(length=3)))  # each layer looks back two steps
    assert differ(banded(*window())[:, 3:], full(*window())[:, 3:])


@pytest.mark.parametrize("n_layer", [1, 2, 3])
@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_the_first_step_of_a_window_is_seen_in_the_last(attention: str, tokens: str, n_layer: int) -> None:
    model, (observations, actions) = decoder(tokens=tokens, attention=attention, n_layer=n_layer), window()
    before = model(observations, actions)
    observations[:, 0] += 3.0
    assert (model(observations, actions)[:, -1] != before[:, -1]).any()


# --- padding, batches, shorter windows ---


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_garbage_in_padding_changes_no_output(tokens: str, attention: str, garbage: float) -> None:
    model, (observations, actions) = decoder(tokens=tokens, attention=attention), window()
    mask = torch.arange(K) < torch.tensor([[5], [3], [1]])
    before = model(observations, actions, mask)[mask]
    observations[~mask], actions[~mask] = garbage, -1
    assert torch.equal(model(observations, actions, mask)[mask], before)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_finite_garbage_in_padding_changes_nothing_even_without_a_mask(attention: str) -> None:
    model, (observations, actions) = decoder(attention=attention), window()
    mask = torch.arange(K) < torch.tensor([[5], [3], [1]])
    before = model(observations, actions, mask)[mask]
    observations[~mask], actions[~mask] = 1e6, 3
    close(model(observations, actions)[mask], before)


def test_a_mask_of_real_steps_alone_changes_nothing() -> None:
    model, (observations, actions) = decoder(), window()
    assert torch.equal(model(observations, actions, torch.ones(3, K, dtype=torch.bool)), model(observations, actions))


@pytest.mark.parametrize("tokens", TOKENS)
def test_batch_size_does_not_change_outputs(tokens: str) -> None:
    model, (observations, actions) = decoder(tokens=tokens), window(67)
    together = model(observations, actions)
    for size in (1, 2, 31):
        parts = zip(observations.split(size), actions.split(size), strict=True)
        close(torch.cat([model(*part) for part in parts]), together)


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("length", range(1, K))
def test_a_shorter_window_equals_the_first_places_of_a_longer_one(
    length: int, tokens: str, positions: str, attention: str
) -> None:
    model, (observations, actions) = decoder(tokens=tokens, positions=positions, attention=attention), window()
    short = model(observations[:, :length], actions[:, :length])
    assert short.shape == (3, length, 4)
    close(short, model(observations, actions)[:, :length])


# --- the order of the past ---


def swapped_past() -> tuple[Tensor, Tensor]:
    """The window with its past backwards, each observation together with its action."""
    order = torch.tensor([3, 2, 1, 0, 4])
    observations, actions = window()
    return observations[:, order], actions[:, order]


def test_permuting_the_past_changes_the_outputs_by_default() -> None:
    assert differ(decoder()(*window())[:, -1], decoder()(*swapped_past())[:, -1])


@pytest.mark.parametrize("n_layer", [1, 2])
@pytest.mark.parametrize("positions", ["rotary", "learned"])
@pytest.mark.parametrize("tokens", TOKENS)
def test_rotary_and_learned_positions_see_the_order_of_the_past(tokens: str, positions: str, n_layer: int) -> None:
    model = decoder(tokens=tokens, positions=positions, n_layer=n_layer)
    assert differ(model(*window())[:, -1], model(*swapped_past())[:, -1])


def test_one_layer_without_positions_does_not_see_the_order_of_the_past() -> None:
    model = decoder(positions="none", n_layer=1)
    close(model(*window())[:, -1], model(*swapped_past())[:, -1])


def test_learned_positions_give_one_vector_to_each_step() -> None:
    model, (observations, actions) = decoder(positions="learned"), window()
    assert model.embed_position is not None
    before = model.tokenize(observations, actions)
    with torch.no_grad():
        model.embed_position.weight[2] += 1.0
    moved = model.tokenize(observations, actions) - before
    expected = torch.zeros(2 * K - 1)
    expected[4:6] = 1.0  # tokens s_2 and a_2
    torch.testing.assert_close(moved, expected[None, :, None].expand_as(moved))


# --- layouts ---


def test_the_layouts_by_hand() -> None:
    model, (observations, actions) = decoder(positions="none"), window(1, 3)
    assert model.embed_action is not None
    states, past = model.embed_state(observations[0]), model.embed_action(actions[0])
    interleaved = torch.stack([states[0], past[0], states[1], past[1], states[2]])
    torch.testing.assert_close(model.tokenize(observations, actions)[0], interleaved)
    without = decoder(positions="none", tokens="states")
    torch.testing.assert_close(without.tokenize(observations, actions)[0], without.embed_state(observations[0]))


def test_the_layout_of_states_ignores_actions() -> None:
    model, (observations, actions) = decoder(tokens="states"), window()
    assert torch.equal(model(observations, actions), model(observations, (actions + 1) % 4))


def test_the_layout_of_states_and_actions_uses_them() -> None:
    model, (observations, actions) = decoder(), window()
    assert differ(model(observations, actions)[:, 1:], model(observations, (actions + 1) % 4)[:, 1:])


# --- dropout ---


@pytest.mark.parametrize("positions", POSITIONS)
def test_full_action_dropout_hides_past_actions_in_training_alone(positions: str) -> None:
    model, (observations, actions) = decoder(action_dropout=1.0, positions=positions), window()
    others = (actions + 1) % 4
    assert differ(model(observations, actions), model(observations, others))
    model.train()
    assert torch.equal(model(observations, actions), model(observations, others))


def test_half_action_dropout_blanks_about_half_of_past_actions() -> None:
    model = decoder(action_dropout=0.5, positions="none").train()
    torch.manual_seed(0)
    past = model.tokenize(*window(1000))[:, 1::2]
    blank = (past == 0).all(dim=-1)
    assert 0.45 < blank.float().mean() < 0.55
    assert torch.equal(blank, (past == 0).any(dim=-1))  # a token is blanked as a whole


@pytest.mark.parametrize("option", ["dropout", "action_dropout"])
def test_dropout_acts_in_training_alone(option: str) -> None:
    model = decoder(**{option: 0.5})
    assert torch.equal(model(*window()), model(*window()))
    model.train()
    assert differ(model(*window()), model(*window()))


def test_without_dropout_training_and_evaluation_agree() -> None:
    assert torch.equal(decoder().train()(*window()), decoder()(*window()))


# --- weights ---


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("tokens", TOKENS)
def test_every_parameter_gets_a_gradient(tokens: str, positions: str) -> None:
    model = decoder(tokens=tokens, positions=positions, as_started=True).train()
    model(*window(32)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name
    for block in model.blocks:
        for part in block.qkv.weight.grad.chunk(3):
            assert part.any()


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("tokens", TOKENS)
def test_every_option_learns(tokens: str, positions: str) -> None:
    model = decoder(tokens=tokens, positions=positions, as_started=True).train()
    (observations, actions), losses = window(8), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(3):
        loss = torch.nn.functional.cross_entropy(model(observations, actions).flatten(0, 1), actions.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > losses[1] > losses[2]


def test_layers_heads_and_projections_start_out_different() -> None:
    model = decoder(as_started=True)
    slices = [part for block in model.blocks for part in block.qkv.weight.split(4)]  # q, k, v of 2 heads of size 4
    slices += [part for block in model.blocks for part in block.attention_out.weight.split(4)]
    assert len(slices) == 2 * 6 + 2 * 2
    for i, one in enumerate(slices):
        for other in slices[:i]:
            assert not torch.allclose(one, other)
    first, second = (dict(block.named_parameters()) for block in model.blocks)
    for name in first:
        assert first[name].ndim < 2 or not torch.allclose(first[name], second[name]), name


def test_weights_start_as_documented() -> None:
    model = Decoder(
        observation_dim=8, action_space=FOUR, n_outputs=4, context_length=8, n_layer=2, n_head=2, d_model=64
    )
    deviations = {name: p.std().item() for name, p in model.named_parameters() if p.ndim == 2}
    for name, deviation in deviations.items():
        joins_residual = name.endswith(("attention_out.weight", "mlp_out.weight"))
        expected = 8**-0.5 if name == "embed_state.weight" else 0.02 / 2 if joins_residual else 0.02
        assert deviation == pytest.approx(expected, rel=0.15), name
    for name, parameter in model.named_parameters():
        assert parameter.ndim == 2 or parameter.eq(0.0 if name.endswith("bias") else 1.0).all(), name


def test_weights_are_float32_and_not_all_zero() -> None:
    for name, parameter in decoder(as_started=True, positions="learned").named_parameters():
        assert parameter.dtype == torch.float32, name
        if parameter.ndim == 2:  # biases start at zero, gains of norms at one
            assert parameter.any(), name
            assert parameter.frac().any(), name


def test_different_seeds_start_differently_and_equal_seeds_equally() -> None:
    assert torch.equal(decoder(1, as_started=True)(*window()), decoder(1, as_started=True)(*window()))
    one, other = decoder(1, as_started=True).action_head.weight, decoder(2, as_started=True).action_head.weight
    assert not torch.allclose(one, other)


def test_the_number_of_parameters_by_hand() -> None:
    model = Decoder(
        observation_dim=8, action_space=FOUR, n_outputs=4, context_length=8, n_layer=2, n_head=2, d_model=32
    )
    embeddings, action_head = 8 * 32 + 32 + 4 * 32, 32 * 4 + 4
    block = (32 * 96 + 96) + (32 * 32 + 32) + (32 * 128 + 128) + (128 * 32 + 32) + 2 * 64
    assert sum(p.numel() for p in model.parameters()) == embeddings + 2 * block + 64 + action_head


# --- normalization, refusals ---


def test_observations_are_standardized_inside() -> None:
    mean, std = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, 1.0, 4.0])
    model, (observations, actions) = decoder(), window()
    expected = model((observations - mean) / std, actions)
    model.set_normalization(mean, std)
    close(model(observations, actions), expected)


def test_normalization_is_part_of_the_state() -> None:
    model = decoder()
    model.set_normalization(torch.full((3,), 2.0), torch.full((3,), 3.0))
    other = decoder(1)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(*window()), model(*window()))


@pytest.mark.parametrize("positions", ["learned", "none"])
def test_an_odd_head_size_is_fine_without_rotary(positions: str) -> None:
    assert decoder(d_model=6, n_head=2, positions=positions)(*window()).shape == (3, K, 4)


def test_a_window_longer_than_the_context_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 5 steps, got a window of 6"):
        decoder()(*window(length=6))
