"""Ours and its peers on the same work, in one process, interleaved: `python -m benchmarks`."""
