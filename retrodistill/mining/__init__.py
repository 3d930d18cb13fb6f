"""Mining: which documents stand against each query."""

from retrodistill.mining.account import Account
from retrodistill.mining.mine import mine

__all__ = ["Account", "mine"]
