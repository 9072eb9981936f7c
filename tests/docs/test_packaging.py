"""pyproject.toml states what is promised: few dependencies with lower bounds, the command, the types, the licence."""

from __future__ import annotations

import importlib
import re
import sys
from typing import Any

import pytest

from tests.support import REPOSITORY

# In the standard library since Python 3.11; pytest brings the same module for 3.10.
tomllib = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")


@pytest.fixture(scope="module")
def stated() -> dict[str, Any]:
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))


def test_base_dependencies_have_lower_bounds_only(stated: dict[str, Any]) -> None:
    dependencies = stated["project"]["dependencies"]
    found = [re.fullmatch(r"([a-z_-]+)>=\d+(\.\d+)*", dependency) for dependency in dependencies]
    assert [match and match[1] for match in found] == ["torch", "numpy", "safetensors", "tokenizers"]


def test_extras(stated: dict[str, Any]) -> None:
    extras = stated["project"]["optional-dependencies"]
    assert set(extras) == {"viz", "train", "tf", "notebooks", "test", "all"}
    assert extras["all"] == ["minitf[viz,train,tf,notebooks]"]
    # The oracle is for the tests alone.
    assert [name for name, wanted in extras.items() if any(entry.startswith("transformers") for entry in wanted)] == [
        "test"
    ]
    for wanted in extras.values():
        assert [entry for entry in wanted if re.search(r"[<~!]|==", entry)] == []


def test_command(stated: dict[str, Any]) -> None:
    assert stated["project"]["scripts"] == {"minitf": "minitf.cli:main"}
    assert callable(importlib.import_module("minitf.cli").main)


def test_version_is_the_package_s(stated: dict[str, Any]) -> None:
    import minitf

    assert stated["project"]["version"] == minitf.__version__


def test_types_and_packages_are_shipped(stated: dict[str, Any]) -> None:
    setuptools = stated["tool"]["setuptools"]
    assert setuptools["package-data"] == {"minitf": ["py.typed"], "weights_tools": ["py.typed"]}
    assert setuptools["packages"]["find"] == {"include": ["minitf*", "weights_tools*"]}
    for package in setuptools["package-data"]:
        assert (REPOSITORY / package / "py.typed").is_file()
        for folder in {path.parent for path in (REPOSITORY / package).rglob("*.py")}:
            assert (folder / "__init__.py").is_file(), folder  # without it the folder would not be in the wheel


def test_licence_and_python(stated: dict[str, Any]) -> None:
    project = stated["project"]
    assert (project["license"], project["license-files"]) == ("MIT", ["LICENSE"])
    assert (REPOSITORY / "LICENSE").read_text(encoding="utf-8").startswith("MIT License")
    assert project["requires-python"] == ">=3.10"
    assert (REPOSITORY / project["readme"]).is_file()
