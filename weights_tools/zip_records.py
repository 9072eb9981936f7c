"""A zip archive whose directory has been checked, for the two containers that are zip archives (torch.save's, .npz).

Format: PKWARE's APPNOTE.TXT. Python's zipfile reads it; what it would believe is compared with the file before.
"""

from __future__ import annotations

import struct
import zipfile
import zlib

from weights_tools.common import DOWNLOAD_AGAIN, UnchangedFile, WeightsError, problem, read_exactly, shown

MAX_DIRECTORY_BYTES = 8_000_000  # some 70,000 records

END_OF_ZIP = b"PK\x05\x06\0\0\0\0"  # one archive, on one disk
END_OF_ZIP64 = b"PK\x06\x06"

# What zipfile and zlib raise for archives that are not as they should be (NotImplementedError is a RuntimeError).
DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    ValueError,
    RuntimeError,
    OverflowError,
    struct.error,
)


def _broken(source: UnchangedFile, found: str, expected: str, remedy: str = DOWNLOAD_AGAIN) -> WeightsError:
    return problem(source.path, found, expected=expected, remedy=remedy)


def open_archive(source: UnchangedFile) -> zipfile.ZipFile:
    """The archive that begins with the first byte of the file and ends with its last, its directory complete.

    Raises:
        WeightsError: anything before, behind or between; a directory that is damaged, too long or claims another number
            of records than it has.
    """
    size = source.size
    tail = bytearray(min(22 + 20 + 56, size))
    read_exactly(source.file, size - len(tail), memoryview(tail), source.path)
    end = tail[-22:]
    # Exactly one directory, exactly at the end, so that no two programs (Python's reader examines an archive that
    # torch's loads) see different archives in one file.
    if len(end) < 22 or not end.startswith(END_OF_ZIP) or end[20:22] != b"\0\0":
        raise _broken(source, "the archive's directory is not at its end", "a whole zip archive")
    directory = int.from_bytes(end[12:16], "little")
    if tail.startswith(END_OF_ZIP64):
        directory = max(directory % 0xFFFFFFFF, int.from_bytes(tail[40:48], "little"))
    if directory > MAX_DIRECTORY_BYTES:
        raise _broken(source, f"its directory claims {directory} bytes", f"at most {MAX_DIRECTORY_BYTES}")
    source.file.seek(0)
    try:
        archive = zipfile.ZipFile(source.file)
    except DAMAGE as error:
        raise _broken(source, f"the archive is damaged ({error})", "a whole zip archive") from None
    claimed, found = int.from_bytes(end[10:12], "little"), len(archive.infolist())
    if claimed not in (found, 65535):
        raise _broken(source, f"its directory claims {claimed} records and has {found}", "as many")
    return archive


def checked_records(archive: zipfile.ZipFile, source: UnchangedFile, methods: dict[int, str]) -> list[zipfile.ZipInfo]:
    """The records in the order of their places: each name once, none overlapping another or the directory.

    Args:
        archive: what `open_archive` gave.
        source: its file.
        methods: the methods of compression that are right, and their names.

    Raises:
        WeightsError: as said; also encrypted records, other methods, and sizes that contradict each other.
    """
    ordered = sorted(archive.infolist(), key=lambda record: record.header_offset)
    if ordered and ordered[0].header_offset != 0:
        raise _broken(source, "the archive begins inside the file", "an archive from the first byte on")
    seen: set[str] = set()
    here = 0
    for record in ordered:
        name = record.filename
        # torch's reader ignores case, so names that differ in case only are the same record to it.
        if name != record.orig_filename:  # zipfile cuts a name at a null character
            raise _broken(source, f"a record is named {shown(record.orig_filename)}", "a plain name")
        if name.lower() in seen:
            raise _broken(source, f"record {shown(name)} occurs more than once", "every record once")
        seen.add(name.lower())
        if record.flag_bits & 1 or record.compress_type not in methods:
            fault = "encrypted" if record.flag_bits & 1 else f"compressed by method {record.compress_type}"
            remedy = "If you trust it, load it with the program that wrote it and save it again, uncompressed."
            raise _broken(source, f"record {shown(name)} is {fault}", " or ".join(methods.values()), remedy)
        if record.compress_type == zipfile.ZIP_STORED and record.file_size != record.compress_size:
            found = f"record {shown(name)} claims {record.file_size} bytes and stores {record.compress_size}"
            raise _broken(source, found, "equal sizes")
        if record.header_offset < here:
            raise _broken(source, f"record {shown(name)} overlaps the one before it", "records one after another")
        here = record.header_offset + 30 + len(name) + record.compress_size
    if here > archive.start_dir:
        raise _broken(source, "the records are longer than the file", "records before the directory")
    return ordered
