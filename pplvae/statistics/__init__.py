"""Datasets in, datasets out: means over rows, groups, pairs, ranks. No programs."""
