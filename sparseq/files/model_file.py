"""Compressed model files: `save` and `load`.

A model file is a container (`sparseq.files.container`) of kind "model". Its tensors are those of
the state_dict, each stored once, patterns as gaps and tensors with many zeros without these
(`sparseq.files.tensors`). Its description is the recipe:

    modules   path -> node, see `sparseq.files.modules`
    patterns  path of a sparse layer -> its number of rows
    zeros     name of a tensor stored without its zeros -> {"shape": ..., "negative": number of -0.0
              stored by position, if any} (format version 2)
    aliases   name of a tensor -> name of the same tensor, stored under that name
    frozen    parameters that take no gradient
    training  mode of the root module
    builder   the model's own `recipe`, {"name": ..., "kwargs": {...}}, if it has one

Nothing is pickled, and a file can only name what is registered: `LAYER_TYPES`, `STORES` and
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
    Node,
    build_module,
    build_tree,
    custom_modules,
    describe_module,
    describe_modules,
    is_layer,
    tuples,
)
from sparseq.files.schema import checked_description
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
    """Write a model as one small file that `load` turns into the same model.

    Args:
        model: any module; its state_dict must consist of tensors that hold data. It is not changed.
        path: the file to write; written whole or not at all.
        overwrite: replace an existing file.

    Raises:
        FileExistsError: the file exists and `overwrite` is False.
        ValueError: a state that is no tensor or holds no data.
    """
    state = model.state_dict(keep_vars=True)
    _check_state(state)
    aliases = _aliases(state)
    stored = {name: tensor.detach() for name, tensor in state.items() if name not in aliases}
    patterns = encode_patterns(model, stored)
    streams = {name for path in patterns for name in pattern_names(path)}
    recipe = {
        "modules": describe_modules(model),
        "patterns": patterns,
        "zeros": encode_zeros(stored, sorted(stored.keys() - streams)),
        "aliases": aliases,
        "frozen": [name for name, value in model.named_parameters() if not value.requires_grad],
        "training": model.training,
        "builder": _builder(model),
    }
    recipe = {key: value for key, value in recipe.items() if value != {}}
    version = 2 if "zeros" in recipe else 1
    write_container(path, stored, recipe, "model", overwrite, version)


def load(path: str | os.PathLike[str], model: nn.Module | None = None) -> nn.Module:
    """The model of a file: same tensors, dtypes and mode, so the same outputs bit for bit.

    Args:
        path: a file that `save` wrote.
        model: needed only where the file holds modules of classes that are not registered: the
            model as its own code builds it. It is copied, not changed; its layers become those of
            the file (sparse where the file's are) on its device, and must have the same names.

    Returns:
        The model, on the CPU or on the device of `model`. No global random state is touched.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a foreign, cut or changed file, one of a newer format, a model that only its
            own code can build, or one that does not fit the file.
    """
    stored, recipe = _read(path)
    try:
        decode_patterns(recipe["patterns"], stored)
        decode_zeros(recipe["zeros"], stored)
    except (ValueError, RuntimeError) as error:
        rule = "must hold patterns and zeros that can be decoded"
        raise argument_error("load", f"file {str(path)!r}", rule, error) from None
    state = {**stored, **{name: stored[source] for name, source in recipe["aliases"].items()}}
    with torch.random.fork_rng(devices=[]):
        skeleton = _skeleton(recipe) if model is None else model
        result = _with_layers_of(recipe["modules"], skeleton)
    _share(result, recipe["aliases"])
    _fill(result, state)
    _restore_flags(result, recipe)
    return result


def recorded_builder(path: str | os.PathLike[str]) -> dict[str, Any]:
    """How the model of a file says it was built, {"name": ..., "kwargs": {...}}; {} if it does not.

    Raises:
        FileNotFoundError, ValueError: as for `load`.
    """
    return _read(path)[1]["builder"]


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors as stored, and the recipe, checked."""
    stored, description = read_container(path, "model")
    return stored, checked_description(description, stored, path)


def _builder(model: nn.Module) -> dict[str, Any]:
    """How the model says it was built; {} if it does not, or means something else by `recipe`."""
    recipe: Any = getattr(model, "recipe", None)
    if not isinstance(recipe, dict) or recipe.keys() != {"name", "kwargs"}:
        return {}
    return recipe


def _check_state(state: Mapping[str, Any]) -> None:
    for name, value in state.items():
        is_tensor = isinstance(value, Tensor) and value.layout == torch.strided
        argument, got = f"state {name!r}", getattr(value, "layout", type(value).__name__)
        require(is_tensor, "save", argument, "must be a dense tensor", got)
        require(not value.is_meta, "save", argument, "must hold data", "a meta tensor")


def _aliases(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Names of tensors that stand under an earlier name already."""
    first: dict[int, str] = {}
    names = {name: first.setdefault(id(tensor), name) for name, tensor in state.items()}
    return {name: source for name, source in names.items() if name != source}


def _skeleton(recipe: Mapping[str, Any]) -> nn.Module:
    """A model of the file's modules, its state yet to come."""
    builder, custom = recipe["builder"], custom_modules(recipe["modules"])
    if not custom:
        return build_tree(recipe["modules"])
    if builder and builder["name"] in MODEL_BUILDERS.names():
        return MODEL_BUILDERS.get(builder["name"])(**tuples(builder["kwargs"]))
    raise argument_error(
        "load",
        "model",
        "must be given for modules that only their own code can build: load(path, model=...)",
        ", ".join(custom),
    )


def _with_layers_of(nodes: Mapping[str, Node], skeleton: nn.Module) -> nn.Module:
    """A copy of the skeleton in which every known layer is the one of the file."""
    have, want = _sharing(describe_modules(skeleton)), _sharing(nodes)
    differing = sorted(have.items() ^ want.items())
    require(
        not differing,
        "load",
        "model",
        "must have the modules of the file, shared alike",
        f"a difference at {', '.join(sorted({repr(path) for path, _ in differing}))}",
    )

    def of_file(path: str, module: nn.Module) -> nn.Module | None:
        node = {key: value for key, value in nodes[path].items() if key != "training"}
        if not is_layer(node) or tuples(describe_module(module)) == tuples(node):
            return None
        return build_module(path, node).to(device_of(module))

    return replace_modules(skeleton, of_file)


def _sharing(nodes: Mapping[str, Node]) -> dict[str, str]:
    return {path: node.get("same_as", path) for path, node in nodes.items()}


def _share(model: nn.Module, aliases: Mapping[str, str]) -> None:
    """Make parameters of different modules one, where they were one in the saved model."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, source in aliases.items():
        if name in parameters and source in parameters:
            path, _, attribute = name.rpartition(".")
            model.get_submodule(path).register_parameter(attribute, parameters[source])
    extra = sorted(_aliases(model.state_dict(keep_vars=True)).keys() - aliases.keys())
    require(not extra, "load", "model", "must share only the tensors that the file shares", extra)


def _fill(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load the state strictly, in the dtypes of the file."""
    own = model.state_dict(keep_vars=True)
    for name in own.keys() & state.keys():
        own[name].data = own[name].data.to(state[name].dtype)
    assign = any(tensor.is_meta for tensor in own.values())
    try:
        model.load_state_dict(state, strict=True, assign=assign)
    except RuntimeError as error:
        raise argument_error("load", "model", "must fit the file", error) from None


def _restore_flags(model: nn.Module, recipe: Mapping[str, Any]) -> None:
    """Modes of the modules, parameters that take no gradient, and how the model was built."""
    model.train(recipe["training"])
    for path, node in recipe["modules"].items():
        if "training" in node:
            model.get_submodule(path).training = node["training"]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in recipe["frozen"])
    if recipe["builder"]:
        model.recipe = recipe["builder"]
