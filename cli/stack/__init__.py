"""The processes of `neuron up` as children: started, watched and stopped in order."""
