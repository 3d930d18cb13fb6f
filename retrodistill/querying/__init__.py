"""Querying: queries made from a corpus, where nobody has asked any."""

from retrodistill.querying.maker import QueryMaker
from retrodistill.querying.once import made_by, make_queries

__all__ = ["QueryMaker", "made_by", "make_queries"]
