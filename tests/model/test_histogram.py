"""The histogram of the sentiment unit counts what lies in its bins."""

import numpy as np

from model.heads.histogram import BINS, bin_edges, histogram


def test_every_text_is_counted_in_the_bin_of_its_value() -> None:
    values = np.array([-10.0, -10.0, 0.0, 0.3, 39.9, 40.0], np.float32)  # bins of width 1
    found = histogram(values, np.array([0, 1, 0, 0, 1, 1]), "six texts")
    assert np.diff(found.edges).tolist() == [1.0] * BINS
    assert (found.edges[0], found.edges[-1], found.data) == (-10.0, 40.0, "six texts")
    assert {place: count for place, count in enumerate(found.counts["negative"]) if count} == {0: 1, 10: 2}
    assert {place: count for place, count in enumerate(found.counts["positive"]) if count} == {0: 1, 49: 2}


def test_edges_rise_where_values_hardly_differ() -> None:
    for values in (np.ones(3), np.array([1, np.nextafter(np.float32(1), np.float32(2))], np.float32)):
        edges = bin_edges(values)
        assert (np.diff(edges) > 0).all()
        assert edges[0] <= values.min() <= values.max() <= edges[-1]
