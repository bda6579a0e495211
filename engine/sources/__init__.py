"""Where instances come from: list a source into a plan, and read one of its members.

    /archive                            a folder tree; any file name may be an instance
    /archive.zip  .tar  .tar.gz  .tgz   an archive; one that lies in a tree is looked into, too
    /medium/DICOMDIR                    the files that it lists
    s3://bucket/prefix                  an object store
    dicomweb+https://host/path          a DICOMweb server

A member is known by its path in the plan: ``a/b.dcm``, ``a/b.zip!/member``, ``studies/.../instances/...``.
Nothing is unpacked to a disk, no link is followed below the root, and no path leads out of a source.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

import pyarrow as pa

from engine.errors import EngineError, SourceReadError, StorageError, UsageError
from engine.sources.apart import Bounds, list_apart
from engine.sources.archives import is_archive, reason
from engine.sources.gzipped import SUFFIX
from engine.sources.limits import PARSER_ERRORS, ArchiveLimits
from engine.sources.listing import Entry, OnProgress, listed, planned, together
from engine.sources.names import DICOMWEB
from engine.sources.store_s3 import SCHEME, S3Store
from engine.sources.tree import Folder, LoneArchive, Tree
from engine.store import passed_over

FORMS = (
    "Folder of DICOM files, nested at will, any file names, ZIP and TAR files among them; or a .zip, .tar "
    "or .tar.gz; a DICOMDIR; s3://bucket/prefix; dicomweb+http(s)://host/path, filtered by "
    "?StudyDate=FROM-TO or ModalitiesInStudy=DX. Keys come from AWS_* and "
    "OSTEORAY_DICOMWEB_TOKEN (or _USER and _PASSWORD)."
)
"""What the help says of SOURCE."""

DICOM_SUFFIXES = (".dcm", ".dicom", ".dic", ".ima")
_MAX_BYTES = ArchiveLimits().member_bytes
_META_BYTES = 64 << 10
_OPEN = 4


class Source(Protocol):
    """One place to read from. Its methods may raise OSError, which becomes a typed error here."""

    def entries(self) -> Iterator[Entry | None]:
        """All members in any order; None tells that it is still at work."""

    def read(self, path: str, max_bytes: int, first: int | None) -> bytes:
        """The bytes of one member, or its ``first`` ones."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of source: how it is told from others, how it is opened, and whether it lies on a disk here."""

    name: str
    fits: Callable[[str], bool]
    open: Callable[[str], Source]
    is_local: bool = True
    is_dicom: bool = False
    """Whether every member is said to be a DICOM instance."""


# What few sources need is imported when one of them comes: a process that lists must start quickly.
def _is_dicomdir(source: str) -> bool:
    if not Path(source).is_file():
        return False
    from engine.dicom.dicomdir import is_directory

    try:
        with open(source, "rb") as stream:
            return is_directory(stream.read(_META_BYTES))
    except (OSError, ValueError, EngineError):
        return False


def _dicomdir(source: str) -> Source:
    from engine.sources.dicomdir import DicomDir

    return DicomDir(source)


def _dicomweb(source: str) -> Source:
    from engine.sources.dicomweb import DicomWeb

    return DicomWeb(source)


SOURCES: tuple[Kind, ...] = (
    Kind("dicomweb", lambda source: source.startswith(DICOMWEB), _dicomweb, is_local=False, is_dicom=True),
    Kind(
        "s3", lambda source: source.startswith(SCHEME), lambda source: Tree(S3Store(source)), is_local=False
    ),
    Kind("folder", lambda source: Path(source).is_dir(), lambda source: Tree(Folder(source))),
    Kind("archive", lambda source: is_archive(source) and Path(source).is_file(), LoneArchive),
    Kind("dicomdir", _is_dicomdir, _dicomdir, is_dicom=True),
)
"""One line for each kind; the first that fits is taken."""


def plan(
    source: str, shard_size: int | None = None, on_progress: OnProgress | None = None,
    series_of: Callable[[pa.Table], pa.Table] | None = None, *, apart: bool = False,
) -> pa.Table:  # fmt: skip
    """The plan (``schema.PLAN``) of a source: every member, sorted by path, cut in shards.

    Without a ``shard_size`` it follows from the number of members (``listing.fitting_shard_size``).

    ``on_progress`` is told from time to time how many members were listed. ``size_bytes`` is -1 where the
    source does not say it. ``series_of`` fills the column ``series`` of the listing: a series then lies in
    one shard, its members next to each other. ``apart``: it is listed in a bounded process of its own
    (``engine.sources.apart``), as verbs do. The plan notes what was passed over (``store.passed_over``).

    Raises:
        UsageError: there is no such source, or it holds no member.
        StorageError: it cannot be reached.
        IsolationError: the process that lists it cannot be started, or ends at nothing in particular.
    """
    kind = _kind(source)
    if apart:
        table = list_apart(source, on_progress, Bounds(is_local=kind.is_local))
    else:
        table = listed(entries(source), on_progress)
        table = passed_over.noted(table, counted(source))
    counts = passed_over.of(table.schema)
    if not table.num_rows:
        beside = "".join(f", {count} {kind}" for kind, count in counts.items())
        raise UsageError(f"{source} holds no files{beside}: nothing to do")
    plan = planned(together(series_of(table)) if series_of else table, shard_size)
    return passed_over.noted(plan, counts)


