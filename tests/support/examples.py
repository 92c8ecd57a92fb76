"""How many examples Hypothesis tries: all that a test names, or the part of them that a profile asks for."""

from hypothesis import settings


def examples(count: int) -> int:
    """For `max_examples` of a test, which would otherwise hide that of the profile."""
    return max(1, count * settings().max_examples // settings.get_profile("default").max_examples)
