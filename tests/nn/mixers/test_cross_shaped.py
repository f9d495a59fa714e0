import torch

from ommatid.nn.mixers import CrossShapedAttention


def depends_on(mixer: CrossShapedAttention, size: tuple[int, int], token: tuple[int, int]) -> torch.Tensor:
    """(H, W) booleans: which tokens the output at `token` reads."""
    x = torch.randn(1, *size, 8, requires_grad=True)
    mixer(x)[0, token[0], token[1]].square().sum().backward()
    assert x.grad is not None
    return x.grad[0].abs().sum(-1) > 0


def test_a_token_sees_the_cross_of_its_two_stripes() -> None:
    seen = depends_on(CrossShapedAttention(8, 2, 2), (6, 8), (3, 5))
    expected = torch.zeros(6, 8, dtype=torch.bool)
    expected[:, 4:6] = True
    expected[2:4] = True
    assert torch.equal(seen, expected)


def test_stripes_are_centred_where_they_do_not_divide_the_map() -> None:
    seen = depends_on(CrossShapedAttention(8, 2, 4), (6, 8), (0, 0))
    expected = torch.zeros(6, 8, dtype=torch.bool)
    expected[:, :4] = True
    expected[:3] = True
    assert torch.equal(seen, expected)


def test_without_stripes_a_token_sees_everything() -> None:
    assert depends_on(CrossShapedAttention(8, 2, None), (3, 5), (1, 1)).all()
