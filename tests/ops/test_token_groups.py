import pytest
import torch

from ommatid.ops.attention import attend, attend_causally
from ommatid.ops.token_groups import shifted_sparse_attention, sink_fixed_attention, sink_fixed_mask


def random_heads(tokens):
    torch.manual_seed(tokens)
    return [torch.randn(2, tokens, 3, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("sinks", [0, 1, 3, 40])
@pytest.mark.parametrize("shifted_heads", [0, 1, 3])
@pytest.mark.parametrize(("tokens", "group"), [(17, 5), (12, 6), (3, 8), (9, 1)])
def test_groups_agree_with_the_mask(tokens, group, shifted_heads, sinks, causal):
    settings = {"group": group, "shifted_heads": shifted_heads, "sinks": sinks, "causal": causal}
    inputs = random_heads(tokens)
    ours = sink_fixed_attention(*inputs, **settings)
    expected = attend(*inputs, bias=sink_fixed_mask(tokens, 3, **settings))
    torch.testing.assert_close(ours, expected)
    probe = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad((ours * probe).sum(), inputs), torch.autograd.grad((expected * probe).sum(), inputs)
    )


def test_a_single_group_is_full_attention():
    inputs = random_heads(8)
    torch.testing.assert_close(sink_fixed_attention(*inputs, group=8), attend_causally(*inputs))


@pytest.mark.parametrize("group", [5, 8])
def test_shifted_groups_refuse_what_they_do_not_divide(group):
    with pytest.raises(ValueError, match="allowed is"):
        shifted_sparse_attention(*random_heads(15), group=group)
