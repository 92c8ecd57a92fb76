import numpy as np
import pytest

from evaluation.features import Reader
from evaluation.traces import read_traces
from tests.support.carrier import UNIT, labelled
from texts.preparation import prepare


def test_traces_end_where_features_are(reader: Reader) -> None:
    texts = [*labelled(5, 10).texts, "short", "", "næsten 🙂 - " * 9]
    traced = read_traces(reader, [prepare(text) for text in texts], [UNIT, 0])
    assert [len(trace) for trace in traced] == [len(prepare(text)) for text in texts]
    final = np.stack([trace[-1] for trace in traced])
    assert final == pytest.approx(reader.features(texts)[:, [UNIT, 0]], abs=1e-6)
