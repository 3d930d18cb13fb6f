"""Querying: queries made from a corpus, where nobody has asked any."""

from retrodistill.querying.maker import QueryMaker
from retrodistill.querying.once import make_queries

__all__ = ["QueryMaker", "make_queries"]
