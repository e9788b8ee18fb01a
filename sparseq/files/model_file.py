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
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sparseq.errors import argument_error, require
from sparseq.files.container import read_container, reading, write_container
from sparseq.files.modules import (
    Spec,
    build_module,
    build_tree,
    custom_modules,
    is_layer,
    json_value,
    module_specs,
    same_layer,
    sharing,
    state_versions,
    tuples,
)
from sparseq.files.schema import checked_manifest
from sparseq.files.sizes import (
    Shapes,
    check_layers,
    declared_shapes,
    memory_limit,
    require_within,
)
from sparseq.files.tensors import (
    decode_patterns,
    decode_zeros,
    encode_patterns,
    encode_zeros,
    pattern_names,
)
from sparseq.graphs.limit import drawing_limit
from sparseq.nn.convert import device_of, replace_modules
from sparseq.nn.layer_types import LAYER_TYPES, check_module, type_of
from sparseq.registry import Registry

__all__ = ["MODEL_BUILDERS", "load", "recorded_builder", "save"]

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
    check_module("save", model)
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


def load(
    path: str | os.PathLike[str], model: nn.Module | None = None, *, max_bytes: int | None = None
) -> nn.Module:
    """The model of a file: same tensors, dtypes and mode, so bit-identical outputs.

    Nothing but registered classes is called, and nothing is allocated before it is compared with
    what the file stores (`sparseq.files.sizes`).

    Args:
        path: a file written by `save`.
        model: needed only if the file contains modules of unregistered classes: the model as built
            by its own code. It is copied, not modified; in the copy its layers are replaced by
            those of the file (sparse ones where the file's are sparse), on its device. The names of
            its modules must be those of the file.
        max_bytes: the most that the tensors of the model may take in memory and that drawing its
            graphs may write; by default 1 GiB or 100 times the size of the file, the larger of the
            two, so that a file of a few bytes cannot take more.

    Returns:
        The model, on the CPU or on the device of `model`. The global random state is unchanged.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: naming the file: not a sparseq model file, truncated, modified or of a newer
            format; more than `max_bytes`; a model that only its own code can build; a `model` that
            does not fit the file.
    """
    with reading(path, "load"):
        stored, manifest = _read(path)
        limit = memory_limit(path, max_bytes)
        shapes = declared_shapes(manifest, stored, limit)
        with torch.random.fork_rng(devices=[]), drawing_limit(limit, "max_bytes"):
            check_layers(manifest["modules"], shapes, limit)
            state = _decoded(manifest, stored, path)
            skeleton = _skeleton(manifest, shapes, limit) if model is None else model
            result = _with_layers_of(manifest["modules"], skeleton)
        _share(result, manifest["aliases"])
        _fill(result, state, state_versions(manifest["modules"]))
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
    with reading(path, "read model"):
        stored, manifest = read_container(path, "model")
        return stored, checked_manifest(manifest, stored, path)


def _decoded(
    manifest: Mapping[str, Any], stored: dict[str, Tensor], path: object
) -> dict[str, Tensor]:
    """The state_dict; `stored` is used up."""
    try:
        decode_patterns(manifest["patterns"], stored)
        decode_zeros(manifest["zeros"], stored)
    except (ValueError, RuntimeError, TypeError) as error:
        rule = "must contain patterns and zeros that can be decoded"
        raise argument_error("load", f"file {str(path)!r}", rule, error) from None
    return {**stored, **{name: stored[source] for name, source in manifest["aliases"].items()}}


def _builder(model: nn.Module) -> dict[str, Any]:
    """The attribute `recipe` of the model if it names a builder and its arguments, else {}."""
    builder: Any = getattr(model, "recipe", None)
    if not isinstance(builder, dict) or builder.keys() != {"name", "kwargs"}:
        return {}
    plain: dict[str, Any] = json_value(builder, "the model's recipe")
    return plain


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


