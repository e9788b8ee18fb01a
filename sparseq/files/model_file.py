"""Compressed model files: `save` and `load`.

A model file is a container (`sparseq.files.container`) of kind "model". Its tensors are those of
the state_dict, each stored once, patterns as gaps and tensors with many zeros without the zeros
(`sparseq.files.tensors`). The entries of its manifest:

    modules   path -> spec, see `sparseq.files.modules`
    patterns  path of a sparse layer -> its number of rows
    zeros     name of a tensor stored without its zeros -> {"shape": ..., "negative": number of -0.0
              stored by position, if any} (format version 2)
    aliases   name of a tensor -> name under which the same tensor is stored
    frozen    names of the parameters that do not require gradients
    training  mode of the root module
    builder   the attribute `recipe` of the model, {"name": ..., "kwargs": {...}}, if it has one

Nothing is pickled, and a file can only name registered classes: `LAYER_TYPES`, `STORES` and
`MODEL_BUILDERS`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sparseq.errors import argument_error, require
from sparseq.files.container import read_container, write_atomically, write_container
from sparseq.files.modules import (
    Spec,
    build_module,
    build_tree,
    custom_modules,
    is_layer,
    module_spec,
    module_specs,
    tuples,
)
from sparseq.files.schema import checked_manifest
from sparseq.files.tensors import (
    decode_patterns,
    decode_zeros,
    encode_patterns,
    encode_zeros,
    pattern_names,
)
from sparseq.nn.convert import device_of, replace_modules
from sparseq.registry import Registry

__all__ = ["MODEL_BUILDERS", "load", "recorded_builder", "save", "write_atomically"]

MODEL_BUILDERS: Registry[Callable[..., nn.Module]] = Registry("model")


def save(model: nn.Module, path: str | os.PathLike[str], overwrite: bool = False) -> None:
    """Write a model as one small file from which `load` restores the same model.

    Args:
        model: any module; its state_dict must consist of dense tensors, none on the meta device.
            It is not modified.
        path: the file to write; it is written completely or not at all.
        overwrite: replace an existing file.

    Raises:
        FileExistsError: the file exists and `overwrite` is False.
        ValueError: an entry of the state_dict that is not a dense tensor, or is a meta tensor.
    """
    state = model.state_dict(keep_vars=True)
    _check_state(state)
    aliases = _aliases(state)
    stored = {name: tensor.detach() for name, tensor in state.items() if name not in aliases}
    patterns = encode_patterns(model, stored)
    streams = {name for path in patterns for name in pattern_names(path)}
    manifest = {
        "modules": module_specs(model),
        "patterns": patterns,
        "zeros": encode_zeros(stored, sorted(stored.keys() - streams)),
        "aliases": aliases,
        "frozen": [name for name, value in model.named_parameters() if not value.requires_grad],
        "training": model.training,
        "builder": _builder(model),
    }
    manifest = {name: entry for name, entry in manifest.items() if entry != {}}
    version = 2 if "zeros" in manifest else 1
    write_container(path, stored, manifest, "model", overwrite, version)


def load(path: str | os.PathLike[str], model: nn.Module | None = None) -> nn.Module:
    """The model of a file: same tensors, dtypes and mode, so bit-identical outputs.

    Args:
        path: a file written by `save`.
        model: needed only if the file contains modules of unregistered classes: the model as built
            by its own code. It is copied, not modified; in the copy its layers are replaced by
            those of the file (sparse ones where the file's are sparse), on its device. The names of
            its modules must be those of the file.

    Returns:
        The model, on the CPU or on the device of `model`. The global random state is unchanged.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: not a sparseq model file, truncated, modified or of a newer format; a model that
            only its own code can build; a `model` that does not fit the file.
    """
    stored, manifest = _read(path)
    try:
        decode_patterns(manifest["patterns"], stored)
        decode_zeros(manifest["zeros"], stored)
    except (ValueError, RuntimeError, TypeError) as error:
        rule = "must contain patterns and zeros that can be decoded"
        raise argument_error("load", f"file {str(path)!r}", rule, error) from None
    state = {**stored, **{name: stored[source] for name, source in manifest["aliases"].items()}}
    with torch.random.fork_rng(devices=[]):
        skeleton = _skeleton(manifest) if model is None else model
        result = _with_layers_of(manifest["modules"], skeleton)
    _share(result, manifest["aliases"])
    _fill(result, state)
    _restore_flags(result, manifest)
    return result


def recorded_builder(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The builder recorded in a model file, {"name": ..., "kwargs": {...}}; {} if there is none.

    Raises:
        FileNotFoundError, ValueError: as for `load`.
    """
    builder: dict[str, Any] = _read(path)[1]["builder"]
    return builder


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors as stored, and the checked manifest."""
    stored, manifest = read_container(path, "model")
    return stored, checked_manifest(manifest, stored, path)


def _builder(model: nn.Module) -> dict[str, Any]:
    """The attribute `recipe` of the model if it names a builder and its arguments, else {}."""
    builder: Any = getattr(model, "recipe", None)
    if not isinstance(builder, dict) or builder.keys() != {"name", "kwargs"}:
        return {}
    return builder


def _check_state(state: Mapping[str, Any]) -> None:
    for name, value in state.items():
        is_tensor = isinstance(value, Tensor) and value.layout == torch.strided
        argument, got = f"state {name!r}", getattr(value, "layout", type(value).__name__)
        require(is_tensor, "save", argument, "must be a dense tensor", got)
        require(not value.is_meta, "save", argument, "must contain data", "a meta tensor")


def _aliases(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Name -> earlier name, for tensors that occur under more than one name."""
    first_names: dict[int, str] = {}
    sources = {name: first_names.setdefault(id(tensor), name) for name, tensor in state.items()}
    return {name: source for name, source in sources.items() if name != source}


def _skeleton(manifest: Mapping[str, Any]) -> nn.Module:
    """A model made of the file's modules, before its state is loaded."""
    builder, custom = manifest["builder"], custom_modules(manifest["modules"])
    if not custom:
        return build_tree(manifest["modules"])
    if builder and builder["name"] in MODEL_BUILDERS.names():
        return MODEL_BUILDERS.get(builder["name"])(**tuples(builder["kwargs"]))
    raise argument_error(
        "load",
        "model",
        "must be given for modules that only their own code can build: load(path, model=...)",
        ", ".join(custom),
    )


def _with_layers_of(specs: Mapping[str, Spec], skeleton: nn.Module) -> nn.Module:
    """A copy of the skeleton in which every registered layer is the one of the file."""
    actual, expected = _sharing(module_specs(skeleton)), _sharing(specs)
    differing = sorted({repr(path) for path, _ in actual.items() ^ expected.items()})
    rule = "must have the modules of the file, shared in the same way"
    require(not differing, "load", "model", rule, f"a difference at {', '.join(differing)}")

    def layer_of_file(path: str, module: nn.Module) -> nn.Module | None:
        spec = {key: value for key, value in specs[path].items() if key != "training"}
        if not is_layer(spec) or tuples(module_spec(module)) == tuples(spec):
            return None
        return build_module(path, spec).to(device_of(module))

    # the file decides which tensors are shared, see `_share`
    return replace_modules(skeleton, layer_of_file, "load", keep_ties=False)


def _sharing(specs: Mapping[str, Spec]) -> dict[str, str]:
    """Path of each module -> the first path of the same module."""
    return {path: spec.get("same_as", path) for path, spec in specs.items()}


def _share(model: nn.Module, aliases: Mapping[str, str]) -> None:
    """Share parameters between modules as in the saved model."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, source in aliases.items():
        if name in parameters and source in parameters:
            path, _, attribute = name.rpartition(".")
            model.get_submodule(path).register_parameter(attribute, parameters[source])
    extra = sorted(_aliases(model.state_dict(keep_vars=True)).keys() - aliases.keys())
    require(not extra, "load", "model", "must share only the tensors that the file shares", extra)


def _fill(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load the state strictly, in the dtypes of the file."""
    tensors = model.state_dict(keep_vars=True)
    for name in tensors.keys() & state.keys():
        tensors[name].data = tensors[name].data.to(state[name].dtype)
    assign = any(tensor.is_meta for tensor in tensors.values())
    try:
        model.load_state_dict(state, strict=True, assign=assign)
    except RuntimeError as error:
        raise argument_error("load", "model", "must fit the file", error) from None


def _restore_flags(model: nn.Module, manifest: Mapping[str, Any]) -> None:
    """Restore the modes of the modules, the gradient flags and the recorded builder."""
    model.train(manifest["training"])
    for path, spec in manifest["modules"].items():
        if "training" in spec:
            model.get_submodule(path).training = spec["training"]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in manifest["frozen"])
    if manifest["builder"]:
        model.recipe = manifest["builder"]