def entries(
    source: str, tell: Callable[[str], None] | None = None, broken: Collection[str] = ()
) -> Iterator[Entry | None]:
    """The members of a source as they are found; None tells that it is still at work.

    ``tell`` is told each archive before it is opened; those that are ``broken`` are not opened.

    Raises:
        UsageError, StorageError: see ``plan``.
    """
    kind = _kind(source)
    opened = _open(source)
    if isinstance(opened, Tree):
        opened.tell, opened.broken = tell, frozenset(broken)
    try:
        yield from opened.entries()
    except OSError as error:
        if not kind.is_local:
            raise StorageError(f"{source} cannot be listed: check address, keys and network") from error
        place = error.filename or source
        raise UsageError(
            f"{place} cannot be listed ({reason(error)}): check its rights and the disk"
        ) from error
    except PARSER_ERRORS as error:
        raise UsageError(f"{source} cannot be listed: it has no sense ({reason(error)})") from error


def counted(source: str) -> Counter[str]:
    """What the last listing of a source passed over, by kind."""
    opened = _open(source)
    return opened.passed_over if isinstance(opened, Tree) else Counter()


def read(source: str, path: str, *, max_bytes: int | None = None) -> bytes:
    """The bytes of member ``path``, a path as the plan has it.

    Raises:
        OverLimitError: the member has more than ``max_bytes``; nothing of it is kept.
        SourceReadError: the member cannot be read, is no regular file, or would lie outside the source.
    """
    return _read(source, path, _MAX_BYTES if max_bytes is None else max_bytes, None)


def head(source: str, path: str, count: int) -> bytes:
    """The first ``count`` bytes of member ``path``, all of them where it has fewer.

    Raises:
        OverLimitError, SourceReadError: as ``read``.
    """
    return _read(source, path, _MAX_BYTES, count)


def promises_dicom(source: str, path: str) -> bool:
    """Whether the source or the name of member ``path`` says that it is a DICOM instance."""
    name = PurePosixPath(path.lower().removesuffix(SUFFIX)).name
    if name.endswith(DICOM_SUFFIXES) and not name.startswith("._"):  # macOS keeps notes on a file so
        return True
    return any(kind.fits(source) for kind in SOURCES if kind.is_dicom)


def identity(source: str) -> str:
    """The source as a manifest states it: the whole path, or the address."""
    return str(Path(source).resolve()) if is_local(source) else source


def local_root(source: str) -> Path | None:
    """The folder or archive on this machine that a job must not write into; None for a server.

    Raises:
        UsageError: there is no such source.
    """
    if not _kind(source).is_local:
        return None
    path = Path(source).resolve()
    return path if path.is_dir() or is_archive(source) else path.parent


def release() -> None:
    """Close connections and forget indexes of archives; the next call opens them again."""
    for opened in _OPENED:
        if close := getattr(opened, "close", None):
            close()
    _OPENED.clear()
    _open.cache_clear()


_OPENED: list[Source] = []


@functools.lru_cache(maxsize=_OPEN)
def _open(source: str) -> Source:
    opened = _kind(source).open(source)
    _OPENED.append(opened)
    return opened


def _read(source: str, path: str, max_bytes: int, first: int | None) -> bytes:
    try:
        return _open(source).read(path, max_bytes, first)
    except OSError as error:
        raise SourceReadError(
            f"the file cannot be read ({reason(error)}): check its rights and the disk"
        ) from error
    except PARSER_ERRORS as error:
        raise SourceReadError(
            f"the file cannot be taken out of its source ({type(error).__name__})"
        ) from error
    except UsageError as error:
        raise SourceReadError("the source is gone or has become another one: plan it again") from error


def is_local(source: str) -> bool:
    """Whether it lies on a disk here: no network is needed to read it."""
    return next((kind.is_local for kind in SOURCES if kind.fits(source)), "://" not in source)


def _kind(source: str) -> Kind:
    try:
        for kind in SOURCES:
            if kind.fits(source):
                return kind
    except OSError as error:  # a path that is too long
        raise UsageError(f"SOURCE cannot be looked at ({reason(error)}): give another path") from error
    if "://" in source:
        raise UsageError("an address begins with s3://, dicomweb+http:// or dicomweb+https://")
    if Path(source).is_file():
        raise UsageError(
            f"{source} is no folder, no .zip, .tar or .tar.gz, and no DICOMDIR: give one of those"
        )
    raise UsageError(f"there is no folder or file {source}: give the folder that holds the DICOM files")
