"""Who may import whom, and what the code may never do. Read from the sources, so that nothing slips by."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ALLOWED = {
    "schemas": {"schemas"},
    "transport": {"transport", "schemas"},
    "broker_config": {"broker_config"},
    "controller": {"controller", "schemas", "transport", "broker_config"},
    "device_agent": {"device_agent", "schemas", "transport"},
}
OWN = set(ALLOWED) | {"tests", "benchmarks"}
IMPURE = {
    "asyncio",
    "os",
    "sqlite3",
    "sqlalchemy",
    "socket",
    "subprocess",
    "pathlib",
    "aiohttp",
    "paho",
    "urllib3",
    "tuf",
    "time",
    "random",
}
PURE = [
    "schemas",
    *(
        f"controller/rollouts/{name}.py"
        for name in ("engine", "plan", "waves", "judging", "tally", "proving", "widening", "catching_up", "standing")
    ),
    "device_agent/lifecycle.py",
    "device_agent/policy.py",
    "device_agent/gate.py",
    "device_agent/readiness.py",
]


def sources(below: str) -> list[Path]:
    path = ROOT / below
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


def modules(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide edges"
            # a name may be a module too
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imports(path: Path) -> set[str]:
    return {name.split(".")[0] for name in modules(path)}


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_only_the_allowed_edges_between_packages_exist(package: str) -> None:
    files = sources(package)
    assert files
    for path in files:
        strangers = (imports(path) & OWN) - ALLOWED[package]
        assert not strangers, f"{path.relative_to(ROOT)} imports {strangers}"


@pytest.mark.parametrize("below", PURE)
def test_what_decides_does_no_io(below: str) -> None:
    files = sources(below)
    assert files
    for path in files:
        impure = imports(path) & IMPURE
        assert not impure, f"{path.relative_to(ROOT)} imports {impure}"


def test_the_api_does_not_depend_on_the_page() -> None:
    files = sources("controller/http")
    assert files
    for path in files:
        page = {name for name in modules(path) if f"{name}.".startswith("controller.web.")}
        assert not page, f"{path.relative_to(ROOT)} imports {page}"


def test_no_command_is_built_as_a_shell_string() -> None:
    for package in ALLOWED:
        for path in sources(package):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call):
                    name = ast.unparse(node.func)
                    shell = [k for k in node.keywords if k.arg == "shell"]
                    where = f"{path.relative_to(ROOT)}:{node.lineno}"
                    assert not shell, where
                    assert name not in {"os.system", "os.popen", "asyncio.create_subprocess_shell"}, where
