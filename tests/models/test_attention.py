"""The block against a plain reference, and what rotary positions promise."""

import pytest
import torch
from torch import Tensor

from ilt.models.attention import Block, rotary_angles, rotate


def block(seed: int = 0, **changes: float) -> Block:
    """Two heads of four, with weights of order one, so that attention is far from uniform."""
    torch.manual_seed(seed)
    made = Block(**{"d_model": 8, "n_head": 2, "dropout": 0.0, **changes})
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return made.eval()


def tokens(n_tokens: int = 6) -> Tensor:
    return torch.randn(3, n_tokens, 8, generator=torch.Generator().manual_seed(1))


def plain_attention(made: Block, x: Tensor, *, rotary: bool) -> Tensor:
    """Softmax attention of one head at a time and one query at a time, pairs of coordinates as complex numbers."""
    q, k, v = made.qkv(x).chunk(3, dim=-1)
    frequencies = torch.tensor([1.0, 0.01])  # 10 000 ** (−0 / 4) and 10 000 ** (−2 / 4)
    heads = []
    for head in (slice(0, 4), slice(4, 8)):
        outputs = []
        for i in range(x.shape[1]):
            scores = []
            for j in range(i + 1):
                query, key = q[:, i, head], k[:, j, head]
                if rotary:
                    query_pairs = torch.complex(query[:, :2], query[:, 2:])
                    key_pairs = torch.complex(key[:, :2], key[:, 2:])
                    turned = query_pairs * key_pairs.conj() * torch.exp(1j * frequencies * (i - j))
                    scores.append(turned.real.sum(dim=-1) / 2)
                else:
                    scores.append((query * key).sum(dim=-1) / 2)  # / √4
            weights = torch.stack(scores, dim=-1).exp()
            weights = weights / weights.sum(dim=-1, keepdim=True)
            outputs.append((weights[..., None] * v[:, : i + 1, head]).sum(dim=1))
        heads.append(torch.stack(outputs, dim=1))
    return torch.cat(heads, dim=-1)


@pytest.mark.parametrize("rotary", [True, False])
def test_a_block_equals_a_plain_reference(rotary: bool) -> None:
    made, x = block(), tokens()
    y = x + made.attention_out(plain_attention(made, made.norm_attention(x), rotary=rotary))
    hidden = made.mlp_in(made.norm_mlp(y))
    expected = y + made.mlp_out(hidden * (1 + torch.erf(hidden / 2**0.5)) / 2)  # GELU, written out
    torch.testing.assert_close(made(x, rotary_angles(6, 4) if rotary else None), expected, atol=1e-5, rtol=1e-5)


def test_angles_are_position_times_frequency() -> None:
    angles = rotary_angles(3, 4)
    torch.testing.assert_close(angles, torch.tensor([[0.0, 0.0], [1.0, 0.01], [2.0, 0.02]]))


def test_rotation_by_a_quarter_turn_by_hand() -> None:
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 1, 4)  # the pairs are (1, 3) and (2, 4)
    turned = rotate(x, torch.tensor([[torch.pi / 2, 0.0]]))
    torch.testing.assert_close(turned.flatten(), torch.tensor([-3.0, 2.0, 1.0, 4.0]))


def test_rotation_preserves_norms() -> None:
    x = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(rotate(x, rotary_angles(5, 4)).norm(dim=-1), x.norm(dim=-1))


def test_only_relative_distance_counts_to_rotary_attention() -> None:
    made, x, angles = block(), tokens(), rotary_angles(30, 4)
    torch.testing.assert_close(made(x, angles[20:26]), made(x, angles[:6]), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(made(x, 2 * angles[:6]), made(x, angles[:6]), atol=1e-3)  # other distances


def test_a_later_token_changes_no_earlier_one() -> None:
    made, x = block(), tokens()
    changed = x.clone()
    changed[:, 4:] = 9.0
    before, after = made(x, rotary_angles(6, 4)), made(changed, rotary_angles(6, 4))
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4:], after[:, 4:], atol=1e-2)


def test_dropout_acts_in_training_alone() -> None:
    made, x = block(dropout=0.5), tokens()
    assert torch.equal(made(x, None), made(x, None))
    made.train()
    assert not torch.allclose(made(x, None), made(x, None), atol=1e-2)


def test_attention_weights_drop_out_as_well() -> None:
    made, x = block(dropout=0.5), tokens()
    made.train()
    made.drop.eval()  # what joins the residual path is left alone
    assert not torch.allclose(made(x, None), made(x, None), atol=1e-2)
