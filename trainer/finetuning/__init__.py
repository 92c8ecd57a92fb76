"""All weights of a checkpoint trained on the labels of a task."""
