"""What the pickle inside a torch.save file says, found out without executing any of it.

A pickle is a program for a small stack machine. The machine below knows only the instructions that torch's restricted
unpickler knows, calls nothing, imports nothing, and turns each tensor into a `TensorFact`. So shapes are known before
any data is read, and the sizes that the pickle claims are compared with the bytes that are really there *before* torch
allocates or touches memory. (torch itself trusts these claims: a record that is too short is read beyond its end.)

Instructions: the `pickletools` module of Python's library documents each one.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from weights_tools.common import WeightsError, problem, shown

DTYPES: dict[str, torch.dtype] = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}
TORCH_DTYPES = {
    name: value for name, value in vars(torch).items() if isinstance(value, torch.dtype) and "q" not in name
}

MAX_DIMENSIONS = 64  # torch's own limit
PLAIN_REMEDY = "Ask its author for safetensors, or for a file written by torch.save(model.state_dict(), path)."


@dataclass(frozen=True)
class Global:
    """A name that the pickle imports: never looked up, only compared."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True)
class StorageFact:
    """A block of bytes outside the pickle; `numel` counts elements of `dtype` (None: bytes)."""

    key: str
    dtype: torch.dtype | None
    numel: int

    @property
    def nbytes(self) -> int:
        return self.numel * (self.dtype.itemsize if self.dtype is not None else 1)


@dataclass(frozen=True)
class TensorFact:
    """A dense tensor: a window of `shape` and `stride` (elements) into a storage, from element `offset` on."""

    storage: StorageFact
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        count = self.dtype.itemsize
        for size in self.shape:
            count *= size
        return count


class Other:
    """Any value that is no tensor and no container."""


MARK = object()
CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
VALUES = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING"}


