"""The recurrent network: cells, the language model, its training objective, forward and backward over windows."""
