"""Indexes: how the nearest documents are found."""
