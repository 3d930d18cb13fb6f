"""Collections: what is searched, what is asked, and what is relevant."""

from retrodistill.collections.collection import Collection, MadeQuery, open_folder
from retrodistill.collections.judgements import read_qrels
from retrodistill.collections.opening import open_collection
from retrodistill.collections.texts import Texts
from retrodistill.collections.writing import write_collection

__all__ = ["Collection", "MadeQuery", "Texts", "open_collection", "open_folder", "read_qrels", "write_collection"]
