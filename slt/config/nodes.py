"""`_target_` nodes of a config: from a dotted name and its arguments to the object, every mistake found beforehand."""

import contextlib
import functools
import importlib
import importlib.util
import inspect
import pkgutil
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import slt
from slt.typing import InputError, nearest, too_large

SPECIAL = ("_target_", "_partial_", "_args_")
# Where the components of slt are defined. The rest of it reads, writes and imports, and no config may call that.
PARTS = (
    *("adapters", "estimators", "experiments", "model", "models", "observables", "phases", "priors", "programs"),
    *("samplers", "theory"),
)
LARGEST = 2**31 - 1  # what an int of a component may be: JAX counts in int32
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Callable: "a function"}
# Classes of these packages take plain numbers too; a class of any other is built by a _target_ node.
_PLAIN = ("builtins", "typing", "collections", "jaxtyping", "jax", "jaxlib", "numpy", "enum")


def join(path: str, key: object) -> str:
    """A dotted path; list items as path[0]."""
    if isinstance(key, int):
        return f"{path}[{key}]"
    return f"{path}.{key}" if path else str(key)


def beside(name: str) -> types.ModuleType:
    """The package slt.`name` ("configs", "experiments"): as installed, else from the clone that slt itself lies in."""
    full = f"slt.{name}"
    if full in sys.modules:
        return sys.modules[full]
    if importlib.util.find_spec(full) is not None:
        return importlib.import_module(full)
    folder = Path(slt.__file__).resolve().parent.parent / name
    init, inside = folder / "__init__.py", [str(folder)]
    spec = importlib.util.spec_from_file_location(full, init, submodule_search_locations=inside)
    if spec is None or spec.loader is None or not init.is_file():
        raise ModuleNotFoundError(f"slt was installed without its {name}: install it anew", name=full)
    module = importlib.util.module_from_spec(spec)
    sys.modules[full] = module
    spec.loader.exec_module(module)
    setattr(sys.modules["slt"], name, module)
    return module


