"""Rows on their way through a comparison, and the draws that score their guides."""
