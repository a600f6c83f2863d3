"""Annotations of pplvae are checked at every call that a test makes, with the axes that arguments and result share.

jaxtyping's own import hook does the same, in three times the time of what is tested: it binds every call to a
signature, checks the arguments twice, and compiles the checks of a nested function whenever one is made. Here a type is
compiled once for each function that is written.
"""

import ast
import dataclasses
import functools
import importlib.machinery
import inspect
import sys
import types
import typing

from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray, jaxtyped

_ACCEPTED = beartype(conf=BeartypeConf(is_pep484_tower=True, violation_type=TypeError))  # an int passes for a float
_TYPES = {}  # those of each function that has been called


def watch(package):
    """Check the functions of a package that has not been imported yet; once, however often conftest is imported."""
    if any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    assert package not in sys.modules, f"{package} has been imported before its functions can be checked"
    sys.meta_path.insert(0, _Finder(package))


def check(thing):
    """A function that checks what it takes and returns, or a dataclass that checks its fields."""
    if inspect.isclass(thing):
        if dataclasses.is_dataclass(thing) and not hasattr(thing.__init__, "__wrapped__"):
            thing.__init__ = check(thing.__init__)
        return thing
    if not thing.__annotations__:
        return thing
    expected = None

    @functools.wraps(thing)
    def checked(*args, **kwargs):
        __tracebackhide__ = True
        nonlocal expected
        if expected is None:
            expected = _types_of(thing)
        if expected.axes:
            with jaxtyped("context"):  # axes of one name are as long as each other in here
                return expected.checked(thing, args, kwargs)
        return expected.checked(thing, args, kwargs)

    return checked


def _types_of(function):
    # Functions that one nested definition makes have their code in common; dataclasses with the same fields do too.
    key = (function.__module__, function.__qualname__, function.__code__)
    if key not in _TYPES:
        _TYPES[key] = _Types(function)
    return _TYPES[key]


class _Types:
    """The checks of a function's arguments, by place and by name, and of its result."""

    def __init__(self, function):
        code = function.__code__
        expected = {name: _type_of(function, name) for name in function.__annotations__}
        checks = {name: _check_of(function, name, one) for name, one in expected.items()}
        positional, named = code.co_argcount, code.co_argcount + code.co_kwonlyargcount
        rest = iter(code.co_varnames[named:])
        self.result = checks.pop("return", None)
        self.others = checks.get(next(rest)) if code.co_flags & inspect.CO_VARARGS else None
        self.other_names = checks.get(next(rest)) if code.co_flags & inspect.CO_VARKEYWORDS else None
        self.by_place = [checks.get(name) for name in code.co_varnames[:positional]]
        self.by_name = {name: checks.get(name) for name in code.co_varnames[:named]}
        self.axes = any(_has_axes(one) for one in expected.values())

    def checked(self, function, args, kwargs):
        __tracebackhide__ = True
        for check_one, value in zip(self.by_place, args, strict=False):
            if check_one is not None:
                check_one(value)
        if self.others is not None:
            for value in args[len(self.by_place) :]:
                self.others(value)
        for name, value in kwargs.items():
            check_one = self.by_name.get(name, self.other_names)
            if check_one is not None:
                check_one(value)
        result = function(*args, **kwargs)
        if self.result is not None and result is not NotImplemented:  # which leaves an operator to the other operand
            self.result(result)
        return result


def _type_of(function, name):
    written = types.SimpleNamespace(__annotations__={"value": function.__annotations__[name]})
    try:
        return typing.get_type_hints(written, function.__globals__, include_extras=True)["value"]
    except NameError:  # imported for type checkers alone
        return typing.Any


def _has_axes(expected):
    if inspect.isclass(expected) and issubclass(expected, AbstractArray):
        return True
    return any(_has_axes(part) for part in typing.get_args(expected))


def _check_of(function, name, expected):
    """Raises where a value is not of that type; None where every value is."""
    if expected is typing.Any:
        return None

    def of(value):
        pass

    of.__annotations__ = {"value": expected}
    of.__module__, of.__qualname__ = function.__module__, f"{function.__qualname__}: {name}"
    return _ACCEPTED(of)


class _Finder:
    """Finds the modules of one package, with every function and class decorated by `check`."""

    def __init__(self, package):
        self.package = package

    def find_spec(self, name, path=None, target=None):
        if name != self.package and not name.startswith(f"{self.package}."):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(importlib.machinery.SourceFileLoader):
    def get_code(self, fullname):
        tree = _Decorated().visit(ast.parse(self.get_data(self.path)))
        return compile(ast.fix_missing_locations(tree), self.path, "exec", dont_inherit=True)


class _Decorated(ast.NodeTransformer):
    def visit_Module(self, node):
        documented = ast.get_docstring(node) is not None
        node.body.insert(documented, ast.Import([ast.alias(__name__)]))
        return self.generic_visit(node)

    def visit_FunctionDef(self, node):
        node.decorator_list.append(self._check(node))  # nearest to the function: others may hide its annotations
        return self.generic_visit(node)

    def visit_ClassDef(self, node):
        node.decorator_list.insert(0, self._check(node))  # after `dataclass`
        return self.generic_visit(node)

    @staticmethod
    def _check(node):
        decorator = ast.Attribute(ast.Name(__name__, ast.Load()), "check", ast.Load())
        return ast.fix_missing_locations(ast.copy_location(decorator, node))
