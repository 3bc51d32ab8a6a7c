"""Rows of several lengths are padded to one, and come back as they were."""

import torch

from headwater.models.condition import joined
from headwater.models.families.lengths import padded, shortest, unpadded

ROWS = [torch.randn(n, 3) for n in (2, 5, 1)]


def test_rows_come_back_from_any_batch():
    condition = padded(ROWS, 7)
    words = condition.tensors["words"]
    assert words.shape == (3, 7, 3) and not words[0, 2:].any()
    for row, other in zip(ROWS, unpadded(condition), strict=True):
        assert torch.equal(row, other)
    again = joined([condition[[2]], condition[[1]]])
    assert torch.equal(unpadded(again)[0], ROWS[2]) and torch.equal(unpadded(again)[1], ROWS[1])


def test_a_batch_is_as_long_as_its_longest():
    condition = padded(ROWS, 7)
    words, mask = shortest(condition)
    assert words.shape == (3, 5, 3) and mask.sum(1).tolist() == [2, 5, 1]
    words, mask = shortest(condition[[1]])
    assert torch.equal(words[0], ROWS[1]) and mask is None


def test_words_keep_their_graph():
    leaf = torch.randn(2, 3, requires_grad=True)
    unpadded(padded([leaf], 4))[0].sum().backward()
    assert torch.equal(leaf.grad, torch.ones(2, 3))
