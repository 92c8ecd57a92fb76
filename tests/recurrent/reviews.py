"""Labelled texts that are easily told apart."""

_THINGS = ("film", "book", "kettle", "hotel", "song", "lamp")
_WORDS = {
    "good": ("lovely", "great", "warm", "splendid", "a delight"),
    "bad": ("dreadful", "boring", "broken", "a waste", "awful"),
}

TEXTS, LABELS = (
    list(column)
    for column in zip(
        *(
            (f"This {thing} is {word}, as item {number} shows.", label)
            for label, words in _WORDS.items()
            for word in words
            for number, thing in enumerate(_THINGS)
        ),
        strict=True,
    )
)
