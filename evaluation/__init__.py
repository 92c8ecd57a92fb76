"""The paper's evaluation of a checkpoint: a module for each protocol, on the engine.

    classify     accuracy of all units, of the one unit, and of tf-idf
    curve        accuracy against the number of labels
    units        the weight of every unit; the best alone, all but the best
    histogram    the unit's final value by class
    heatmap      units after every character of chosen texts
    shifts       the size of the unit's changes against position
    lengths      text lengths of right and wrong answers
    pairs        paraphrase and relatedness
    growth       accuracy against bytes read, of a run's checkpoints
    generation   text written with the unit held, judged by tf-idf

    features     texts -> features, cached on disk      report       report.json, report.md, figures
    sets         labelled sets and how they are split   logistic     logistic regression, choice of C
    baseline     tf-idf                                 traces       units after every byte
    rows         rows on an engine                      summary      many reports in one table

No protocol chooses or fits anything on a test set.
"""
