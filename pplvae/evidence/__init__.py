"""log p(v) of every row: importance weights, annealing, bounds from both sides."""
