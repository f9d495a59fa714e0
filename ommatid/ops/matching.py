"""Pairing predictions with what they are to predict."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


@torch.no_grad()
def hungarian(cost: Tensor) -> tuple[Tensor, Tensor]:
    """The pairs of rows and columns of a matrix (n, m) whose costs add up to the least: min(n, m) of each, in order.

    From DETR (arXiv 2005.12872). A cost that is no number counts as a very high one.
    """
    finite = torch.nan_to_num(cost.float(), nan=1e6, posinf=1e6, neginf=-1e6).cpu().numpy()
    rows, columns = (torch.as_tensor(index, device=cost.device) for index in linear_sum_assignment(finite))
    return rows, columns
