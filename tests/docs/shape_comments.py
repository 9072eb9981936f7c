"""Comments such as `# [B, H, T, D]`, compared with the shapes that the running code produces.

A source file is compiled once more with a call behind every commented assignment (and around every commented return
value), and the code objects of the loaded module's functions are exchanged for these while the check runs. So the very
classes that users have are watched, and nothing is copied or imported twice.

What a comment may say:

    # [B, T, C]                         one tensor; or, for a list or tuple, each of its tensors
    # [B, H, S, D] both                 the same with a word for the reader (both, each)
    # [B, T, C], [B, H, T, S]           a tuple, element by element (an element may be None in some calls)
    # [B, T, C], ...                    the rest of the tuple is something else
    # [B, 1, 1, S] or [B, 1, T, S]      either
    # [1 or B, H, 1 or T, S]            either, by dimension
    # [B, 1, T, 1] or broadcastable     this, or what broadcasts to it
    # [B * N, 1], [B, T, 3C]            sizes may be products and sums
    # [B, N]; whole numbers lose ...    anything may follow a semicolon
"""

from __future__ import annotations

import ast
import inspect
import io
import re
import tokenize
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import torch

Sizes = dict[str, int]
HOOK = "__shape_comment__"
FREE = {"capacity"}  # sizes that are nobody's business but the line's


@dataclass
class Comment:
    """One shape comment. `groups`: for each element of the value the alternatives, each a list of dimensions."""

    path: Path
    line: int
    text: str
    groups: list[list[list[str]]]
    broadcastable: bool
    open_end: bool
    seen: set[int] = field(default_factory=set)
    """Groups that were compared with a tensor so far."""

    @property
    def letters(self) -> set[str]:
        dims = [dim for group in self.groups for alternative in group for dim in alternative]
        return {letter for dim in dims for letter in re.findall(r"(?<![A-Za-z_])[A-Z]\b", dim)}

    def __str__(self) -> str:
        return f"{self.path.name}:{self.line}: # {self.text}"


class UnreadableComment(ValueError):
    """A comment that looks like shapes and does not follow the grammar, or stands where nothing has a shape."""


def parse(text: str, path: Path, line: int) -> Comment:
    """The comment (without its `#`) as data."""
    body = text.partition(";")[0].strip()
    broadcastable = body.endswith(" or broadcastable")
    body = re.sub(r" (or broadcastable|both|each)$", "", body)
    open_end = body.endswith(", ...")
    body = body.removesuffix(", ...")
    one = r"\[[^\[\]]+\]"
    if not re.fullmatch(rf"{one}((, | or ){one})*", body):
        raise UnreadableComment(f"{path.name}:{line}: cannot read the shapes in '# {text}'")
    groups = [
        [[dim.strip() for dim in shape.split(",")] for shape in re.findall(r"\[([^\[\]]+)\]", group)]
        for group in re.split(r"(?<=\]), (?=\[)", body)
    ]
    return Comment(path, line, text, groups, broadcastable, open_end)


def comments_of(path: Path) -> dict[int, Comment]:
    """Line -> shape comment, for all comments that stand behind code."""
    found = {}
    source = path.read_text(encoding="utf-8")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT or not token.line[: token.start[1]].strip():
            continue
        for text in (part.strip() for part in token.string.lstrip("#").split("  # ")):
            if re.match(r"\[|.*\[([A-Z]|\d+),", text):
                found[token.start[0]] = parse(text, path, token.start[0])
    return found


@cache
def compiled(dimension: str) -> CodeType:
    """A size of the repository's own comments: a letter, a number, a product (2 * B, 3C) or a sum."""
    return compile(re.sub(r"(\d)([A-Z])", r"\1 * \2", dimension), "shape comment", "eval")


def fits_dimension(dim: str, size: int, sizes: Sizes, broadcastable: bool) -> bool:
    if broadcastable and size == 1:
        return True
    for choice in dim.split(" or "):
        if choice in FREE:
            return True
        try:
            expected = eval(compiled(choice), {"__builtins__": {}}, sizes)
        except NameError:
            continue  # this run has no such size
        if expected == size:
            return True
    return False


def fits_shape(dims: list[str], shape: tuple[int, ...], sizes: Sizes, broadcastable: bool) -> bool:
    if broadcastable:
        dims = dims[max(0, len(dims) - len(shape)) :]
    return len(dims) == len(shape) and all(
        fits_dimension(dim, size, sizes, broadcastable) for dim, size in zip(dims, shape, strict=True)
    )


