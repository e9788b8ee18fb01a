"""L2: value stores, which determine how a layer represents the kept entries of its weight."""

from sparseq.quant.float import FLOAT, FloatStore
from sparseq.quant.store import STORES, ValueStore, store_from_json

__all__ = ["FLOAT", "STORES", "FloatStore", "ValueStore", "store_from_json"]
