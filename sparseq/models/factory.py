"""`build`: a model by its registered name or from a user's file; `restore`: a saved model."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparseq.errors import unknown_name
from sparseq.files.model_file import load, recorded_builder
from sparseq.files.modules import tuples
from sparseq.models.catalog import LOSSES, MODELS, STD_HPARAMS, Builder, HParams
from sparseq.models.layers import ALGEBRAS
from sparseq.models.user_file import (
    accepted,
    accepts,
    is_file_reference,
    load_function,
    missing,
)
from sparseq.seeds import derive_seed

MNIST_SHAPE = (1, 28, 28)


def build(
    name_or_file: str,
    algebra: str = "real",
    in_shape: tuple[int, ...] | None = None,
    num_classes: int = 10,
    seed: int = 0,
    **options: Any,
) -> nn.Module:
    """A freshly initialized model on the CPU; the same arguments give the same weights.

    Args:
        name_or_file: a name of MODELS, or `path/to/file.py:function`. The builder or function is
            called with those of the other arguments that it accepts, by keyword.
        algebra: "real" or "quaternion".
        in_shape: shape of one example; by default the one the model was designed for.
        num_classes: width of the output.
        seed: of the weights. The global random state does not change.
        options: further arguments of the model, plain JSON values, such as `stem="imagenet"`.

    Returns:
        The model; its `recipe` attribute is {"name": ..., "kwargs": {...}}, plain JSON values
        with which `build(name, **kwargs)` builds it again.

    Raises:
        ValueError: an unknown name or algebra, a file without that function, or examples that the
            model does not support.
        FileNotFoundError: the file does not exist.
        TypeError: the model does not support the algebra, does not accept an option or needs
            another argument; or the file's function does not return an nn.Module.
    """
    if algebra not in ALGEBRAS:
        raise unknown_name("algebra", algebra, ALGEBRAS)
    with seeded(seed):  # running a user's file may draw random numbers
        builder = find_builder(name_or_file)
    in_shape = default_shape(builder) if in_shape is None else tuple(in_shape)
    kwargs: dict[str, Any] = {
        "algebra": algebra,
        "in_shape": in_shape,
        "num_classes": num_classes,
        "seed": seed,
        **options,
    }
    arguments = _checked(name_or_file, builder, kwargs, options)
    with seeded(seed):
        model = builder(**arguments)
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model {name_or_file!r} must return an nn.Module, got {type(model).__name__}"
        )
    recorded = kwargs if is_file_reference(name_or_file) else arguments
    kwargs = {**recorded, "in_shape": list(in_shape)}
    model.recipe = {"name": name_or_file, "kwargs": kwargs}  # type: ignore[assignment]
    return model


def find_builder(name_or_file: str) -> Builder:
    """The registered builder of that name, or the function in a user's file."""
    from_file = is_file_reference(name_or_file)
    return load_function(name_or_file) if from_file else MODELS.get(name_or_file)


def default_shape(builder: Builder) -> tuple[int, ...]:
    """The default of a builder's in_shape; MNIST's shape if it has no default."""
    parameter = inspect.signature(builder).parameters.get("in_shape")
    default = parameter and parameter.default
    return default if isinstance(default, tuple) else MNIST_SHAPE


def algebras_of(name: str) -> list[str]:
    """The algebras that a registered model supports."""
    return ALGEBRAS if accepts(MODELS.get(name), "algebra") else ALGEBRAS[:1]


def restore(path: str | os.PathLike[str], name_or_file: str | None = None) -> nn.Module:
    """The model of a file written by `sparseq.save`.

    Args:
        path: the file.
        name_or_file: what builds the model if it has classes that are not registered: a name of
            MODELS or `path/to/file.py:function`, called with the arguments recorded in the file.
            Code is never run because the file alone names it.

    Raises:
        FileNotFoundError: the file, or the Python file, does not exist.
        ValueError, TypeError: as for `load` and `build`.
    """
    if name_or_file is None:
        return load(path)
    recorded = recorded_builder(path)
    model = load(path, build(name_or_file, **tuples(recorded.get("kwargs", {}))))
    if not recorded:  # the attribute describes the built model, not the file's
        model.__dict__.pop("recipe", None)
    return model


def classifies(name_or_file: str) -> bool:
    """Whether a model outputs class scores; assumed of a model from a user's file."""
    return is_file_reference(name_or_file) or accepts(MODELS.get(name_or_file), "num_classes")


def loss_of(name_or_file: str) -> Callable[[Any, Tensor], Tensor]:
    """loss(outputs, classes) for training a model: cross-entropy for a classifier."""
    return F.cross_entropy if classifies(name_or_file) else LOSSES.get(name_or_file)


def std_hparams(name_or_file: str) -> HParams:
    """The standard hyperparameters of a model; the defaults of HParams for a user's file."""
    if is_file_reference(name_or_file):
        return HParams()
    MODELS.get(name_or_file)  # so that the error speaks of an unknown model
    return STD_HPARAMS.get(name_or_file)()


def _checked(
    name: str, builder: Builder, kwargs: dict[str, Any], options: dict[str, Any]
) -> dict[str, Any]:
    """The keyword arguments that the builder accepts; TypeError if they do not fit it."""
    arguments = accepted(builder, kwargs)
    unknown = missing(builder, arguments)
    if unknown:
        raise TypeError(
            f"model {name!r} needs arguments other than {', '.join(kwargs)}: {', '.join(unknown)}"
        )
    rejected = sorted(options.keys() - arguments.keys())
    if rejected:
        raise TypeError(f"model {name!r} does not accept {', '.join(rejected)}")
    if kwargs["algebra"] != "real" and "algebra" not in arguments:
        raise TypeError(
            f"model {name!r} does not accept an argument named algebra and cannot be built "
            f"as {kwargs['algebra']!r}; use the real algebra only (--algebras real)"
        )
    return arguments


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds torch's global CPU generator inside the block and restores it afterwards."""
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would seed the accelerators' generators too
        torch.default_generator.manual_seed(derive_seed("weights", seed))
        yield
