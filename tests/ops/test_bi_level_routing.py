import pytest
import torch

from ommatid.ops.bi_level_routing import bi_level_routing_attention, bi_level_routing_attention_reference, route

VERSIONS = [bi_level_routing_attention, bi_level_routing_attention_reference]

# (regions, tokens of a region, topk): gathered, masked, and every region read.
SIZES = [(9, 4, 1), (16, 3, 2), (9, 4, 3), (4, 1, 3), (6, 5, 6), (1, 7, 1)]


def random_inputs(regions, tokens, dtype=torch.float64):
    generator = torch.Generator().manual_seed(regions * tokens)
    widths = (4, 4, 6)
    return [torch.randn(2, regions, tokens, 2, width, generator=generator, dtype=dtype) for width in widths]


@pytest.mark.parametrize("version", VERSIONS, ids=["fast", "reference"])
def test_every_token_reads_exactly_the_regions_of_its_choice(version):
    query, key, value = random_inputs(9, 4)
    answer = version(query, key, value, topk=2, scale=0.7)
    for image in range(2):
        affinity = query[image].mean(1).flatten(1) @ key[image].mean(1).flatten(1).T
        for region in range(9):
            chosen = affinity[region].argsort(descending=True)[:2]
            for head in range(2):
                keys, values = key[image, chosen, :, head].flatten(0, 1), value[image, chosen, :, head].flatten(0, 1)
                expected = (0.7 * query[image, region, :, head] @ keys.T).softmax(-1) @ values
                torch.testing.assert_close(answer[image, region].unflatten(-1, (2, 6))[:, head], expected)


@pytest.mark.parametrize(("regions", "tokens", "topk"), SIZES)
def test_fast_and_reference_agree_in_answer_and_gradients(regions, tokens, topk):
    inputs = [x.requires_grad_() for x in random_inputs(regions, tokens)]
    answers = [version(*inputs, topk=topk) for version in VERSIONS]
    probe = torch.randn(answers[0].shape, dtype=torch.float64)
    gradients = [torch.autograd.grad((answer * probe).sum(), inputs) for answer in answers]
    torch.testing.assert_close(*answers)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, {"rtol": 1e-5, "atol": 1e-5}), (torch.bfloat16, {"rtol": 3e-2, "atol": 3e-2})],
)
@pytest.mark.parametrize("topk", [2, 5])
def test_lower_precision_stays_close_to_double(dtype, tolerance, topk):
    inputs = random_inputs(16, 4, dtype=dtype)
    exact = bi_level_routing_attention_reference(*(x.double() for x in inputs), topk=topk)
    answer = bi_level_routing_attention(*inputs, topk=topk)
    assert answer.dtype == dtype
    torch.testing.assert_close(answer.double(), exact, **tolerance)


def test_the_choice_is_made_in_float32_under_autocast():
    query, key, _ = random_inputs(16, 4, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        chosen = route(query, key, 3)
    assert torch.equal(chosen, route(query, key, 3))


@pytest.mark.parametrize("topk", [0, 10])
def test_more_regions_than_there_are_is_refused(topk):
    with pytest.raises(ValueError, match="allowed is from 1 to the number of regions, 9"):
        bi_level_routing_attention(*random_inputs(9, 4), topk=topk)
