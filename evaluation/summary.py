"""Many reports as one page: a table beside the paper's numbers (Radford et al. 2017, sections 3 and 4), then each."""

from collections.abc import Mapping
from typing import Any

from evaluation.report import Table, percent

_PAPER = {"sst_all": 0.918, "imdb_all": 0.9288, "imdb_unit": 0.9230, "bits_per_byte": 1.12}
_SETS = {"sst": "SST, binary", "imdb": "IMDB"}
_POOLINGS = {"": "", "-mean": ", mean over the text"}

# In the order of the page.
SECTIONS = {
    "answers": "What the service answers: the head and the unit as they are served.",
    "sst": "Stanford Sentiment Treebank, final cell: the paper's protocol.",
    "sst-mean": "Stanford Sentiment Treebank, mean of the hidden vector over the text.",
    "imdb": "IMDB, final cell: the paper's protocol.",
    "imdb-mean": "IMDB, mean of the hidden vector over the text.",
    "growth": "While it learned: bits per byte, all units and the one unit against bytes read.",
    "curve": "Few labels, on SST (the paper's figure 2).",
    "showdown": "When is recurrence worth it? Where the model has read these texts before, its rows are ahead by that.",
    "showdown-reviews": "The same on reviews of games, apps, products, films and places. The model has read about a "
    "third of them with their labels, so its rows are ahead by that.",
    "tricks": "What makes a recurrent network learn.",
    "units": "Which units carry sentiment, on SST: the weight of each, the heaviest alone, and all but the heaviest.",
    "histogram": "The unit's final value by class, on the IMDB training reviews (the paper's figure 3).",
    "heatmap": "The unit after every character (the paper's figure 4).",
    "shifts": "How much the unit changes, by position in the text, on IMDB training reviews.",
    "lengths": "Lengths of the texts that are answered right and wrong, on SST.",
    "generation": "Text written with the unit held, as it is drawn and the best of several, judged by tf-idf.",
}

Reports = Mapping[str, Mapping[str, Any]]  # by the name of the folder they are in: the content of report.json


def page(reports: Reports, bodies: Mapping[str, str], beside: Reports | None = None) -> str:
    """Markdown. bodies: the tables, notes and figures of each report. beside: as in `summarize`."""
    parts = ["# Results", summarize(reports, beside).markdown()]
    if behind := _behind(reports):
        parts.append(
            f"Below a bag of words and word pairs (tf-idf, the same labels): {'; '.join(behind)}. "
            "`neuron checkpoint fetch openai` gets the paper's model."
        )
    for name, about in SECTIONS.items():
        if name in reports:
            parts += [f"## {name}", about, f"```bash\n{reports[name]['command']}\n```", bodies[name]]
    return "\n\n".join(parts) + "\n"


def _behind(reports: Reports) -> list[str]:
    """The classifiers on all units that a bag of words beats."""
    names = {f"{key}{suffix}": f"{_SETS[key]}{pooling}" for key in _SETS for suffix, pooling in _POOLINGS.items()}
    known = [(name, reports[key]) for key, name in names.items() if key in reports]
    return [name for name, report in known if report["accuracy_all"] < report["accuracy_tfidf"]]


def summarize(reports: Reports, beside: Reports | None = None) -> Table:
    """Rows of `answers`, `sst`, `sst-mean`, `imdb`, `imdb-mean` and `generation`, where they are there.

    beside: the same of another checkpoint, for a column of its own.
    """
    rows: list[list[object]] = [list(row) for row in _rows(reports)]
    compared = ""
    columns = ["", "this model", "tf-idf, same labels", "paper"]
    if beside:
        others = {name: value for name, value, *_ in _rows(beside)}
        for row in rows:
            row.insert(2, others.get(str(row[0]), "-"))
        columns.insert(2, "beside it")
        compared = f"; beside it {_checkpoint(beside)}"
    caption = (
        f"{_checkpoint(reports)}{compared}. Final cell, L1, C chosen without the test part, as in the paper, unless a "
        "row says otherwise."
    )
    return Table(caption, columns, rows)


def _checkpoint(reports: Reports) -> str:
    about = next(iter(reports.values()))
    return f"{about['checkpoint']}: {about['units']:,} units, {about['bytes_seen']:,} bytes read"


def _rows(reports: Reports) -> list[tuple[str, object, object, object]]:
    """What was measured: its name, of this model, of tf-idf, by the paper."""
    about = next(iter(reports.values()))
    rows: list[tuple[str, object, object, object]] = [
        ("held-out reviews, bits per byte", about["bits_per_byte"], "", _PAPER["bits_per_byte"])
    ]
    for one in reports["answers"]["sets"] if "answers" in reports else ():
        tfidf = percent(one["accuracy_tfidf"])
        rows += [
            (f"{one['name']}, the head that is served", percent(one["accuracy_head"]), tfidf, "-"),
            (f"{one['name']}, the unit as it is served", percent(one["accuracy_unit"]), tfidf, "-"),
            (f"{one['name']}, calibration error of the head", f"{one['calibration_error']:.3f}", "", "-"),
        ]
    for key, name in _SETS.items():
        cell, mean = reports.get(key), reports.get(f"{key}-mean")
        if cell is not None:
            tfidf = percent(cell["accuracy_tfidf"])
            of_unit, paper_unit = percent(cell["accuracy_unit"]), percent(_PAPER.get(f"{key}_unit"))
            rows += [
                (f"{name}, all units", percent(cell["accuracy_all"]), tfidf, percent(_PAPER[f"{key}_all"])),
                (f"{name}, the one unit, fitted threshold", of_unit, tfidf, paper_unit),
                (f"{name}, the one unit, no labels", percent(cell["accuracy_unit_no_labels"]), "", "-"),
            ]
        if mean is not None:
            tfidf = percent(mean["accuracy_tfidf"])
            rows.append((f"{name}, all units, mean over the text", percent(mean["accuracy_all"]), tfidf, "-"))
    written = reports.get("generation")
    if written is not None:
        rows.append(("written on the side asked for, at +1 and -1", percent(written["on_asked_side"]), "", "-"))
        if written["on_asked_side_ranked"] is not None:
            name = f"written on it, the best of {written['best_of']} by the head"
            rows.append((name, percent(written["on_asked_side_ranked"]), "", "-"))
    return rows
