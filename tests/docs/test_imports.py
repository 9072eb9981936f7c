"""The source as the design demands it: who imports whom, how long files and functions are, what an import costs.

The import graph is read from the syntax trees, so imports inside functions count as well (marked "lazy" in the table
where only that is allowed, because the importing module is used without torch or without the other).
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import REPOSITORY

PACKAGES = ("minitf", "weights_tools")
FILES = sorted(path for package in PACKAGES for path in (REPOSITORY / package).rglob("*.py"))
MAXIMUM_FILE, MAXIMUM_FUNCTION = 800, 60

# Third parties that anything in the library may import; everything else is listed with who may.
BASE = {"torch", "numpy", "safetensors"}
LEAF_NAMES = ("activations", "attention", "cache", "losses", "masks", "memory", "outputs", "products")
LEAVES = {f"minitf.{name}" for name in LEAF_NAMES}
GROUND = "minitf.checks"  # below the leaves: whether torch records a graph, and what inputs must look like

VERIFY = ("verify", "verify_inputs", "verify_models", "verify_tokens")
GOLDEN = ("golden_making", "golden_inputs", "golden_check")
REFERENCE = "minitf.parity.verify_models"  # the one module that imports transformers, when `minitf verify` runs

# module (or package) -> what of this project it may import. A module that no row covers fails the test.
ALLOWED: dict[str, set[str]] = {
    "weights_tools": {"weights_tools"},
    "weights_tools.__main__": {"weights_tools", "minitf.cli"},  # hands `verify` over to minitf, which has that command
    GROUND: {"minitf.cache"},
    "minitf.keywords": set(),  # errors for misspelt names: anything may use it
    "minitf.patterns": set(),  # names only
    **{leaf: {GROUND} for leaf in LEAVES},
    "minitf.config": {"weights_tools", "minitf.activations", "minitf.keywords"},
    "minitf.pretrained": {
        "minitf.config",
        "minitf.keywords",
        "minitf.attention",  # the names that exist
        GROUND,
        "minitf.masks",
        "minitf.cache",
        "minitf.outputs",
        "minitf.loading",
        "minitf.saving",
        "weights_tools",
    },
    "minitf.saving": {
        "minitf.config",
        "minitf.keywords",
        "minitf.pretrained",
        "minitf.surgery",  # whether a part of the model is one that a plain checkpoint cannot hold
        "weights_tools",
    },
    "minitf.loading": {"minitf.config", "minitf.keywords", "minitf.masks", "minitf.pretrained", "weights_tools"},
    "minitf.models": {
        *LEAVES,
        GROUND,
        "minitf.keywords",
        "minitf.pretrained",
        "minitf.config",
        "minitf.models",
        "minitf.generation",
    },
    "minitf.architectures": set(),  # names only
    "minitf.models.auto": {
        "minitf.architectures",
        "minitf.config",
        "minitf.keywords",
        "minitf.pretrained",
        "minitf.loading",
        "weights_tools",
    },
    "minitf.tokenization": {"minitf.tokenization", "minitf.keywords", "minitf.architectures", "weights_tools"},
    "minitf.generation": {
        "minitf.generation",
        "minitf.cache",
        "minitf.outputs",
        "minitf.masks",
        "minitf.config",
        "minitf.keywords",
        GROUND,
        "weights_tools",
    },
    "minitf.tracing": {"minitf.tracing", "minitf.patterns"},
    "minitf.surgery": {  # files of adapters; the loss and output of a head
        *("minitf.surgery", "minitf.patterns", "minitf.losses", "minitf.outputs", "weights_tools"),
    },
    "minitf.parity": {"minitf.parity", "minitf.tracing", "minitf.patterns", "weights_tools"},
    "minitf.parity.dump_writer": set(),  # numpy alone: ports copy it
    "minitf.parity.golden": set(),  # numpy alone: reads bundles where there is no torch
    "minitf.parity.sides": {"minitf", "weights_tools"},  # a folder becomes a model
    "minitf.parity.report_text": {"minitf.parity", "minitf.cli_output"},  # tables
    # load whole checkpoints, generate and tokenize; verify beside transformers
    **{f"minitf.parity.{name}": {"minitf", "weights_tools"} for name in (*VERIFY, *GOLDEN)},
    "minitf.parity.faults": {  # how a mistake is made in the models, their leaves and caches
        "minitf.parity.faults",
        "minitf.models",
        "minitf.activations",
        "minitf.cache",
        "minitf.losses",
        "minitf.masks",
        "minitf.memory",
    },
    # On top: they may import everything, and nothing below imports them.
    **{f"minitf.{name}": {"minitf", "weights_tools"} for name in ("pipelines", "training", "viz", "demo")},
    **{f"minitf.{name}": {"minitf", "weights_tools"} for name in ("cli", "__main__")},
}
# Only inside functions or for type checkers: the importing module must load without the imported one.
LAZY_ONLY: dict[str, set[str]] = {
    GROUND: {"minitf.cache"},  # the name of a type
    "minitf.config": {"minitf.activations", "torch", "weights_tools"},
    "minitf.pretrained": {"minitf.loading", "minitf.saving", "minitf.outputs", "weights_tools"},
    "minitf.loading": {"minitf.pretrained"},
    "minitf.saving": {"minitf.pretrained", "minitf.surgery"},
    "minitf.models.auto": {"torch", "minitf.pretrained", "minitf.loading", "weights_tools"},
    "minitf.tokenization": {"torch"},
    "minitf.generation": {"weights_tools"},
}
# Third party -> who may import it at all, beside BASE.
THIRD_PARTIES: dict[str, set[str]] = {
    "tokenizers": {"minitf.tokenization", "minitf.cli"},
    "huggingface_hub": {"weights_tools"},
    "h5py": {"weights_tools.hdf5_listing"},
    "tqdm": {"minitf.training", "minitf.cli", "weights_tools.__main__"},
    "matplotlib": {"minitf.viz"},
    "transformers": {REFERENCE},
}


def module_name(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def covers(package: str, module: str) -> bool:
    return module == package or module.startswith(package + ".")


def row_of(module: str, table: dict[str, set[str]]) -> set[str] | None:
    """The most special row of the table for this module; `minitf.cli_info` is a part of `minitf.cli`."""
    module = "minitf.cli" if module.startswith("minitf.cli_") else module
    rows = sorted((key for key in table if covers(key, module)), key=len)
    return table[rows[-1]] if rows else None


def imports(source: str, module: str, is_package: bool = False) -> Iterator[tuple[str, bool]]:
    """(imported module, whether only a function or a type checker imports it), names resolved to modules of ours."""

    def visit(node: ast.AST, lazy: bool) -> Iterator[tuple[str, bool]]:
        for child in ast.iter_child_nodes(node):
            inner = lazy or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                inner = True
            if isinstance(child, ast.Import):
                yield from ((alias.name, lazy) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = child.module or ""
                if child.level:
                    above = module.split(".")[: len(module.split(".")) - child.level + is_package]
                    base = ".".join([*above, *([base] if base else [])])
                for alias in child.names:
                    full = f"{base}.{alias.name}"
                    yield (full if full in MODULES else base), lazy
            yield from visit(child, inner)

    yield from visit(ast.parse(source), False)


MODULES = {module_name(path): path for path in FILES}
IMPORTS = {
    module: list(imports(path.read_text(encoding="utf-8"), module, path.name == "__init__.py"))
    for module, path in MODULES.items()
}


def test_the_reader_of_imports_finds_every_form() -> None:
    source = """
