"""What the decoder may and may not attend to, and its weights."""

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from ilt.envs.actions import ActionSpace
from ilt.models.attention import EVERY, causal_attention
from ilt.models.decoder import Decoder

K = 5
FOUR = ActionSpace(n_choices=(4,), start=(0,))
ATTENTIONS, POSITIONS, TOKENS = ("banded", "full"), ("rotary", "learned", "none"), ("states_actions", "states")


def each(**options: Any) -> pytest.MarkDecorator:
    """Run a test with every combination of these decoder options."""
    combinations = [dict(zip(options, values, strict=True)) for values in product(*options.values())]
    return pytest.mark.parametrize("options", combinations, ids=lambda o: "-".join(map(str, o.values())))


def decoder(seed: int = 0, *, as_started: bool = False, **changes: Any) -> Decoder:
    """Return a tiny decoder with context length 5; its weights are large unless `as_started`, so every effect shows."""
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


@each(attention=ATTENTIONS, tokens=TOKENS, positions=POSITIONS, return_conditioned=(False, True))
def test_a_future_observation_changes_no_earlier_output(options: dict[str, Any]) -> None:
    model, (observations, actions) = decoder(**options), window()
    before = model(observations, actions)
    for t in range(1, K):
        changed = observations.clone()
        changed[:, t] += 1.0
        after = model(changed, actions)
        close(after[:, :t], before[:, :t])
        assert differ(after[:, t], before[:, t])


@each(attention=ATTENTIONS, tokens=TOKENS, positions=POSITIONS)
def test_a_return_changes_the_output_of_its_own_step_and_no_earlier_one(options: dict[str, str]) -> None:
    model, (observations, actions) = decoder(**options, return_conditioned=True), window()
    before = model(observations, actions)
    for t in range(K):
        after = model(observations + torch.eye(K)[t][:, None] * torch.tensor([0.0, 0.0, 1.0]), actions)
        close(after[:, :t], before[:, :t])
        assert differ(after[:, t], before[:, t])


@pytest.mark.parametrize(("tokens", "order"), [("states_actions", "RsaRsaRs"), ("states", "RsRsRs")])
def test_a_return_comes_before_the_state_of_its_step(tokens: str, order: str) -> None:
    model, (observations, actions) = decoder(tokens=tokens, return_conditioned=True), window(1, 3)
    for name, module in {"R": model.embed_return, "s": model.embed_state, "a": model.embed_action}.items():
        for other in (model.embed_return, model.embed_state, model.embed_action):
            for parameter in [] if other is None else other.parameters():
                torch.nn.init.constant_(parameter, float(other is module))
        found = model.tokenize(observations, actions)[0].any(dim=1)
        assert found.tolist() == [token == name for token in order]
    assert model(observations, actions).shape == (1, 3, 4)


@each(attention=ATTENTIONS, positions=POSITIONS)
def test_an_action_changes_only_the_outputs_after_its_step(options: dict[str, str]) -> None:
    model, (observations, actions) = decoder(**options), window()
    before = model(observations, actions)
    for t in range(K):
        changed = actions.clone()
        changed[:, t] = (actions[:, t] + 1) % 4
        after = model(observations, changed)
        close(after[:, : t + 1], before[:, : t + 1])
        assert t == K - 1 or differ(after[:, t + 1], before[:, t + 1])


@pytest.mark.parametrize(
    ("tokens", "window_size", "rows"),
    [
        ("states_actions", 0, "1.... 11... ..1.. ..11. ....1"),  # the tokens are s_0, a_0, s_1, a_1, s_2
        ("states_actions", 1, "1.... 11... 111.. 1111. ..111"),
        ("states_actions", 2, "1.... 11... 111.. 1111. 11111"),
        ("states", 0, "1... .1.. ..1. ...1"),
        ("states", 1, "1... 11.. .11. ..11"),
        ("states", 3, "1... 11.. 111. 1111"),
    ],
)
def test_the_attention_mask_by_hand(tokens: str, window_size: int, rows: str) -> None:
    allowed = [[c == "1" for c in row] for row in rows.split()]
    index = torch.arange(len(allowed))
    assert decoder(tokens=tokens).may_attend(index[:, None], index, window_size).tolist() == allowed


def test_a_band_counts_steps_with_returns_too() -> None:
    rows = "1....... 11...... 111..... 1111.... 11111... 111111.. ...1111. ...11111"  # R_0 s_0 a_0 R_1 s_1 a_1 R_2 s_2
    allowed = [[c == "1" for c in row] for row in rows.split()]
    index = torch.arange(8)
    assert decoder(return_conditioned=True).may_attend(index[:, None], index, 1).tolist() == allowed


