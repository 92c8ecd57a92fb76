"""`python -m trainer`, which torchrun starts once for every device."""

from engine.openmp import spin_briefly

spin_briefly()

from trainer.command import train  # noqa: E402 - loads torch

if __name__ == "__main__":
    train(prog_name="python -m trainer")
