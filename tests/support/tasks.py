"""Labelled texts of a task, for fine-tunings."""

from texts.labelled import Labelled

WORDS = {"0": ["dull", "slow", "bad"], "1": ["fine", "fast", "good"], "2": ["red", "blue", "green"]}


def labelled(count: int, labels: str = "01", begin: int = 0) -> Labelled:
    rows = [
        (f"{'so ' * (number % 5)}{WORDS[label][number % 3]}{'!' * (number % 7)}", label)
        for number in range(begin, begin + count)
        for label in [labels[number % len(labels)]]
    ]
    return Labelled([text for text, _ in rows], [label for _, label in rows])
