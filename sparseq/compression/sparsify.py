"""`compress`: conversion of a pruned dense model to sparse layers.

    Module + Mask -> Module with SparseLinear for nn.Linear, SparseQLinear for QLinear, and
                     sparse convolutions for dense ones

Sparse twins and their construction are declared next to the layer classes
(`sparseq.nn.layer_types`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sparseq.compression.candidates import CANDIDATES, SPARSE
from sparseq.compression.example import as_call
from sparseq.compression.kept_weights import kept_by_layer, pruned_but_dense
from sparseq.compression.measured import choose
from sparseq.compression.table_rule import choose_by_tables
from sparseq.errors import require, unknown_name, warn
from sparseq.formats import check_masks
from sparseq.nn.convert import replace_modules
from sparseq.nn.inference.chain import chain_sequentials
from sparseq.nn.layer_types import check_module
from sparseq.nn.parameter_names import described

POLICIES = ["auto", "measured", "sparse"]
LOGGER = logging.getLogger("sparseq")


def compress(
    model: nn.Module,
    mask: Mapping[str, Tensor] | None = None,
    policy: str = "auto",
    *,
    example: Any = None,
    batch: int | None = None,
    training: bool = False,
    in_shape: tuple[int, ...] | None = None,
    remember: bool = True,
) -> nn.Module:
    """A deep copy whose sparse layers store only the kept weights.

    With an `example`, each form of each layer is timed on this machine, on the inputs that it gets
    when the model runs on the example, with torch's current number of threads; then the whole
    network is timed, and layers stay dense until it is faster than the dense one by 2 %. Without an
    example, tables decide that were measured on other layers and perhaps on another CPU: give one
    wherever you can. The logger "sparseq" reports each layer, with its milliseconds or why it stays
    dense (INFO), and the attribute `compression` of the result holds and prints the same.

    Args:
        model: any module; it is not modified. Its linear and convolution layers are candidates;
            their subclasses are not, since their own code may compute something else. Weights
            that are computed (torch.nn.utils.prune, weight_norm, parametrizations) are those that
            forward would use. Hooks, users' attributes and shared weights are carried over; what
            cannot be, and pruned weights without a sparse layer, are named in a warning.
        mask: parameter name -> bool tensor of the parameter's shape, True = keep (a `Mask`).
            Dropped entries are 0 in the copy, whatever their value was (NaN included), also in
            layers that stay dense and in other parameters. Layers without a mask stay dense. By
            default each candidate keeps what torch.nn.utils.prune keeps of it, or else its weights
            other than 0.
        policy: "measured" is what an example implies; "sparse" converts every candidate, without
            measuring; "auto" is "measured" if there is an example, else the tables decide (see
            `sparseq.compression.table_rule`).
        example: typical inputs of the model, on its device: a tensor, a tuple of positional inputs,
            or a dict of keyword inputs, of any dtypes. Copies of the model run on copies of it.
        batch: typical number of examples per call, for the tables; 64 by default.
        training: whether to compare forward and backward passes, or forward passes only.
        in_shape: shape of one example, such as (3, 32, 32), for the tables: a copy of the model
            runs on one example of zeros for the sizes of the layers' inputs. By default the shape
            recorded by `sparseq.models`; without one, the worst of the measured maps counts for
            each convolution.
        remember: whether times measured before on this machine are used again, and new ones kept,
            in the cache folder beside the kernels.

    Returns:
        The copy. Consecutive sparse layers of an nn.Sequential run as one kernel at inference (see
        `sparseq.nn.SparseSequential`). `sparseq.to_dense` undoes it, `sparseq.profile` measures it.

    Raises:
        ValueError: an unknown policy, "measured" without an example, an example beside `batch` or
            `in_shape`, a batch below 1, a mask that does not fit the model's parameters, or an
            example or in_shape that the model does not accept.
    """
    if policy not in POLICIES:
        raise unknown_name("compress policy", policy, POLICIES)
    _check_basis(policy, example, batch, in_shape)
    check_module("compress", model)
    if mask is not None:
        check_masks("compress", "mask", mask, dict(model.named_parameters()))
    keeps = kept_by_layer(model, mask)
    left = pruned_but_dense(model, mask, keeps)
    if left:
        warn("compress", f"pruned, but dense for want of a sparse layer: {described(model, left)}")
    build = partial(_converted, model, mask or {}, keeps)
    if policy == "sparse":
        return build(dict.fromkeys(keeps, SPARSE))
    if example is None:
        choice = choose_by_tables(model, keeps, batch or 64, training, in_shape)
    else:
        call = as_call("compress", example)
        choice = choose(model, keeps, call, build, training=training, remember=remember)
    result: Any = build(choice.taken)
    result.compression = choice.as_built(model, result)
    for line in result.compression.lines():
        LOGGER.info("compress: %s", line)
    return result


def _check_basis(
    policy: str, example: Any, batch: int | None, in_shape: tuple[int, ...] | None
) -> None:
    """ValueError unless the arguments agree on what decides: an example, or the tables."""
    require(batch is None or batch >= 1, "compress", "batch", "must be at least 1", batch)
    measures = policy != "measured" or example is not None
    require(measures, "compress", "example", 'is required by policy "measured"', example)
    for name, value in (("batch", batch), ("in_shape", in_shape)):
        alone = example is None or value is None
        require(alone, "compress", name, "must be left out beside an example, which has it", value)


def _converted(
    model: nn.Module,
    mask: Mapping[str, Tensor],
    keeps: Mapping[str, Tensor],
    forms: Mapping[str, str],
) -> nn.Module:
    """A copy of the model with some layers in other forms, and dropped weights 0 in all others."""

    def in_form(path: str, module: nn.Module) -> nn.Module | None:
        return CANDIDATES.get(forms[path])(module, keeps[path]) if path in forms else None

    result = replace_modules(model, in_form, "compress")
    result.__dict__.pop("compression", None)  # of an earlier call, if the model is a result
    _zero_dropped(result, mask)
    chain_sequentials(result)
    return result


@torch.no_grad()
def _zero_dropped(model: nn.Module, mask: Mapping[str, Tensor]) -> None:
    """Zero the dropped entries of the parameters that were not converted."""
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name in mask:
            parameter.masked_fill_(~mask[name].to(parameter.device), 0)
