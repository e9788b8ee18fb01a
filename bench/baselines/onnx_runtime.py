"""ONNX Runtime, where it is installed: whole networks in inference."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from bench.baselines.forms import Call

NEEDED = ("onnxruntime", "onnx", "onnxscript")  # the latter two are the exporter's


@lru_cache(8)
def onnx_file(model: nn.Module, shape: tuple[int, ...]) -> bytes:
    """The network for inputs of that shape, as ONNX Runtime reads it."""
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own, about what it is built on
        torch.onnx.export(model, (torch.zeros(shape),), dynamo=True, verbose=False).save(stream)
    return stream.getvalue()


def onnx_runtime(model: nn.Module, x: Tensor, remark: Callable[[str], None]) -> dict[str, Call]:
    """A side of the race on as many threads as torch has; none, and a word, where it is missing.

    Args:
        model: one of the architecture; the weights do not change the time of a dense network.
        x: the batch.
        remark: says something at the end of the run.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        remark(f"no comparison with ONNX Runtime: {', '.join(missing)} not installed")
        return {}
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # its idle threads would spin through the turns of the others
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(
        onnx_file(model, tuple(x.shape)), options, providers=["CPUExecutionProvider"]
    )
    feed = {session.get_inputs()[0].name: x.numpy()}
    return {"ONNX Runtime": lambda: session.run(None, feed)}
