"""Mining: which documents stand against each query."""

from retrodistill.mining.mine import Account, mine

__all__ = ["Account", "mine"]
