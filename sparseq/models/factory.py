"""`build`: a model by its registered name, or from a user's file; `restore`: a saved one."""

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
from sparseq.models.user_file import accepted, is_file_reference, load_function, needed
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
            called with those of the other arguments that it takes, by name.
        algebra: "real" or "quaternion".
        in_shape: shape of one example; by default the one the model is best known for.
        num_classes: width of the output.
        seed: of the weights. The global random state is left as it was.
        options: further arguments of that model, plain JSON values, such as `stem="imagenet"`.

    Returns:
        The model; its `recipe` attribute holds {"name": ..., "kwargs": {...}}, plain JSON values
        that build it again.

    Raises:
        ValueError: an unknown name or algebra, a file without that function, or examples that the
            model cannot take.
        FileNotFoundError: no such file.
        TypeError: the model cannot be of that algebra, takes no such option or needs another
            argument; or the file's function returns no nn.Module.
    """
    if algebra not in ALGEBRAS:
        raise unknown_name("algebra", algebra, ALGEBRAS)
    with seeded(seed):  # a file may draw random numbers when it is first run
        builder = find_builder(name_or_file)
    in_shape = usual_shape(builder) if in_shape is None else tuple(in_shape)
    kwargs: dict[str, Any] = {
        "algebra": algebra,
        "in_shape": in_shape,
        "num_classes": num_classes,
        "seed": seed,
        **options,
    }
    taken = _checked(name_or_file, builder, kwargs, options)
    with seeded(seed):
        model = builder(**taken)
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model {name_or_file!r} must return an nn.Module, got {type(model).__name__}"
        )
    kept = kwargs if is_file_reference(name_or_file) else taken
    recipe = {"name": name_or_file, "kwargs": {**kept, "in_shape": list(in_shape)}}
    model.recipe = recipe  # type: ignore[assignment]
    return model


def find_builder(name_or_file: str) -> Builder:
    """What builds the model of that name, or the function in a user's file."""
    from_file = is_file_reference(name_or_file)
    return load_function(name_or_file) if from_file else MODELS.get(name_or_file)


def usual_shape(builder: Builder) -> tuple[int, ...]:
    """The default of a builder's in_shape; MNIST's where it has none."""
    parameter = inspect.signature(builder).parameters.get("in_shape")
    default = parameter and parameter.default
    return default if isinstance(default, tuple) else MNIST_SHAPE


def algebras_of(name: str) -> list[str]:
    """The algebras that a registered model can have."""
    quaternion = "algebra" in inspect.signature(MODELS.get(name)).parameters
    return ALGEBRAS if quaternion else ALGEBRAS[:1]


def restore(path: str | os.PathLike[str], name_or_file: str | None = None) -> nn.Module:
    """The model of a file that `sparseq.save` wrote.

    Args:
        path: the file.
        name_or_file: what builds the model where the file holds classes that are not registered:
            a name of MODELS or `path/to/file.py:function`, called with the arguments that the
            file has recorded. No code is run that only the file names.

    Raises:
        FileNotFoundError: no such file, or no such Python file.
        ValueError, TypeError: as for `load` and `build`.
    """
    if name_or_file is None:
        return load(path)
    recorded = recorded_builder(path)
    model = load(path, build(name_or_file, **tuples(recorded.get("kwargs", {}))))
    if not recorded:  # what the skeleton says of itself is not what the file says
        model.__dict__.pop("recipe", None)
    return model


def classifies(name_or_file: str) -> bool:
    """Whether a model gives a score to each class; a user's own is taken to."""
    if is_file_reference(name_or_file):
        return True
    return "num_classes" in inspect.signature(MODELS.get(name_or_file)).parameters


def loss_of(name_or_file: str) -> Callable[[Any, Tensor], Tensor]:
    """loss(outputs, classes) by which a model is trained: cross entropy for a classifier."""
    return F.cross_entropy if classifies(name_or_file) else LOSSES.get(name_or_file)


def std_hparams(name_or_file: str) -> HParams:
    """The usual hyperparameters of a model; the defaults of HParams for a user's file."""
    if is_file_reference(name_or_file):
        return HParams()
    MODELS.get(name_or_file)  # an unknown name is that of a model
    return STD_HPARAMS.get(name_or_file)()


def _checked(
    name: str, builder: Builder, kwargs: dict[str, Any], options: dict[str, Any]
) -> dict[str, Any]:
    """Those of the arguments that the builder takes; TypeError where that is not enough."""
    taken = accepted(builder, kwargs)
    unknown = needed(builder, taken)
    if unknown:
        raise TypeError(
            f"model {name!r} needs arguments other than {', '.join(kwargs)}: {', '.join(unknown)}"
        )
    refused = sorted(options.keys() - taken.keys())
    if refused:
        raise TypeError(f"model {name!r} takes no {', '.join(refused)}")
    if kwargs["algebra"] != "real" and "algebra" not in taken:
        raise TypeError(
            f"model {name!r} takes no argument named algebra, so it cannot be built "
            f"as {kwargs['algebra']!r}; ask for the real algebra alone (--algebras real)"
        )
    return taken


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's global CPU generator is seeded by `seed` inside and is as it was afterwards."""
    with torch.random.fork_rng(devices=[]):
        # not torch.manual_seed, which would reach for the accelerators' generators as well
        torch.default_generator.manual_seed(derive_seed("weights", seed))
        yield
