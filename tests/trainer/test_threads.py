"""Training uses as many threads as have enough to do."""

import torch

from trainer.run.threads import set_threads


def test_small_products_get_one_thread_and_large_ones_all() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(8)
        assert set_threads("mlstm", 64, 6) == torch.get_num_threads() == 1
        torch.set_num_threads(8)
        assert 1 < set_threads("lstm", 256, 32) < 8
        torch.set_num_threads(8)
        assert set_threads("mlstm", 1024, 128) == 8
        assert set_threads("mlstm", 64, 6, wanted=3) == torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
