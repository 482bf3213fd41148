"""The blocks of a ragged product: their features and their numbers of rows."""

import torch
from blocks import N
from torch import Tensor

from taildropout.mlp.ragged import k_per_row, rows_step, same_k


def test_a_block_has_the_rows_that_keep_some_of_it_and_less_than_a_step_of_others() -> None:
    steps = k_per_row(torch.tensor([7, 0, N, 6, 12]), N, 3)
    assert steps.edges == [0, 6, 12, N]
    assert steps.rows == [4, 4, 2]  # 4, 3 and 1, rounded up to even numbers
    assert steps.full == [3, 1, 0]
    assert isinstance(steps.k, Tensor)
    assert steps.order is not None
    assert steps.k.tolist() == [N, 12, 7, 6, 0]
    assert steps.order.tolist() == [2, 4, 0, 3, 1]
    fractional = k_per_row(torch.tensor([6.9, 7.0, 99.0]), N, 3)
    assert (fractional.rows, fractional.full) == ([3, 2, 1], [2, 1, 0])


def test_a_block_has_few_numbers_of_rows_in_many_draws() -> None:
    draws = torch.rand(200, 1000).mul(300).ceil()
    numbers = [{ragged.rows[at] for ragged in (k_per_row(k, 300, 4) for k in draws)} for at in range(4)]
    assert max(map(len, numbers)) <= 8
    assert {count % rows_step(1000) for count in set.union(*numbers) - {1000}} == {0}
    assert [rows_step(rows) for rows in (1, 3, 4, 32, 1000, 4096)] == [1, 1, 2, 4, 16, 64]


def test_a_wide_block_has_a_size_at_which_products_are_fast() -> None:
    for n, blocks in ((4096, 13), (4096, 3), (1000, 4), (1000, 11), (129, 2)):
        edges = k_per_row(torch.tensor([n]), n, blocks).edges
        assert all(edge % 16 == 0 for edge in edges[:-1])
        assert edges[-1] == n
        assert abs(len(edges) - 1 - blocks) <= 1
    for k, width in ((0, 0), (1, 16), (32, 32), (33, 41), (99, 41)):
        assert same_k(k, 41, 7) == ([0, width], [7], [0], min(k, 41), None)
    assert k_per_row(torch.tensor([45]), 45, 3).edges == [0, 15, 30, 45]
