"""What a file is by its first bytes, and what to do with one that is not weights. Imports no torch.

The signatures are those of each format's own description (PKWARE's APPNOTE.TXT, RFC 1952, the GGUF and HDF5
specifications, onnx.proto, saved_model.proto, msgpack's specification, git-lfs/docs/spec.md, numpy.lib.format).
"""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from weights_tools.regular import DOWNLOAD_AGAIN, WeightsError, problem

STREAM = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # the pickled magic number of torch before 1.6
UNFINISHED = (".incomplete", ".part", ".partial", ".crdownload")

# Looked up after "safetensors", in this order; every pattern begins where the file begins.
KINDS: tuple[tuple[re.Pattern[bytes], str], ...] = tuple(
    (re.compile(pattern, re.DOTALL), kind)
    for pattern, kind in (
        (rb"version https://git-lfs", "a Git-LFS pointer, not the file it points to"),
        (rb"PK\x03\x04", "zip"),
        (re.escape(STREAM), "stream"),
        (rb".{257}ustar|storages\0", "a tar archive (weights of torch before 0.1.10 look like this)"),
        (rb"\x89HDF", "hdf5"),
        (rb"\x1f\x8b", "a gzip archive"),
        (rb"BZh[1-9]|\xfd7zXZ\0|7z\xbc\xaf|\x28\xb5\x2f\xfd|Rar!", "a compressed archive"),
        (rb"\x93NUMPY", "a single NumPy array"),
        (rb"GGUF|lmgg|tjgg", "a GGUF file (weights for llama.cpp)"),
        (rb"\x08\x01\x12", "a TensorFlow SavedModel's program (saved_model.pb), without its variables"),
        (rb"\x08[\x03-\x20](\x12[\x01-\x7f][ -~]|:)", "an ONNX model (a program)"),
        (rb"\x80[\0-\x05].", "a bare Python pickle, which may run any program when opened (it was not opened)"),
        (rb"(?:[\x81-\x8f]|\xde..)[\xa1-\xbf][ -~]", "a msgpack file (Flax weights, flax_model.msgpack)"),
        (rb"\0{16}\0*\Z", "a file that begins with nothing but zeros (room for a download that never came)"),
    )
)
PLAIN = "Ask its author for safetensors, or for a file written by torch.save(model.state_dict(), path)."

# How a description begins -> what to do.
REMEDIES = {
    "a Git-LFS pointer": "Run `git lfs pull` in the repository it came from, or download the file from its web page.",
    "an HTML": "Download the file itself (on the hub: the `resolve` address, not the `blob` page).",
    "an empty": DOWNLOAD_AGAIN,
    "a tar": "Unpack it and give the folder. If torch before 0.1.10 wrote it, and you trust it: "
    "torch.save(torch.load(old, weights_only=False), new).",
    "a gzip": "Unpack it first.",
    "a compressed": "Unpack it first.",
    "a single": "Put the arrays into one file with their names: numpy.savez(path, **arrays).",
    "a GGUF": "Load the safetensors or .bin file of the same model: GGUF renames, permutes and quantises weights.",
    "a TensorFlow": "Give its variables, the folder `variables` beside it.",
    "an ONNX": "Load the safetensors or .bin file that it was exported from.",
    "a bare": PLAIN,
    "a msgpack": "Load the safetensors or .bin file of the same model, or convert it: transformers 4 reads it with "
    "from_pretrained(folder, from_flax=True).",
    "a file that begins": DOWNLOAD_AGAIN,
    "an unfinished": "Finish the download, or delete it and download the file again.",
    "a JSON": "Give the weights file itself, or the folder.",
    "the data": "Give its index (the file beside it that ends with .index), or what their names begin with.",
    "a text": "Give the weights file itself, or the folder; if it was meant to be the weights, download it again.",
}


def what_is_it(head: bytes, size: int) -> str:
    """What a file is by its first bytes: a key of the containers ("safetensors", "zip", "stream") or a description.

    A description contains a space, a key does not.

    Args:
        head: the first 512 bytes, or the whole file if it is shorter.
        size: of the whole file, in bytes.
    """
    if size == 0:
        return "an empty file"
    # First, because its first four bytes (the length of the header) may look like the beginning of anything.
    if head[8:9] == b"{" and head[4:8] == b"\0\0\0\0":
        return "safetensors"
    for pattern, kind in KINDS:
        if pattern.match(head):
            return kind
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "an HTML or XML page (a download that went to a web page)"
    if not _is_text(head, cut=size > len(head)):
        return "a file of unknown kind"
    return "a JSON file" if JSON_START.match(head) else "a text file"


# A brace or bracket alone is not enough: many vocabularies begin with the line [PAD].
JSON_START = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:\{\s*(?:\"|\}\s*\Z)|\[\s*(?:[\[\]{\"\d-]|true|false|null))")


def _is_text(head: bytes, *, cut: bool) -> bool:
    """Whether `head` is UTF-8 without control characters; `cut`: its last character may be incomplete."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head, final=not cut)
    except UnicodeDecodeError:
        return False
    return all((char >= " " and char != "\x7f") or char in "\t\r\n" for char in text)


def unfinished(path: Path) -> bool:
    """Whether a program that downloads gave the file this name until it is whole."""
    return path.suffix.lower() in UNFINISHED


def not_weights(
    path: Path, kind: str, expected: str = "weights (safetensors, torch.save, HDF5, .npz or TensorFlow)"
) -> WeightsError:
    """The error for a file that is something else altogether; `kind` is a description of `what_is_it`."""
    remedy = next((text for start, text in REMEDIES.items() if kind.startswith(start)), DOWNLOAD_AGAIN)
    return problem(path, f"this is {kind}", expected=expected, remedy=remedy)
