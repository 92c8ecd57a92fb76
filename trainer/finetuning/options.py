"""The options of a fine-tuning: `FinetuningOptions`."""

from dataclasses import dataclass, field

from model.checkpoints.untrusted import is_finite
from trainer.run.options import StoredOptions, TrainingError

MAX_LABELS = 100


@dataclass(frozen=True)
class FinetuningOptions(StoredOptions):
    """All that determines a fine-tuning. labels: in the order of the head. data_sha256: of the texts and labels.

    checkpoint_sha256: of the manifest of the checkpoint that it starts from, filled in when it begins; when it
    continues, a volume may serve another one.
    """

    of = "fine-tuning"

    start_from: str
    labels: list[str]
    data_sha256: str
    rows: int = 64  # texts of an update
    window: int = 256  # bytes that gradients reach back
    epochs: int = 6  # at most; the learning rate falls to zero over them
    patience: int = 2  # epochs that are no better on the validation texts before it stops
    learning_rate: float = 3e-4
    language_weight: float = 0.3  # of the bits per byte beside the label bits
    unit_weight: float = 0.5  # of the label bits of the sentiment unit alone, if labels are sentiment
    seed: int = 0
    checkpoint_sha256: str = ""
    # How it is computed, which may change from one start to the next.
    dtype: str = field(default="auto", compare=False)
    fuse: bool = field(default=True, compare=False)
    device: str = field(default="auto", compare=False)

    def __post_init__(self) -> None:
        if not 2 <= len(self.labels) <= MAX_LABELS:
            raise TrainingError(f"there are {len(self.labels)} different labels, not 2 to {MAX_LABELS}")
        for name in ("rows", "window", "epochs", "patience"):
            if getattr(self, name) < 1:
                raise TrainingError(f"--{name} is {getattr(self, name)}, it must be at least 1")
        for name, least in (("learning_rate", "more than 0"), ("language_weight", ""), ("unit_weight", "")):
            value = getattr(self, name)
            if not is_finite(value) or value < 0 or (least and value == 0):
                raise TrainingError(f"--{name.replace('_', '-')} is {value}, it must be {least or 'at least 0'}")
