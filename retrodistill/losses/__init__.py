"""Losses over score matrices, for every student alike."""
