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
    """Whether a model name refers to a Python file rather than to the registry."""
    path, _, _ = name.rpartition(":")
    return name.endswith(".py") or path.endswith(".py")


def load_function(reference: str) -> Callable[..., Any]:
    """The function that `path/to/file.py:function` refers to.

    Raises:
        ValueError: a reference of another form, or the file has no such function.
        FileNotFoundError: the file does not exist.
        Exception: any error raised by running the file, with a note that names the file.
    """
    path_text, _, function_name = reference.rpartition(":")
    if not path_text.endswith(".py") or not function_name:
        raise argument_error(
            "model file", "name", "must have the form path/to/file.py:function", repr(reference)
        )
    path = Path(path_text).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"model file {path} does not exist (from {reference!r})")
    function: Callable[..., Any] | None = getattr(_run(path.resolve()), function_name, None)
    if function is None or isinstance(function, nn.Module) or not callable(function):
        got = "nothing" if function is None else f"an object of type {type(function).__name__}"
        raise argument_error(
            "model file", f"{function_name!r} in {path}", "must be a function", got
        )
    return function


def _run(path: Path) -> ModuleType:
    """The file as a module, run once per content."""
    content = path.read_bytes()
    digest = hashlib.sha256(str(path).encode() + b"\0" + content).hexdigest()[:16]
    name = f"sparseq_user_{path.stem}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"model file {path} cannot be loaded as Python")
    # registered before it runs: dataclasses and pickle look up their module by name
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        # the loader's exec_module might reuse bytecode: its cache compares size and seconds only
        exec(compile(content, str(path), "exec"), module.__dict__)
    except BaseException as error:
        del sys.modules[name]
        error.add_note(f"while running the model file {path}")
        raise
    return module


def accepts(function: Callable[..., Any], name: str) -> bool:
    """Whether `function` has a parameter of that name."""
    return name in inspect.signature(function).parameters


def accepted(function: Callable[..., Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """Those of the arguments that `function` accepts by keyword."""
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return arguments
    names = {
        parameter.name
        for parameter in parameters
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    return {name: value for name, value in arguments.items() if name in names}


def missing(function: Callable[..., Any], arguments: dict[str, Any]) -> list[str]:
    """Names of the required parameters of `function` that are not among the arguments."""
    return [
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is parameter.empty
        and parameter.name not in arguments
        and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    ]
