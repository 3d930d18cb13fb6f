"""Distil rerankers into retrievers."""