@each(tokens=TOKENS)
def test_banded_and_full_attention_differ_only_with_several_layers(options: dict[str, str]) -> None:
    banded, full = (decoder(n_layer=1, attention=attention, **options) for attention in ATTENTIONS)
    assert torch.equal(banded(*window()), full(*window()))
    banded, full = (decoder(n_layer=2, attention=attention, **options) for attention in ATTENTIONS)
    close(banded(*window(length=3)), full(*window(length=3)))  # each layer looks back two steps
    assert differ(banded(*window())[:, 3:], full(*window())[:, 3:])


@each(attention=ATTENTIONS, tokens=TOKENS, n_layer=(1, 2, 3))
def test_the_first_step_of_a_window_affects_the_last(options: dict[str, Any]) -> None:
    model, (observations, actions) = decoder(**options), window()
    before = model(observations, actions)
    observations[:, 0] += 3.0
    assert (model(observations, actions)[:, -1] != before[:, -1]).any()


@each(attention=ATTENTIONS, tokens=TOKENS)
def test_padding_of_any_content_changes_no_output(options: dict[str, str]) -> None:
    model, (observations, actions) = decoder(**options), window()
    mask = torch.arange(K) < torch.tensor([[5], [3], [1]])
    before = model(observations, actions)
    assert torch.equal(model(observations, actions, torch.ones(3, K, dtype=torch.bool)), before)
    for garbage in (float("nan"), float("inf"), 1e30):
        observations[~mask], actions[~mask] = garbage, -1
        assert torch.equal(model(observations, actions, mask)[mask], before[mask])
    observations[~mask], actions[~mask] = 1e6, 3
    close(model(observations, actions)[mask], before[mask])  # finite padding needs no mask


@each(tokens=TOKENS)
def test_batch_size_does_not_change_outputs(options: dict[str, str]) -> None:
    model, (observations, actions) = decoder(**options), window(67)
    together = model(observations, actions)
    for size in (1, 2, 31):
        parts = zip(observations.split(size), actions.split(size), strict=True)
        close(torch.cat([model(*part) for part in parts]), together)


@each(attention=ATTENTIONS, tokens=TOKENS, positions=POSITIONS)
def test_a_shorter_window_equals_the_start_of_a_longer_one(options: dict[str, str]) -> None:
    model, (observations, actions) = decoder(**options), window()
    whole = model(observations, actions)
    for length in range(1, K):
        close(model(observations[:, :length], actions[:, :length]), whole[:, :length])


def swapped_past() -> tuple[Tensor, Tensor]:
    """Return the window with its past reversed, each observation with its action."""
    order = torch.tensor([3, 2, 1, 0, 4])
    observations, actions = window()
    return observations[:, order], actions[:, order]


@each(tokens=TOKENS, positions=("rotary", "learned"), n_layer=(1, 2))
def test_rotary_and_learned_positions_see_the_order_of_the_past(options: dict[str, Any]) -> None:
    model = decoder(**options)
    assert differ(model(*window())[:, -1], model(*swapped_past())[:, -1])


def test_one_layer_without_positions_does_not_see_the_order_of_the_past() -> None:
    model = decoder(positions="none", n_layer=1)
    close(model(*window())[:, -1], model(*swapped_past())[:, -1])


def test_learned_positions_are_one_vector_per_step() -> None:
    model, (observations, actions) = decoder(positions="learned"), window()
    assert model.embed_position is not None
    before = model.tokenize(observations, actions)
    with torch.no_grad():
        model.embed_position.weight[2] += 1.0
    moved = model.tokenize(observations, actions) - before
    expected = torch.zeros(2 * K - 1)
    expected[4:6] = 1.0  # tokens s_2 and a_2
    torch.testing.assert_close(moved, expected[None, :, None].expand_as(moved))


def test_token_layouts_by_hand() -> None:
    model, (observations, actions) = decoder(positions="none"), window(1, 3)
    assert model.embed_action is not None
    states, past = model.embed_state(observations[0]), model.embed_action(actions[0])
    interleaved = torch.stack([states[0], past[0], states[1], past[1], states[2]])
    torch.testing.assert_close(model.tokenize(observations, actions)[0], interleaved)
    without = decoder(positions="none", tokens="states")
    torch.testing.assert_close(without.tokenize(observations, actions)[0], without.embed_state(observations[0]))


@each(positions=POSITIONS)
def test_full_action_dropout_hides_past_actions_only_in_training(options: dict[str, str]) -> None:
    model, (observations, actions) = decoder(action_dropout=1.0, **options), window()
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
    assert torch.equal(blank, (past == 0).any(dim=-1))  # whole tokens are blanked


@pytest.mark.parametrize("option", ["dropout", "action_dropout"])
def test_dropout_acts_only_in_training_and_if_enabled(option: str) -> None:
    model, without = decoder(**{option: 0.5}), decoder()
    assert torch.equal(model(*window()), without(*window()))
    assert torch.equal(without.train()(*window()), model(*window()))
    model.train()
    assert differ(model(*window()), model(*window()))


