"""The table of promises fits the code: what is to be taken out is there, and so are the tests that must notice."""

import ast
import re
from functools import cache

import pytest

from tests.taken_out.table import ROOT, Promise, changed, parts

PROMISES = [promise for part in parts().values() for promise in part.promise]


@cache
def names_in(path: str) -> frozenset[str]:
    """Names of the tests of a file, those of classes as `Class::test`."""
    body = ast.parse((ROOT / path).read_text()).body
    classes = {f"{node.name}::": node.body for node in body if isinstance(node, ast.ClassDef)}
    return frozenset(
        f"{prefix}{node.name}"
        for prefix, nodes in {"": body, **classes}.items()
        for node in nodes
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


def test_each_promise_has_a_name_of_its_own() -> None:
    names = [promise.name for promise in PROMISES]
    assert names
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) for name in names)


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.name)
def test_what_is_to_be_taken_out_is_there_and_so_are_the_tests(promise: Promise) -> None:
    for file, text in changed(promise).items():
        assert text != (ROOT / file).read_text()
        if file.endswith(".py"):
            compile(text, file, "exec")
    assert promise.tests
    for test in promise.tests:
        path, _, name = test.partition("::")
        assert name.partition("[")[0] in names_in(path), test
