"""The folder that a SentenceTransformer saves: `modules.json` lists its modules and the folder of each.

Source: sentence-transformers 2.7 and 6.2 (SentenceTransformer.save and its loader). The first module is a model of
transformers; older versions keep it in a folder of its own (`0_Transformer`), newer ones beside `modules.json` (path
""). What follows it (pooling, normalisation) is no part of that model. Imports no torch.
"""

from __future__ import annotations

import json
from pathlib import Path

from weights_tools.regular import is_there, problem, read_text, shown

MODULES = "modules.json"
MAX_BYTES = 1_000_000
DIRECTLY = "config.json"  # a folder that has this is a model itself


def model_folder(folder: Path) -> Path | None:
    """The folder inside `folder` that holds the model, if `modules.json` says that it is one and not `folder` itself.

    Raises:
        WeightsError: `modules.json` cannot be read, or names a folder that is not directly inside.
        FileNotFoundError: it names a folder that does not exist.
    """
    listing = folder / MODULES
    if not folder.is_dir() or is_there(folder / DIRECTLY) or not is_there(listing):
        return None
    expected = "the modules of a SentenceTransformer in JSON"
    try:
        modules = json.loads(read_text(listing, MAX_BYTES, expected=expected))
    except (json.JSONDecodeError, RecursionError) as error:
        raise problem(
            listing, f"not JSON ({error})", expected=expected, remedy="Name the folder of the model."
        ) from None
    for module in modules if isinstance(modules, list) else ():
        kind, path = (module.get(key) for key in ("type", "path")) if isinstance(module, dict) else (None, None)
        if isinstance(kind, str) and kind.startswith("sentence_transformers.") and kind.endswith(".Transformer"):
            return None if path == "" else _inside(folder, path)
    return None


def followed(folder: Path, inner: Path) -> str:
    """What a report says when `inner` is read in place of `folder`."""
    return (
        f"{MODULES} of {folder.name} is a SentenceTransformer's: its model, in {inner.name}, is read, and nothing else"
    )


def _inside(folder: Path, name: object) -> Path:
    plain = isinstance(name, str) and name not in (".", "..") and not set(name) & set("/\\:\0")
    if not plain or (inner := folder / str(name)).resolve().parent != folder.resolve():
        raise problem(
            folder / MODULES,
            f"it names the folder {shown(name)}",
            expected="the plain name of a folder in this one",
            remedy="Do not load it: an honest file never points elsewhere.",
        )
    if not inner.is_dir():
        raise FileNotFoundError(f"{folder / MODULES}: it names the folder {shown(name)}, which is not there")
    return inner
