"""Drafts of programs: from rows to a Pyro program that suits them, for its user to edit."""
