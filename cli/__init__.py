"""The command `neuron`: thin, it only calls the packages beside it."""
