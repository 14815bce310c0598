"""Linear cross-entropy with the vocabulary split over real processes, in uneven ranges."""

import pytest

from tests.kernels.cross_entropy.ranks import check_ranks


@pytest.mark.parametrize(("ranks", "chunk"), [(2, 23), (3, 10)])
def test_losses_and_gradients_are_those_of_one_process(ranks: int, chunk: int) -> None:
    check_ranks(ranks, chunk, "reference")
