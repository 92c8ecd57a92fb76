"""Whatever a corpus says of itself: its shards verify, or it is a CorpusError."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.hostile import damaged, distorted
from tests.support.runs import write_corpus
from trainer.corpus.corpus import MANIFEST, Corpus, CorpusError

FUZZ = settings(deadline=None, max_examples=250, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "built", shards=4)


@given(data=st.data(), way=st.sampled_from(["manifest", "record", "shard"]))
@FUZZ
def test_a_damaged_corpus_verifies_or_is_refused(corpus: Path, data: st.DataObject, way: str) -> None:
    path = corpus / ("shard-00002.bin" if way == "shard" else MANIFEST)
    whole = path.read_bytes()
    path.write_bytes(data.draw(distorted(json.loads(whole)) if way == "record" else damaged(whole)))
    try:
        found = Corpus(corpus)
        found.verify()
    except CorpusError:
        return
    else:
        assert way != "shard" or path.read_bytes() == whole
        for entry in found.manifest.shards:
            assert len(found.read(entry)) == entry.bytes == (corpus / entry.file).stat().st_size
    finally:
        path.write_bytes(whole)
