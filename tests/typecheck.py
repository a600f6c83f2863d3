"""Annotations of pplvae are checked at every call that a test makes, with the axes that arguments and result share.

jaxtyping's own import hook does the same, in three times the time of what is tested: it binds every call to a
signature, checks the arguments twice, and compiles the checks of a nested function whenever one is made. Here a type is
compiled once for each function that is written, and what hangs on types, shapes and dtypes alone is checked once for
each of these.
"""

import ast
import collections.abc
import dataclasses
import functools
import importlib.machinery
import inspect
import sys
import types
import typing
from abc import ABCMeta

import numpy as np
import torch
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
        checks = {name: _Check.of(function, name) for name in function.__annotations__}
        positional, named = code.co_argcount, code.co_argcount + code.co_kwonlyargcount
        rest = iter(code.co_varnames[named:])
        self.axes = any(one is not None and one.axes for one in checks.values())
        self.remembered = not any(one is not None and one.axes and one.hangs_on is _VALUE for one in checks.values())
        self.passed = set()  # looks of arguments, and of arguments with the result
        self.result = checks.pop("return", None)
        self.others = checks.get(next(rest)) if code.co_flags & inspect.CO_VARARGS else None
        self.other_names = checks.get(next(rest)) if code.co_flags & inspect.CO_VARKEYWORDS else None
        self.by_place = [checks.get(name) for name in code.co_varnames[:positional]]
        self.by_name = {name: checks.get(name) for name in code.co_varnames[:named]}

    def checked(self, function, args, kwargs):
        __tracebackhide__ = True
        if not self.axes:
            for one, value in self._of(args, kwargs):
                one(value)
            return self._result(function(*args, **kwargs))
        looks = self._looks(args, kwargs) if self.remembered else None
        if looks is None or looks not in self.passed:
            with jaxtyped("context"):  # axes of one name are as long as each other in here
                for one, value in self._of(args, kwargs):
                    one.now(value)
                result = self._result(function(*args, **kwargs))
            if looks is not None:
                self.passed |= {looks, self._with_result(looks, result)}
            return result
        result = function(*args, **kwargs)
        if self.result is None or not self.result.axes:
            return self._result(result)
        looks = self._with_result(looks, result)
        if looks not in self.passed:
            with jaxtyped("context"):
                for one, value in self._of(args, kwargs):
                    one.now(value)
                self._result(result)
            self.passed.add(looks)
        return result

    def _of(self, args, kwargs):
        """Checks and what they are of."""
        for one, value in zip(self.by_place, args, strict=False):
            if one is not None:
                yield one, value
        if self.others is not None:
            for value in args[len(self.by_place) :]:
                yield self.others, value
        for name, value in kwargs.items():
            one = self.by_name.get(name, self.other_names)
            if one is not None:
                yield one, value

    def _looks(self, args, kwargs):
        """All that the checks of axes hang on; the other checks are made."""
        __tracebackhide__ = True
        looks = [*kwargs]
        for one, value in self._of(args, kwargs):
            if one.axes:
                looks.append(_look(value))
            else:
                one(value)
        return tuple(looks)

    def _with_result(self, looks, result):
        return (looks, _look(result)) if self.result is not None and self.result.axes else looks

    def _result(self, result):
        __tracebackhide__ = True
        if self.result is not None and result is not NotImplemented:  # which leaves an operator to the other operand
            self.result(result)
        return result


_TYPE, _LOOK, _VALUE = "its type", "its type, shape and dtype", "all of it"


class _Check:
    """Raises where a value is not of a type.

    Attributes:
        now: the check itself.
        axes: whether the type has axes, which other values may share.
        hangs_on: what of a value it hangs on.
    """

    def __init__(self, now, expected):
        self.now, self.axes, self.hangs_on = now, _has_axes(expected), _hangs_on(expected)
        self.passed = set()  # types

    @classmethod
    def of(cls, function, name):
        """None where every value is of that type."""
        expected = _type_of(function, name)
        return None if expected is typing.Any else cls(_check_of(function, name, expected), expected)

    def __call__(self, value):
        __tracebackhide__ = True
        if self.hangs_on is not _TYPE:
            self.now(value)
        elif type(value) not in self.passed:
            self.now(value)
            self.passed.add(type(value))


def _look(value):
    return (type(value), value.shape, value.dtype) if isinstance(value, torch.Tensor | np.ndarray) else type(value)


def _hangs_on(expected):
    if expected is None or typing.get_origin(expected) is collections.abc.Callable:
        return _TYPE
    if typing.get_origin(expected) in (typing.Union, types.UnionType):
        parts = {_hangs_on(part) for part in typing.get_args(expected)}
        return next(one for one in (_VALUE, _LOOK, _TYPE) if one in parts)
    if not inspect.isclass(expected) or typing.get_origin(expected) is not None:
        return _VALUE
    if issubclass(expected, AbstractArray):
        return _LOOK
    asked = type(expected).__instancecheck__
    plain = asked in (type.__instancecheck__, ABCMeta.__instancecheck__) and not getattr(
        expected, "_is_protocol", False
    )
    return _TYPE if plain else _VALUE


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
    """Raises where a value is not of that type."""

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
