"""What one shared encoder costs, row by row, and what is to blame."""