import torch.nn as nn, numpy
from minitf import masks
from minitf.cache import KVCache
from . import outputs
from .models.bert import BertModel
if TYPE_CHECKING:
    from minitf.loading import LoadError
def f():
    import transformers
    class A:
        def g(self): from tokenizers import Tokenizer
"""
    assert list(imports(source, "minitf.other")) == [
        ("torch.nn", False),
        ("numpy", False),
        ("minitf.masks", False),
        ("minitf.cache", False),
        ("minitf.outputs", False),
        ("minitf.models.bert", False),
        ("minitf.loading", True),
        ("transformers", True),
        ("tokenizers", True),
    ]
    assert row_of("minitf.models.bert", ALLOWED) is ALLOWED["minitf.models"]
    assert row_of("minitf.modelsother", ALLOWED) is None


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"minitf"}))
def test_directions(module: str) -> None:
    allowed = row_of(module, ALLOWED)
    assert allowed is not None, f"{module} is new: give it a row in ALLOWED"
    lazy_only = row_of(module, LAZY_ONLY) or set()
    for imported, lazy in IMPORTS[module]:
        top = imported.partition(".")[0]
        if any(covers(name, imported) for name in lazy_only):
            assert lazy, f"{module} imports {imported} at its head: only inside a function or under TYPE_CHECKING"
        if top in PACKAGES:
            own = any(covers(row, module) and covers(row, imported) for row in ALLOWED if "." in row)
            assert own or any(covers(name, imported) for name in allowed), f"{module} must not import {imported}"
        elif top not in BASE and top not in sys.stdlib_module_names:
            users = THIRD_PARTIES.get(top, set())
            assert any(row_of(module, {user: {"yes"}}) for user in users), f"{module} must not import {imported}"
            assert lazy or top != "huggingface_hub", f"{module} imports {imported} at its head"


def test_leaves_do_not_know_each_other_nor_anything_but_torch() -> None:
    for leaf in {*LEAVES, GROUND} & set(MODULES):
        eager = {name for name, lazy in IMPORTS[leaf] if not lazy}
        others = {name for name in eager if name.partition(".")[0] not in {"torch", *sys.stdlib_module_names}}
        assert others <= ({GROUND} if leaf in LEAVES else set()), leaf


def test_the_reference_library_is_imported_by_verify_alone_and_when_it_runs() -> None:
    users = {(user, lazy) for user, found in IMPORTS.items() for name, lazy in found if covers("transformers", name)}
    assert users == {(REFERENCE, True)}


def test_weights_tools_knows_no_modules() -> None:
    """Neither minitf nor nn.Module: bytes and names only."""
    for module, path in MODULES.items():
        if not covers("weights_tools", module):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        attributes = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, (ast.Attribute, ast.Name))}
        assert not {"nn", "torch.nn", "nn.Module", "torch.nn.Module"} & attributes, module
        assert not any(covers("torch.nn", name) for name, _ in IMPORTS[module]), module
        ours = {(name, lazy) for name, lazy in IMPORTS[module] if covers("minitf", name)}
        assert ours == ({("minitf.cli", True)} if module == "weights_tools.__main__" else set()), module


def test_the_package_itself_imports_nothing_of_ours_but_lazily() -> None:
    eager = [name for name, lazy in IMPORTS["minitf"] if not lazy]
    assert not [name for name in eager if name.partition(".")[0] not in sys.stdlib_module_names]


# --------------------------------------------------------------------------------------------------------------------
# Lengths


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_a_file_fits_into_one_reading(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAXIMUM_FILE


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from `def` to the end, without the docstring."""
    assert function.end_lineno is not None
    total = function.end_lineno - function.lineno + 1
    first = function.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        assert first.end_lineno is not None
        total -= first.end_lineno - first.lineno + 1
    return total