class Watcher:
    """Collects the comments of some modules, compares them while code runs, and remembers what did not fit.

    Args:
        modules: modules whose comments are checked; inside `with watcher:` their functions report to it.
    """

    def __init__(self, *modules: ModuleType) -> None:
        self.modules = modules
        self.comments: dict[tuple[str, int], Comment] = {}
        self.mistakes: dict[str, str] = {}
        self.sizes: list[Sizes] = []
        self.codes: list[tuple[FunctionType, CodeType]] = []
        for module in modules:
            path = Path(module.__file__ or "")
            for line, comment in comments_of(path).items():
                self.comments[str(path), line] = comment

    @contextmanager
    def watching(self, *sizes: Sizes) -> Iterator[None]:
        """While this lasts, run code in which the letters have these sizes.

        Several dictionaries are alternatives: in one call S is the length of the decoder and of the encoder. Each
        comment has to fit one of them as a whole.
        """
        self.sizes = list(sizes)
        if not self.codes:
            self.codes = [pair for module in self.modules for pair in self.exchanged(module)]
        originals = [(function, function.__code__) for function, _ in self.codes]
        for function, code in self.codes:
            function.__code__ = code
        try:
            yield
        finally:
            for function, code in originals:
                function.__code__ = code

    def exchanged(self, module: ModuleType) -> list[tuple[FunctionType, CodeType]]:
        """Each function of a module with its instrumented code."""
        path = str(module.__file__)
        setattr(module, HOOK, self.compare)
        instrumented = Instrumenter(path, {line for file, line in self.comments if file == path})
        tree = instrumented.visit(ast.parse(Path(path).read_text(encoding="utf-8")))
        if instrumented.lines:
            lines = ", ".join(map(str, sorted(instrumented.lines)))
            raise UnreadableComment(f"{path}: shape comments that end no assignment or return, lines {lines}")
        codes = {}
        pending = [compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True)]
        while pending:
            code = pending.pop()
            codes[code.co_name, code.co_firstlineno] = code
            pending += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
        return [(f, codes[f.__code__.co_name, f.__code__.co_firstlineno]) for f in functions_of(module)]

    def compare(self, path: str, line: int, value: Any) -> Any:
        """Called by the instrumented code; returns the value as it is."""
        comment = self.comments[path, line]
        elements = list(value) if isinstance(value, (tuple, list)) else [value]
        tensors = [(i, element) for i, element in enumerate(elements) if torch.is_tensor(element)]
        if comment.open_end:
            tensors = [(i, tensor) for i, tensor in tensors if i < len(comment.groups)]
        elif len(comment.groups) == 1:
            tensors = [(0, tensor) for _, tensor in tensors]
        elif len(comment.groups) != len(elements):
            self.mistakes[str(comment)] = f"{len(elements)} values"
            return value
        for sizes in self.sizes:
            if all(self.fits(comment, i, tuple(tensor.shape), sizes) for i, tensor in tensors):
                comment.seen |= {i for i, _ in tensors}
                return value
        shapes = ", ".join(str(list(tensor.shape)) for _, tensor in tensors)
        self.mistakes[str(comment)] = f"{shapes} with {self.sizes}"
        return value

    @staticmethod
    def fits(comment: Comment, group: int, shape: tuple[int, ...], sizes: Sizes) -> bool:
        return any(fits_shape(dims, shape, sizes, comment.broadcastable) for dims in comment.groups[group])

    def unseen(self) -> list[str]:
        """Comments of which some shape was never compared."""
        return [str(c) for c in self.comments.values() if c.seen != set(range(len(c.groups)))]


class Instrumenter(ast.NodeTransformer):
    """Puts a call of the hook behind commented assignments and around commented return values."""

    def __init__(self, path: str, lines: set[int]) -> None:
        self.path = path
        self.lines = set(lines)
        """Comments whose statement was not found yet."""

    def call(self, value: ast.expr, line: int) -> ast.Call:
        self.lines.discard(line)
        arguments: list[ast.expr] = [ast.Constant(self.path), ast.Constant(line), value]
        return ast.Call(ast.Name(HOOK, ast.Load()), arguments, [])

    def visit_Return(self, node: ast.Return) -> ast.AST:
        if node.value is not None and node.end_lineno in self.lines:
            node.value = ast.copy_location(self.call(node.value, node.end_lineno), node.value)
        return node

    def assigned(self, node: Any, target: ast.expr) -> Any:
        if node.end_lineno not in self.lines:
            return node
        loaded = ast.parse(ast.unparse(target), mode="eval").body  # the same names, to be read
        return [node, ast.copy_location(ast.Expr(self.call(loaded, node.end_lineno)), node)]

    def visit_Assign(self, node: ast.Assign) -> Any:
        return self.assigned(node, node.targets[0])

    def visit_AnnAssign(self, node: ast.AnnAssign) -> Any:
        return self.assigned(node, node.target) if node.value is not None else node

    def visit_AugAssign(self, node: ast.AugAssign) -> Any:
        return self.assigned(node, node.target)


def functions_of(module: ModuleType) -> list[FunctionType]:
    """All functions and methods that a module defines; those inside functions belong to their code."""
    found: dict[int, FunctionType] = {}

    def add(candidate: Any) -> None:
        if isinstance(candidate, property):
            for accessor in (candidate.fget, candidate.fset):
                add(accessor)
        elif isinstance(candidate, (staticmethod, classmethod)):
            add(candidate.__func__)
        elif isinstance(candidate, type) and candidate.__module__ == module.__name__:
            for member in vars(candidate).values():
                add(member)
        elif callable(candidate):
            function: Callable[..., Any] = inspect.unwrap(candidate)
            if isinstance(function, FunctionType) and function.__code__.co_filename == module.__file__:
                found[id(function)] = function

    for value in list(vars(module).values()):
        add(value)
    return list(found.values())


def declared_letters(module: ModuleType) -> set[str]:
    """The letters that stand in the module's text behind "Dimension letters:"."""
    paragraph = (module.__doc__ or "").partition("Dimension letters:")[2].partition("\n\n")[0]
    return set(re.findall(r"\b([A-Z])\b(?= [a-z])", paragraph))