class PickleFacts:
    """Runs one pickle from `stream`, which stands behind its last byte afterwards.

    `storages` maps each key to what the pickle says of it; `root` is the value: dicts, lists and tuples of plain values
    and `TensorFact`.

    Raises:
        WeightsError: an instruction or an import that plain weights do not need, sizes that cannot be, doubled keys.
    """

    def __init__(self, stream: BinaryIO, file: Path) -> None:
        self.file = file
        self.storages: dict[str, StorageFact] = {}
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        try:
            for opcode, argument, _ in pickletools.genops(stream):
                self._step(opcode.name, argument)
        except WeightsError:
            raise
        except (ValueError, IndexError, KeyError, TypeError, AttributeError, EOFError, OverflowError) as error:
            raise self._refuse(f"the pickle is malformed ({shown(str(error))})", "a whole one") from None
        self.root = self._stack.pop()

    def _refuse(self, found: str, expected: str) -> WeightsError:
        return problem(self.file, found, expected=expected, remedy="Nothing was executed. " + PLAIN_REMEDY)

    def _step(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in VALUES:
            stack.append(argument)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif name in ("MARK", "EMPTY_DICT", "EMPTY_LIST", "EMPTY_SET"):
            stack.append({"MARK": MARK, "EMPTY_DICT": {}, "EMPTY_LIST": [], "EMPTY_SET": Other()}[name])
        elif name == "GLOBAL":
            stack.append(self._import(argument))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            if len(stack) < count or MARK in stack[-count:]:
                raise IndexError("tuple from too few values")
            stack[-count:] = [tuple(stack[-count:])]
        elif name == "TUPLE":
            stack.append(tuple(self._until_mark()))
        elif name in ("APPEND", "APPENDS"):
            values = self._until_mark() if name == "APPENDS" else [stack.pop()]
            self._top(list).extend(values)
        elif name in ("SETITEM", "SETITEMS"):
            values = self._until_mark() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
            self._set(self._top(dict), values)
        elif name == "BINPERSID":
            stack.append(self._storage(stack.pop()))
        elif name == "REDUCE":
            arguments = stack.pop()
            stack.append(self._call(stack.pop(), arguments))
        elif name == "BUILD":
            # The attributes of an OrderedDict (torch keeps version numbers there); on a tensor this would resize it.
            stack.pop()
            self._top(dict)
        elif name == "PROTO":
            if argument > 5:
                raise self._refuse(f"the pickle has the protocol {argument}", "2, as torch.save writes")
        elif name != "STOP":
            raise self._refuse(f"the pickle uses the instruction {name}", "those of plain weights")

    def _top(self, kind: type) -> Any:
        if type(self._stack[-1]) is not kind:
            raise TypeError(f"{kind.__name__} wanted")
        return self._stack[-1]

    def _until_mark(self) -> list[Any]:
        stack = self._stack
        start = len(stack) - 1
        while stack[start] is not MARK:
            start -= 1
            if start < 0:
                raise IndexError("no mark")
        values = stack[start + 1 :]
        del stack[start:]
        return values

    def _set(self, target: dict[Any, Any], values: list[Any]) -> None:
        if len(values) % 2:
            raise IndexError("key without a value")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(key, str | int | float | type(None)):
                raise self._refuse(f"a dictionary key is a {type(key).__name__}", "names")
            if key in target:
                raise self._refuse(f"the name {shown(key)} occurs more than once", "every name once")
            target[key] = value

    def _import(self, argument: str) -> Global:
        module, _, name = argument.partition(" ")
        found = Global(module, name)
        is_storage = module in ("torch", "torch.storage") and (name in DTYPES or name == "UntypedStorage")
        if is_storage or str(found) in CALLS or (module == "torch" and name in TORCH_DTYPES):
            return found
        if name in NOT_DENSE:
            raise self._refuse(f"it holds {NOT_DENSE[name]} ({found})", "dense tensors only")
        if name.endswith("TrainingArguments"):  # training_args.bin, which transformers' Trainer puts beside the weights
            raise self._refuse(f"these are the arguments of a training run ({shown(str(found))})", "weights")
        raise self._refuse(f"the pickle imports {shown(str(found))}", "nothing but tensors and plain containers")

    def _storage(self, identity: Any) -> StorageFact:
        if not isinstance(identity, tuple) or len(identity) not in (5, 6) or identity[0] != "storage":
            raise TypeError("a reference to something that is no storage")
        _, kind, key, _location, numel = identity[:5]
        if len(identity) == 6 and identity[5] is not None:
            raise self._refuse("it holds views of storages as torch before 0.4 wrote them", "whole storages")
        if not isinstance(kind, Global) or not isinstance(key, str) or type(numel) is not int or numel < 0:
            raise TypeError("a malformed reference to a storage")
        if kind.name not in DTYPES and kind.name != "UntypedStorage":
            raise TypeError("a storage of unknown type")
        fact = StorageFact(key, DTYPES.get(kind.name), numel)
        if self.storages.setdefault(key, fact) != fact:
            raise self._refuse(f"storage {shown(key)} is described in two ways", "one type and size")
        return fact

    def _call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            raise TypeError("a call of something that is no function")
        call = CALLS.get(str(function))
        if call is None:
            raise self._refuse(f"the pickle calls {function}", "no calls but those that build tensors")
        return call(self, *arguments)

    def _tensor(self, storage: Any, offset: Any, shape: Any, stride: Any, *rest: Any, dtype: Any = None) -> TensorFact:
        if not isinstance(storage, StorageFact) or not _sizes((offset,)) or not _sizes(shape) or not _sizes(stride):
            raise TypeError("a malformed tensor")
        kind = dtype or storage.dtype
        if kind is None or len(shape) != len(stride):
            raise TypeError("a malformed tensor")
        if len(shape) > MAX_DIMENSIONS:  # the product of very many sizes would take for ever
            raise TypeError(f"a tensor of {len(shape)} dimensions")
        fact = TensorFact(storage, offset, shape, stride, kind)
        if fact.nbytes:
            last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
            available = storage.nbytes // kind.itemsize
            if last >= available or fact.nbytes > storage.nbytes:
                found = f"a tensor of shape {shape}, strides {stride} from element {offset} needs more than its storage"
                raise self._refuse(found, f"at most {available} elements (storage {shown(storage.key)})")
        if fact.nbytes and _overlaps(shape, stride):
            found = f"a tensor of shape {shape} has the strides {stride}, so that its elements overlap"
            raise self._refuse(found, "a place of its own for each element")
        return fact

    def _tensor_with_dtype(self, *arguments: Any) -> TensorFact:
        kind = arguments[6]
        return self._tensor(*arguments[:4], dtype=TORCH_DTYPES[kind.name])

    def _parameter(self, data: Any, *rest: Any) -> TensorFact:
        if not isinstance(data, TensorFact):
            raise TypeError("a parameter that is no tensor")
        return data

    def _ordered_dict(self, *items: Any) -> dict[Any, Any]:
        if items:
            raise TypeError("an OrderedDict built from arguments")
        return {}

    def _other(self, *arguments: Any) -> Other:
        return Other()


CALLS: dict[str, Any] = {
    "collections.OrderedDict": PickleFacts._ordered_dict,
    "torch._utils._rebuild_tensor": PickleFacts._tensor,
    "torch._utils._rebuild_tensor_v2": PickleFacts._tensor,
    "torch._utils._rebuild_tensor_v3": PickleFacts._tensor_with_dtype,
    "torch._utils._rebuild_parameter": PickleFacts._parameter,
    "torch.Size": PickleFacts._other,
    "torch.device": PickleFacts._other,
}

NOT_DENSE = {
    "_rebuild_sparse_tensor": "sparse tensors",
    "_rebuild_sparse_csr_tensor": "sparse tensors",
    "_rebuild_qtensor": "quantised tensors",
    "_rebuild_nested_tensor": "nested tensors",
    "_rebuild_njt": "nested tensors",
    "_rebuild_meta_tensor_no_storage": "tensors without data (meta device)",
    "_rebuild_wrapper_subclass": "tensor subclasses",
    "_rebuild_from_type_v2": "tensor subclasses",
    "_rebuild_device_tensor_from_numpy": "tensors of another device",
    "_rebuild_device_tensor_from_cpu_tensor": "tensors of another device",
}


def _overlaps(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Whether a step along one axis may stay inside what the axes of smaller steps cover."""
    covered = 0
    for step, size in sorted((step, size) for size, step in zip(shape, stride, strict=True) if size > 1):
        if step <= covered:
            return True
        covered += step * (size - 1)
    return False


def _sizes(value: object) -> bool:
    return isinstance(value, tuple) and all(type(item) is int and 0 <= item < 2**62 for item in value)
