"""Fitting a pair: preparation, steps, the loop."""
