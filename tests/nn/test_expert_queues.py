"""Expert by expert gives what token by token would."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from ommatid.nn.expert_queues import QueuedExperts


def test_answers_as_each_token_asking_its_experts_would() -> None:
    torch.manual_seed(0)
    layer, tokens = QueuedExperts(8, 6, experts=5, top_k=2), torch.randn(9, 8)
    for weight in layer.parameters():
        torch.nn.init.normal_(weight)
    features, queues, lengths = layer.with_queues(tokens)
    weights, chosen = (tokens @ layer.w_gate.T).softmax(-1).topk(2)
    for token in range(len(tokens)):
        answer = torch.zeros(8)
        for weight, expert in zip(weights[token], chosen[token], strict=True):
            hidden = F.gelu(layer.l1[expert] @ tokens[token] + layer.b1[expert])
            answer = answer + weight * (layer.l2[expert] @ hidden + layer.b2[expert])
        torch.testing.assert_close(features[token], answer)
    for expert, queue in enumerate(queues):
        waiting = (chosen == expert).any(1).nonzero().flatten()
        assert queue[: lengths[expert]].tolist() == waiting.tolist()
        assert (queue[lengths[expert] :] == -1).all()


def test_of_equal_experts_the_first_are_chosen() -> None:
    layer = QueuedExperts(4, 6, experts=3, top_k=2)
    torch.nn.init.zeros_(layer.w_gate)
    assert layer.with_queues(torch.randn(5, 4))[2].tolist() == [5, 5, 0]