def targets(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """(dotted path, node) of every `_target_` node in a plain container, outer ones first."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield path, dict(node)
        for key, value in node.items():
            yield from targets(value, join(path, key))
    elif isinstance(node, list | tuple):
        for i, value in enumerate(node):
            yield from targets(value, join(path, i))


def module(name: str, path: str) -> types.ModuleType:
    """The module called `name`; InputError at `path`, with the nearest name, where it cannot be imported."""
    if name.startswith("slt.experiments"):
        beside("experiments")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name != missing and not name.startswith(f"{missing}."):
            raise InputError(path, name, f"cannot be imported: {error}") from error
        parent, _, last = missing.rpartition(".")
        if not parent:
            cure = "no such module beside the config given on the command line, nor among installed packages"
            raise InputError(path, name, cure) from None
        found = [info.name for info in pkgutil.iter_modules(getattr(sys.modules.get(parent), "__path__", []))]
        raise InputError(path, name, f"no module {last!r} in {parent}: {nearest(last, found)}") from None
    except (ImportError, SyntaxError) as error:
        raise InputError(path, name, f"cannot be imported: {type(error).__name__}: {error}") from error


def locate(target: object, path: str) -> Any:
    """The object that the dotted name `target` stands for; `path` is where the config says so."""
    where = join(path, "_target_")
    if not isinstance(target, str) or "." not in target or not all(part.isidentifier() for part in target.split(".")):
        raise InputError(where, target, "give a dotted name such as slt.samplers.sgld.SGLD or my_file.MyModel")
    parts = target.split(".")
    found: Any = module(parts[0], where)
    for i, part in enumerate(parts[1:], 1):
        name = ".".join(parts[: i + 1])
        package = getattr(found, "__name__", "") == ".".join(parts[:i]) and hasattr(found, "__path__")
        if name == "slt.experiments" or (package and importlib.util.find_spec(name) is not None):
            inner = module(name, where)
            # A function that its package exports under the name of the module it lies in is what is meant.
            found = getattr(found, part, inner) if i == len(parts) - 1 else inner
        elif hasattr(found, part):
            found = getattr(found, part)
        else:
            known = {name for name in dir(found) if not name.startswith("_")}
            known |= {info.name for info in pkgutil.iter_modules(getattr(found, "__path__", []))}
            raise InputError(where, target, f"{'.'.join(parts[:i])} has no {part!r}: {nearest(part, sorted(known))}")
    return found


def foreign(node: Any, path: str = "", allow: Sequence[str] = ()) -> Iterator[tuple[str, Any]]:
    """The path and the value of every `_target_` that would import anything but slt and `allow`."""
    for where, found in targets(node, path):
        target = found["_target_"]
        known = isinstance(target, str) and any(
            target == one or target.startswith(f"{one}.") for one in ("slt", *allow)
        )
        if not known:
            yield join(where, "_target_"), target


class Trusted(dict[str, Any]):
    """A config as plain dicts and lists, of a run that is one's own or was looked at by `trust`: it may be built."""


def trust(node: Any, path: str = "", allow: Sequence[str] = ()) -> None:
    """InputError where a config that came with a run directory would call anything but slt's components and `allow`.

    slt.runs.os.system is not slt's, nor is my_file.os.system that of an allowed my_file.
    """
    for where, target in foreign(node, path, allow):
        allow_it = f"if you trust it, say --allow-import with {str(target).split('.')[0]} or the folder it lies in"
        raise InputError(where, target, f"a run directory may import only slt; {allow_it}")
    packages = ("slt", *(one.split(".")[0] for one in allow))
    for where, found in targets(node, path):
        home = _home(locate(found["_target_"], where), found["_target_"], where)
        if home[0] not in packages:
            cure = f"is of {home[0] or 'no module'}: a run directory may call only what the modules allowed define"
            raise InputError(join(where, "_target_"), found["_target_"], cure)


def check(node: Any, path: str) -> None:
    """InputError for the first `_target_` in `node` that cannot be called as written; imports, but calls nothing."""
    for where, found in targets(node, path):
        _bound(found, where)


def instantiate(node: Any, path: str) -> Any:
    """What a node stands for: a call of its `_target_`, with `_partial_: true` a functools.partial; arguments likewise.

    Plain values come back as they are, lists as tuples where the target's annotation says tuple. All nodes are checked
    before the first is called. `path` is the dotted path of the node in the config, for messages.
    """
    check(node, path)
    return _built(node, path)


def _built(node: Any, path: str) -> Any:
    if isinstance(node, list | tuple):
        return [_built(value, join(path, i)) for i, value in enumerate(node)]
    if not isinstance(node, Mapping):
        return node
    if "_target_" not in node:
        return {key: _built(value, join(path, key)) for key, value in node.items()}
    call, args, named, kinds = _bound(dict(node), path)
    args = [_built(value, join(path, f"_args_[{i}]")) for i, value in enumerate(args)]
    given, named = named, {key: _shaped(_built(value, join(path, key)), kinds.get(key)) for key, value in named.items()}
    for key, made in named.items():
        if key in kinds and given[key] is not made and not _is(made, kinds[key]):
            raise InputError(join(path, key), made, f"must be {_said(kinds[key])}")
    if node.get("_partial_", False):
        return functools.partial(call, *args, **named)
    try:
        return call(*args, **named)
    except InputError as error:
        raise InputError(placed(error.field, path), error.value, error.cure) from error
    except Exception as error:
        if too_large(error):
            cure = f"its numbers are too large for this machine ({error or type(error).__name__})"
            raise InputError(path, node["_target_"], cure) from error
        error.add_note(f"while building {path} = {node['_target_']}")
        raise


def placed(field: str, path: str) -> str:
    """A field as a component names it ("sampler.step_size", "scale"), as the config's path of it."""
    if field == path or field.startswith(f"{path}."):
        return field
    parent, _, last = path.rpartition(".")
    return join(parent, field) if field.split(".")[0] == last else join(path, field)


def _bound(node: dict[str, Any], path: str) -> tuple[Callable[..., Any], list[Any], dict[str, Any], dict[str, Any]]:
    """(callable, positional arguments, named arguments, annotations) of a node, checked against the signature."""
    call = locate(node["_target_"], path)
    target = node["_target_"]
    if not callable(call):
        raise InputError(join(path, "_target_"), target, "cannot be called: name a class or a function")
    _home(call, target, path)
    args, partial = node.get("_args_", []), node.get("_partial_", False)
    if not isinstance(args, list | tuple) or not isinstance(partial, bool):
        wrong = "_args_" if isinstance(partial, bool) else "_partial_"
        raise InputError(join(path, wrong), node[wrong], "_args_ is a list, _partial_ is true or false")
    named = {str(key): value for key, value in node.items() if key not in SPECIAL}
    try:
        signature = inspect.signature(call)
    except (TypeError, ValueError):  # some builtins have none
        return call, list(args), named, {}
    takes = {p.name: p for p in signature.parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    if not any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values()):
        for key, value in named.items():
            if key not in takes:
                cure = f"unknown argument of {target}: {nearest(key, takes, 'it takes')}"
                raise InputError(join(path, key), value, cure)
    try:
        (signature.bind_partial if partial else signature.bind)(*args, **named)
    except TypeError as error:
        absent = [
            p.name
            for i, p in enumerate(takes.values())
            if p.default is p.empty and p.name not in named and (p.kind is p.KEYWORD_ONLY or i >= len(args))
        ]
        if absent and not partial:
            raise InputError(join(path, absent[0]), None, f"{target} needs it: give it in the config") from None
        raise InputError(join(path, "_args_"), args, f"{target}: {error}") from None
    kinds = _annotations(call, takes)
    for key, value in named.items():
        if key in kinds:
            fit(value, kinds[key], join(path, key), LARGEST)
    return call, list(args), named, kinds


def _home(call: Any, target: str, path: str) -> tuple[str, ...]:
    """Package and module in which what `target` names is defined; InputError where slt's own is no component."""
    while isinstance(call, functools.partial):
        call = call.func
    named = getattr(call, "__module__", None)
    home = (*(named if isinstance(named, str) else "").split("."), "")[:2]
    if target.split(".")[0] == "slt" and home not in [("slt", part) for part in PARTS]:
        # slt.x.os.system must not pass for slt's own, least of all in the run directory of a stranger.
        raise InputError(join(path, "_target_"), target, f"is no component of slt: those are in its {', '.join(PARTS)}")
    return home


def _annotations(call: Callable[..., Any], takes: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    kinds = {name: p.annotation for name, p in takes.items() if p.annotation is not p.empty}
    if any(isinstance(kind, str) for kind in kinds.values()):
        # Names that only type checkers know leave their arguments unchecked.
        with contextlib.suppress(NameError, TypeError, AttributeError, SyntaxError):
            kinds |= typing.get_type_hints(call.__init__ if inspect.isclass(call) else call)
    return {name: kind for name, kind in kinds.items() if not isinstance(kind, str)}


def fit(value: Any, kind: Any, path: str, largest: int = 2**63 - 1) -> None:
    """InputError unless a value read from YAML fits a type annotation; annotations that are not simple fit anything.

    largest: beyond which a whole number does not fit `int`.
    """
    if isinstance(value, Mapping) and "_target_" in value:
        return
    if not _fits(value, kind):
        raise InputError(path, value, f"must be {_said(kind)}")
    if kind is int and isinstance(value, int) and abs(value) > largest:
        raise InputError(path, value, f"must be at most {largest} in size")
    if kind is float and isinstance(value, int) and abs(value) > sys.float_info.max:
        raise InputError(path, value, "is beyond the numbers of double precision")
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        # Of several kinds, look inside a container only where one of them can be meant.
        kinds = [one for one in typing.get_args(kind) if _fits(value, one)]
        if len(kinds) == 1:
            fit(value, kinds[0], path, largest)
        return
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (list, tuple, Sequence) and isinstance(value, list | tuple) and inner:
        each = inner[0] if origin is not tuple or inner[-1] is Ellipsis else None
        for i, item in enumerate(value):
            kind = each if origin is not tuple or each is not None else inner[min(i, len(inner) - 1)]
            fit(item, kind, join(path, i), largest)
    elif origin in (dict, Mapping) and isinstance(value, Mapping) and inner:
        for key, item in value.items():
            fit(item, inner[1], join(path, key), largest)


def _fits(value: Any, kind: Any) -> bool:
    origin = typing.get_origin(kind)
    if kind is None or kind is types.NoneType:
        return value is None
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, one) for one in typing.get_args(kind))
    if origin is typing.Literal:
        return value in typing.get_args(kind)
    if origin is typing.Annotated:
        return _fits(value, typing.get_args(kind)[0])
    if kind is bool or kind is str:
        return isinstance(value, kind)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    base = origin if origin is not None else kind
    if base in (list, tuple, Sequence):
        return isinstance(value, list | tuple)
    if base in (dict, Mapping):
        return isinstance(value, Mapping)
    if base is Callable:
        return callable(value)
    if not inspect.isclass(base) or base.__module__.split(".")[0] in _PLAIN or getattr(base, "_is_protocol", False):
        return True
    return isinstance(value, base) or not isinstance(value, None | str | int | float | Mapping | list | tuple)