@each(tokens=TOKENS, positions=POSITIONS)
def test_every_parameter_gets_a_gradient_and_the_loss_falls(options: dict[str, str]) -> None:
    model, losses = decoder(as_started=True, **options).train(), []
    (observations, actions), optimizer = window(32), torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(3):
        loss = torch.nn.functional.cross_entropy(model(observations, actions).flatten(0, 1), actions.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert all(part.any() for part in parameter.grad.chunk(3 if "qkv.weight" in name else 1)), name
    assert losses[0] > losses[1] > losses[2]


def test_layers_heads_and_projections_start_with_different_weights() -> None:
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
    model = decoder(as_started=True, observation_dim=8, context_length=8, d_model=64, positions="learned")
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.float32, name
        if parameter.ndim == 2:
            joins_residual = name.endswith(("attention_out.weight", "mlp_out.weight"))
            expected = 8**-0.5 if name == "embed_state.weight" else 0.02 / 2 if joins_residual else 0.02
            assert parameter.std().item() == pytest.approx(expected, rel=0.15), name
        else:
            assert parameter.eq(0.0 if name.endswith("bias") else 1.0).all(), name


def test_initial_weights_depend_on_the_seed() -> None:
    assert torch.equal(decoder(1, as_started=True)(*window()), decoder(1, as_started=True)(*window()))
    one, other = decoder(1, as_started=True).action_head.weight, decoder(2, as_started=True).action_head.weight
    assert not torch.allclose(one, other)


def test_the_number_of_parameters_by_hand() -> None:
    model = decoder(observation_dim=8, context_length=8, d_model=32)
    embeddings, action_head = 8 * 32 + 32 + 4 * 32, 32 * 4 + 4
    block = (32 * 96 + 96) + (32 * 32 + 32) + (32 * 128 + 128) + (128 * 32 + 32) + 2 * 64
    assert sum(p.numel() for p in model.parameters()) == embeddings + 2 * block + 64 + action_head


def test_the_model_standardizes_observations() -> None:
    mean, std = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, 1.0, 4.0])
    model, (observations, actions) = decoder(), window()
    expected = model((observations - mean) / std, actions)
    model.set_normalization(mean, std)
    close(model(observations, actions), expected)


@each(positions=("learned", "none"))
def test_an_odd_head_size_works_without_rotary(options: dict[str, str]) -> None:
    assert decoder(d_model=6, n_head=2, **options)(*window()).shape == (3, K, 4)


@pytest.mark.parametrize("options", [{"attention": "full"}, {"positions": "learned"}], ids=str)
def test_a_window_longer_than_the_context_is_refused_unless_the_model_slides(options: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="at most 5 steps, got a window of 6"):
        decoder(**options)(*window(length=6))
    assert decoder()(*window(length=6)).shape == (3, 6, 4)


@each(tokens=TOKENS, attention=ATTENTIONS, context_length=(1, 2, 5), n_layer=(1, 2))
def test_a_gpu_attends_to_everything_only_within_windows_of_training(options: dict[str, Any]) -> None:
    model = decoder(**options).to("meta")
    n_tokens = model.attn_mask.shape[-1]
    for layer, (mask, read) in enumerate(zip(decoder(**options).attn_mask, model.reads, strict=True)):
        whole = read == EVERY and bool(mask.tril().equal(torch.ones_like(mask).tril()))
        assert (model._faster_attention(layer, n_tokens, read) is causal_attention) == whole
        assert model._faster_attention(layer, n_tokens + 1, read) is None  # as in validation


def gradients(model: Decoder, given: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Return the outputs and the gradients of the weights."""
    outputs = model(*given)
    return [outputs, *torch.autograd.grad(outputs.square().sum(), list(model.parameters()))]


@each(tokens=TOKENS, return_conditioned=(False, True), length=(300, 420))
def test_long_windows_are_compared_chunk_by_chunk_with_the_same_results(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    length = options.pop("length")  # also of validation windows, which are longer than those of training
    model, given = decoder(**options, context_length=300, n_layer=6), window(2, length)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    chunked = gradients(model, given)
    n_tokens = model.tokenize(*given).shape[1]
    assert None not in [model._faster_attention(layer, n_tokens, read) for layer, read in enumerate(model.reads)]
    monkeypatch.setattr("ilt.models.decoder.FROM", 10**9)
    for ours, expected in zip(chunked, gradients(model, given), strict=True):
        scale = max(1.0, expected.abs().max().item())
        torch.testing.assert_close(ours / scale, expected / scale, atol=1e-5, rtol=1e-5)


def test_chunks_are_computed_in_float32_on_a_cpu_in_mixed_precision() -> None:
    model, found = decoder(context_length=300, n_layer=6), []
    for block in model.blocks:
        block.attention_out.register_forward_pre_hook(lambda _, given: found.append(given[0].dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(*window(2, 300))
    assert found == [torch.float32] * 6
