"""A user's own model: `path/to/file.py:function`."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from sparseq.errors import argument_error


def is_file_reference(name: str) -> bool:
    """Whether a model name points into a Python file rather than into the registry."""
    path, _, _ = name.rpartition(":")
    return name.endswith(".py") or path.endswith(".py")


def load_function(reference: str) -> Callable[..., Any]:
    """The function that `path.py:function` names.

    Raises:
        ValueError: not of that form, or the file has no such function.
        FileNotFoundError: no such file.
        Exception: whatever the file raises while it is run, with a note that names it.
    """
    path_text, _, function_name = reference.rpartition(":")
    if not path_text.endswith(".py") or not function_name:
        raise argument_error(
            "model file", "name", "must have the form path/to/file.py:function", repr(reference)
        )
    path = Path(path_text).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"model file {path} does not exist (from {reference!r})")
    function = getattr(_run(path.resolve()), function_name, None)
    if isinstance(function, nn.Module) or not callable(function):
        what = "no" if function is None else f"a {type(function).__name__} called"
        raise ValueError(
            f"model file {path} has {what} {function_name!r} where a function is needed"
        )
    return function


def _run(path: Path) -> ModuleType:
    content = path.read_bytes()
    digest = hashlib.sha256(str(path).encode() + b"\0" + content).hexdigest()[:16]
    name = f"sparseq_user_{path.stem}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"model file {path} cannot be loaded as Python")
    # listed before it runs: dataclasses and pickle look their module up by name
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        # not the loader's exec_module: its cached bytecode goes by the file's size and second
        exec(compile(content, str(path), "exec"), module.__dict__)
    except BaseException as error:
        del sys.modules[name]
        error.add_note(f"while running the model file {path}")
        raise
    return module


def accepted(function: Callable[..., Any], offered: dict[str, Any]) -> dict[str, Any]:
    """The offered arguments that `function` takes by name."""
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return offered
    names = {
        parameter.name
        for parameter in parameters
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    return {name: value for name, value in offered.items() if name in names}


def needed(function: Callable[..., Any], given: dict[str, Any]) -> list[str]:
    """Names of the arguments that `function` still needs besides the given ones."""
    return [
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is parameter.empty
        and parameter.name not in given
        and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    ]
