"""Encoders: what turns texts into vectors, of whichever kind."""

from retrodistill.encoders.common import (
    TOKENS_A_BATCH,
    Precision,
    Role,
    TrainPrecision,
    autocast,
    device_of,
    quiet_libraries,
    token_batches,
)
from retrodistill.encoders.dense import DenseEncoder
from retrodistill.encoders.encoder import Encoder
from retrodistill.encoders.loading import check_length, load_model, set_max_length, token_lengths
from retrodistill.encoders.multi import MultiEncoder
from retrodistill.encoders.sparse import SpladeEncoder

__all__ = [
    "TOKENS_A_BATCH",
    "DenseEncoder",
    "Encoder",
    "MultiEncoder",
    "Precision",
    "Role",
    "SpladeEncoder",
    "TrainPrecision",
    "autocast",
    "check_length",
    "device_of",
    "load_model",
    "quiet_libraries",
    "set_max_length",
    "token_batches",
    "token_lengths",
]
