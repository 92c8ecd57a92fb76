"""The numbers of many reports in one table, beside those of the paper (Radford et al. 2017, sections 3 and 4)."""

from collections.abc import Mapping
from typing import Any

from trainer.evaluation.report import Table, percent

_PAPER = {"sst_all": 0.918, "imdb_all": 0.9288, "imdb_unit": 0.9230, "bits_per_byte": 1.12}
_SETS = {"sst": "SST, binary", "imdb": "IMDB"}

Reports = Mapping[str, Mapping[str, Any]]  # by the name of the folder they are in: what report.json holds


def summarize(reports: Reports) -> Table:
    """reports: `sst`, `sst-mean`, `imdb`, `imdb-mean` and `generation`; a row that needs one that is not there is left
    out."""
    about = next(iter(reports.values()))
    rows: list[list[object]] = [
        ["held-out reviews, bits per byte", about["bits_per_byte"], "", _PAPER["bits_per_byte"]]
    ]
    for key, name in _SETS.items():
        cell, mean = reports.get(key), reports.get(f"{key}-mean")
        if cell is not None:
            tfidf = percent(cell["accuracy_tfidf"])
            rows += [
                [f"{name}, all units", percent(cell["accuracy_all"]), tfidf, percent(_PAPER[f"{key}_all"])],
                [
                    f"{name}, the one unit, fitted threshold",
                    percent(cell["accuracy_unit"]),
                    tfidf,
                    percent(_PAPER.get(f"{key}_unit")),
                ],
                [f"{name}, the one unit, no labels", percent(cell["accuracy_unit_no_labels"]), "", "-"],
            ]
        if mean is not None:
            tfidf = percent(mean["accuracy_tfidf"])
            rows.append([f"{name}, all units, mean over the text", percent(mean["accuracy_all"]), tfidf, "-"])
    written = reports.get("generation")
    if written is not None:
        rows.append(["written on the side asked for, at +1 and -1", percent(written["on_asked_side"]), "", "-"])
    caption = (
        f"{about['checkpoint']}: {about['units']:,} units, {about['bytes_seen']:,} bytes read. "
        "Final cell, L1, C chosen without the test part, as in the paper, unless a row says otherwise."
    )
    return Table(caption, ["", "this model", "tf-idf, same labels", "paper"], rows)
