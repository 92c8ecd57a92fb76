"""`python -m trainer`, which torchrun starts once for every device."""

from trainer.command import train

if __name__ == "__main__":
    train(prog_name="python -m trainer")
