"""What a run starts with where its options leave it open."""

import torch

from trainer.run.initial import suitable_lanes

GPU, CPU = torch.device("cuda"), torch.device("cpu")


def test_lanes_suit_the_device_the_model_and_the_corpus() -> None:
    assert suitable_lanes(4096, 1000, CPU) == suitable_lanes(1024, 10, CPU) == 128
    assert suitable_lanes(1024, 1000, GPU) == suitable_lanes(2048, 512, GPU) == 512
    assert suitable_lanes(4096, 1000, GPU) == 256
    assert suitable_lanes(8192, 1000, GPU) == 128
    # A lane needs a shard of its own.
    assert suitable_lanes(2048, 511, GPU) == 256
    assert suitable_lanes(2048, 3, GPU) == 128
