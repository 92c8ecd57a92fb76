"""The prefix cache is bounded and evicts the least recently used; texts have the same prefixes as far as they agree."""

from collections import OrderedDict

from hypothesis import given
from hypothesis import strategies as st

from engine.prefix_cache import PrefixCache, prefixes

ENTRY = 1024  # what the cache counts for an entry beside its state

operations = st.lists(
    st.tuples(st.sampled_from(["keep", "find"]), st.integers(0, 4), st.integers(0, 300)), min_size=20, max_size=60
)


@given(st.sampled_from([1, 1200, 3000, 3900]), operations)
def test_it_holds_what_was_used_last_and_never_more_than_its_bound(max_bytes: int, steps: list) -> None:  # type: ignore[type-arg]
    cache: PrefixCache[int] = PrefixCache(max_bytes)
    model: OrderedDict[int, tuple[int, int]] = OrderedDict()
    for number, (what, name, size) in enumerate(steps):
        digest = bytes([name])
        if what == "find":
            assert cache.find(digest) == model.get(name, (None, 0))[0]
            if name in model:
                model.move_to_end(name)
        elif size + ENTRY > max_bytes:
            assert cache.keep(digest, number, size) == 0
        else:
            model.pop(name, None)
            before = len(model)
            while sum(held for _, held in model.values()) + size + ENTRY > max_bytes:
                model.popitem(last=False)
            evicted = before - len(model)
            model[name] = number, size + ENTRY
            assert cache.keep(digest, number, size) == evicted
        assert cache.held_bytes == sum(held for _, held in model.values()) <= max_bytes
        assert len(cache) == len(model)


@given(st.binary(max_size=3000), st.binary(max_size=200), st.binary(max_size=200), st.booleans())
def test_texts_have_the_same_prefixes_as_far_as_they_agree(
    common: bytes, first: bytes, second: bytes, generates: bool
) -> None:
    one, other = common + first, common + second
    known = {prefix.digest: prefix.length for prefix in prefixes(one, {}, generates)}
    for prefix in prefixes(other, {}, generates):
        alike = prefix.length in known.values() and one[: prefix.length] == other[: prefix.length]
        assert (prefix.digest in known) == alike
        assert known.get(prefix.digest, prefix.length) == prefix.length


@given(st.integers(0, 300_000), st.booleans())
def test_prefixes_end_no_further_apart_than_an_eighth_of_what_was_read(size: int, generates: bool) -> None:
    lengths = [prefix.length for prefix in prefixes(bytes(size), {}, generates)]
    end = size - 1 if generates else size
    assert lengths == sorted(set(lengths))
    assert lengths[-1:] == ([end] if end > 0 else [])
    for before, after in zip([0, *lengths], lengths, strict=False):
        assert after - before <= max(64, after / 8)
    assert len(lengths) <= 97


def test_a_clamp_and_a_sum_make_another_prefix() -> None:
    text = b"a" * 100
    clamps: list[dict[int, float]] = [{}, {1: 0.5}, {1: 0.25}, {2: 0.5}, {1: 0.5, 2: 0.5}]
    digests = {prefix.digest for clamp in clamps for prefix in prefixes(text, clamp, generates=True)}
    assert len(digests) == 2 * len(clamps)
    with_sums = prefixes(text, {}, generates=False, sums=True)
    assert not {prefix.digest for prefix in with_sums} & {
        prefix.digest for prefix in prefixes(text, {}, generates=False)
    }
    assert prefixes(text, {1: 0.5, 2: 0.5}, generates=True) == prefixes(text, {2: 0.5, 1: 0.5}, generates=True)
