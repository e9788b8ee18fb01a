"""Training. It knows nothing about pruning: to prune during training, pass a callback."""

from sparseq.train.callbacks import (
    Callback,
    EarlyBest,
    LogRows,
    ShowProgress,
    Stateful,
    TrainState,
    Validate,
    copy_state,
)
from sparseq.train.checkpoint import (
    SaveCheckpoint,
    load_checkpoint,
    pack_training,
    resume_training,
    save_checkpoint,
    unpack_training,
)
from sparseq.train.divergence import WatchLoss
from sparseq.train.evaluation import LossFn, Metrics, evaluate
from sparseq.train.logs import RowLog
from sparseq.train.loop import fit
from sparseq.train.optimizers import OPTIMIZERS, make_optimizer, usual_rate
from sparseq.train.rates import RATES, ChangeRate, Progress

__all__ = [
    "fit",
    "evaluate",
    "Metrics",
    "LossFn",
    "TrainState",
    "Callback",
    "Stateful",
    "Validate",
    "EarlyBest",
    "LogRows",
    "WatchLoss",
    "ShowProgress",
    "RowLog",
    "OPTIMIZERS",
    "make_optimizer",
    "usual_rate",
    "RATES",
    "ChangeRate",
    "Progress",
    "copy_state",
    "SaveCheckpoint",
    "save_checkpoint",
    "load_checkpoint",
    "pack_training",
    "unpack_training",
    "resume_training",
]