def _skeleton(manifest: Mapping[str, Any], shapes: Shapes, limit: int) -> nn.Module:
    """A model made of the file's modules, before its state is loaded."""
    builder, custom = manifest["builder"], custom_modules(manifest["modules"])
    if not custom:
        return build_tree(manifest["modules"])
    if builder and builder["name"] in MODEL_BUILDERS.names():
        return _built_by_name(builder, shapes, limit)
    raise argument_error(
        "load",
        "model",
        "must be given for modules that only their own code can build: load(path, model=...)",
        ", ".join(custom),
    )


def _built_by_name(builder: Mapping[str, Any], shapes: Shapes, limit: int) -> nn.Module:
    """The model of a registered builder, checked on the meta device before it is built."""
    build, kwargs = MODEL_BUILDERS.get(builder["name"]), tuples(builder["kwargs"])
    try:
        with torch.device("meta"):
            outline = build(**kwargs)
    except Exception:  # a builder that needs data, or an error that it raises again
        pass
    else:
        require_within(limit, outline, shapes)
    return build(**kwargs)


def _with_layers_of(specs: Mapping[str, Spec], skeleton: nn.Module) -> nn.Module:
    """A copy of the skeleton in which every registered layer is the one of the file."""
    expected = {path: spec.get("same_as", path) for path, spec in specs.items()}
    actual = sharing(skeleton, len(specs) + 1)
    differing = sorted({repr(path) for path, _ in actual.items() ^ expected.items()})
    rule = "must have the modules of the file, shared in the same way"
    require(not differing, "load", "model", rule, f"a difference at {', '.join(differing)}")

    def layer_of_file(path: str, module: nn.Module) -> nn.Module | None:
        spec = specs[path]
        if not is_layer(spec) or same_layer(module, spec):
            return None
        return build_module(path, spec).to(device_of(module))

    # the file decides which tensors are shared, see `_share`
    result = replace_modules(skeleton, layer_of_file, "load", keep_ties=False)
    for path, spec in specs.items():
        _adopt_container(result.get_submodule(path), spec)
    return result


def _adopt_container(module: nn.Module, spec: Spec) -> None:
    """Make a container the one of the file, if one of the two derives from the other."""
    expected = LAYER_TYPES.get(spec["type"]) if "type" in spec else None
    actual = type_of(type(module))
    if expected is None or actual is None or not (expected.container and actual.container):
        return
    if issubclass(expected.layer, actual.layer) or issubclass(actual.layer, expected.layer):
        module.__class__ = expected.layer


def _share(model: nn.Module, aliases: Mapping[str, str]) -> None:
    """Share parameters between modules as in the saved model."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, source in aliases.items():
        if name in parameters and source in parameters:
            path, _, attribute = name.rpartition(".")
            model.get_submodule(path).register_parameter(attribute, parameters[source])
    extra = sorted(_aliases(model.state_dict(keep_vars=True)).keys() - aliases.keys())
    require(not extra, "load", "model", "must share only the tensors that the file shares", extra)


def _fill(
    model: nn.Module, state: Mapping[str, Tensor], versions: dict[str, dict[str, Any]]
) -> None:
    """Load the state strictly, in the dtypes of the file; modules see their state's version."""
    tensors = model.state_dict(keep_vars=True)
    for name in tensors.keys() & state.keys():
        tensors[name].data = tensors[name].data.to(state[name].dtype)
    assign = any(tensor.is_meta for tensor in tensors.values())
    try:
        versioned: Any = OrderedDict(state)
        versioned._metadata = versions
        model.load_state_dict(versioned, strict=True, assign=assign)
    except RuntimeError as error:
        raise argument_error("load", "model", "must fit the file", error) from None


def _restore_flags(model: nn.Module, manifest: Mapping[str, Any]) -> None:
    """Restore the modes of the modules, the gradient flags and the recorded builder."""
    model.train(manifest["training"])
    for path, spec in manifest["modules"].items():
        if "training" in spec:
            model.get_submodule(path).training = spec["training"]
    frozen = set(manifest["frozen"])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    if manifest["builder"]:
        model.recipe = manifest["builder"]