def test_functions_fit_onto_one_page() -> None:
    lengths = {}
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lengths[f"{module}.{node.name} (line {node.lineno})"] = code_lines(node)
    assert len(lengths) > 200
    assert {name: length for name, length in lengths.items() if length > MAXIMUM_FUNCTION} == {}


def test_code_lines_leaves_the_docstring_out() -> None:
    function = ast.parse('def f():\n    """One.\n\n    Two.\n    """\n    x = 1\n    return x\n').body[0]
    assert isinstance(function, ast.FunctionDef)
    assert code_lines(function) == 3


# --------------------------------------------------------------------------------------------------------------------
# What an import costs


def modules_after(code: str) -> set[str]:
    """Names of the modules that a fresh interpreter has loaded after `code`."""
    program = f"{code}\nimport sys; print('MODULES', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    return set(done.stdout.splitlines()[-1].split()[1:])


def test_importing_the_package_loads_almost_nothing() -> None:
    loaded = modules_after("import minitf; minitf.__version__; dir(minitf)")
    assert {name for name in loaded if covers("minitf", name)} == {"minitf"}
    assert not {"torch", "numpy", "tokenizers", "safetensors", "huggingface_hub"} & loaded


def test_a_model_class_loads_no_more_than_it_needs() -> None:
    loaded = modules_after("import minitf; minitf.BertModel")
    assert "minitf.models.bert" in loaded
    assert not {"tokenizers", "huggingface_hub", "transformers", "matplotlib", "minitf.tokenization"} & loaded
    assert "minitf.models.gpt2" not in loaded
    # Slow parts of torch that its own import leaves out.
    added = loaded - modules_after("import torch")
    assert not [name for name in added if covers("torch._dynamo", name) or covers("torch._inductor", name)]


def test_a_configuration_or_tokenizer_needs_no_torch() -> None:
    assert "torch" not in modules_after("import minitf; minitf.BertTokenizer")
    assert "torch" not in modules_after("import minitf; minitf.BertConfig")
    assert "torch" not in modules_after("import minitf; minitf.AutoConfig, minitf.AutoModel")
    assert "torch" not in modules_after("import weights_tools")


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["info", "--help"], ["--version"]])
def test_help_comes_without_torch(arguments: list[str]) -> None:
    code = f"""
import sys
from minitf.cli import main
try:
    main({arguments!r})
except SystemExit as done:
    assert not done.code, done.code
"""
    assert "torch" not in modules_after(code)


def test_every_public_name_resolves_to_what_its_home_says() -> None:
    import importlib

    import minitf

    assert set(minitf.__all__) == {*minitf._HOMES, "__version__"}
    for name, home in minitf._HOMES.items():
        assert getattr(minitf, name) is getattr(importlib.import_module(home), name)
    assert dir(minitf) == sorted(minitf.__all__)
    with pytest.raises(AttributeError, match="module 'minitf' has no attribute 'BertModell'; did you mean 'BertModel'"):
        _ = minitf.BertModell
