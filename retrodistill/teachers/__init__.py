"""Teachers: what puts a number on a (query, document) pair."""
