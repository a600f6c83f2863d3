"""How any Pyro program is read, row by row: what it draws, what it scores, what stands in the way."""
