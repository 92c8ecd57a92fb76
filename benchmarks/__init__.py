"""What proves the numbers of this project: each module measures one thing and writes JSON to benchmarks/results/."""
