"""Retrievers: an encoder and an index that answer queries together."""