def _is(made: Any, kind: Any) -> bool:
    """Whether what a node was built to can be what its annotation says."""
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        return any(_is(made, one) for one in typing.get_args(kind))
    base = typing.get_origin(kind) or kind
    if base is Callable:
        return callable(made)
    if base in (int, float):
        return hasattr(made, "__float__")
    if base in (list, tuple, Sequence):
        return hasattr(made, "__iter__") and not isinstance(made, str)
    if base in (str, bool, dict, Mapping):
        return isinstance(made, base)
    own = inspect.isclass(base) and base.__module__.split(".")[0] not in _PLAIN[1:]
    return not own or getattr(base, "_is_protocol", False) or isinstance(made, base)


def _said(kind: Any) -> str:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_said(one) for one in inner)
    if origin is typing.Literal:
        return "one of " + ", ".join(map(repr, inner))
    if kind is None or kind is types.NoneType:
        return "null"
    base = origin if origin is not None else kind
    if base in (list, tuple, Sequence):
        return "a list"
    if base in (dict, Mapping):
        return "a mapping"
    return _WORDS.get(base) or f"a node with a _target_ that gives a {getattr(base, '__name__', base)}"


def _shaped(value: Any, kind: Any) -> Any:
    """A value in the form its annotation asks for: float for a whole number, tuple for a list."""
    members = typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)
    if isinstance(value, int) and not isinstance(value, bool) and float in members and int not in members:
        return float(value)
    if isinstance(value, list):
        for one in members:
            if one is tuple or typing.get_origin(one) is tuple:
                inner = typing.get_args(one)
                return tuple(_shaped(item, inner[0] if inner else None) for item in value)
    return value
