"""From a run, or from the published parameters, to a checkpoint that is served."""
