"""The hand-written stub against the compiled module: nothing missing on either side."""

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

import dari
from dari import _native

STUB = ast.parse((Path(dari.__path__[0]) / "_native.pyi").read_text(encoding="utf-8"))
CLASSES = {node.name: node for node in STUB.body if isinstance(node, ast.ClassDef)}
FUNCTIONS = {node.name: node for node in STUB.body if isinstance(node, ast.FunctionDef)}


def test_the_stub_names_all_that_the_module_has_and_nothing_else() -> None:
    """Names with an underscore are the interpreter's."""
    assert {name for name in vars(_native) if not name.startswith("_")} == CLASSES.keys() | FUNCTIONS.keys()


def _members(name: str) -> list[ast.FunctionDef]:
    return [member for member in CLASSES[name].body if isinstance(member, ast.FunctionDef)]


def _is_property(member: ast.FunctionDef) -> bool:
    return any(ast.unparse(decorator) == "property" for decorator in member.decorator_list)


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_has_the_members_that_the_stub_names(name: str) -> None:
    """Public members, and `__new__` where an object can be made."""
    compiled = getattr(_native, name)
    public = {member for member in vars(compiled) if not member.startswith("_")}
    assert public == {member.name for member in _members(name) if member.name != "__new__"}
    for member in _members(name):
        if _is_property(member):
            assert inspect.isgetsetdescriptor(vars(compiled)[member.name]), member.name


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_can_be_made_or_not_as_the_stub_says(name: str) -> None:
    """Only what has `__new__` in the stub; exceptions are made like all exceptions."""
    compiled = getattr(_native, name)
    assert compiled.__module__ == "dari._native"
    if issubclass(compiled, Exception):
        assert [ast.unparse(base) for base in CLASSES[name].bases] == [base.__name__ for base in compiled.__bases__]
        return
    if "__new__" not in {member.name for member in _members(name)}:
        with pytest.raises(TypeError, match=r"No constructor|cannot create"):
            compiled()


@pytest.mark.parametrize("name", [name for name, node in CLASSES.items() if node.decorator_list])
def test_a_final_class_cannot_be_extended(name: str) -> None:
    """`@final` in the stub is true at run time."""
    with pytest.raises(TypeError, match="not an acceptable base type"):
        type("Extended", (getattr(_native, name),), {})


def _callables() -> Iterator[tuple[str, ast.FunctionDef, object]]:
    for name, function in FUNCTIONS.items():
        yield name, function, getattr(_native, name)
    for name in CLASSES:
        for member in _members(name):
            if member.name == "__new__":
                yield name, member, getattr(_native, name)
            elif not _is_property(member):
                yield f"{name}.{member.name}", member, getattr(getattr(_native, name), member.name)


@pytest.mark.parametrize(("stub", "compiled"), [pytest.param(*rest, id=name) for name, *rest in _callables()])
def test_a_signature_is_that_of_the_stub(stub: ast.FunctionDef, compiled: object) -> None:
    """Names, kinds and defaults of all arguments; types cannot be seen at run time."""
    assert callable(compiled)
    found = [
        (argument.name, argument.kind is inspect.Parameter.KEYWORD_ONLY, argument.default)
        for argument in inspect.signature(compiled).parameters.values()
        if argument.name != "self"
    ]
    arguments = stub.args
    assert not arguments.defaults
    positional = [(a.arg, False, inspect.Parameter.empty) for a in arguments.args if a.arg not in {"self", "cls"}]
    by_name = [
        (a.arg, True, inspect.Parameter.empty if default is None else ast.literal_eval(default))
        for a, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    ]
    assert found == positional + by_name
