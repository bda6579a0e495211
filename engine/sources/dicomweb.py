"""A DICOMweb server as the source (PS3.18): QIDO-RS lists studies, then their instances; WADO-RS reads one.

    dicomweb+https://pacs.hospital/dicom-web?StudyDate=20200101-20241231&ModalitiesInStudy=DX

Credentials come from the environment alone: OSTEORAY_DICOMWEB_TOKEN, or OSTEORAY_DICOMWEB_USER and _PASSWORD.

Many servers hand out no more than so many results. Where ``offset`` leads on, all are read page by page.
Where it is not heeded, the question is split: studies by days, then by minutes, instances by series. An
answer shorter than the longest one is whole, whatever the cap may be; what cannot be shown to be whole ends
as an error, or as a row of the plan that is quarantined. Nothing is missed in silence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import date, timedelta
from itertools import islice
from typing import Any
from urllib.parse import parse_qsl

import pyarrow as pa
import pyarrow.compute as pc

from engine.errors import (
    OverLimitError,
    SourceReadError,
    StorageError,
    UsageError,
)
from engine.sources import names
from engine.sources.asked import is_of
from engine.sources.listing import Entry
from engine.sources.multipart import OVERHEAD_BYTES, single_part
from engine.sources.names import absent
from engine.sources.web import CONNECTIONS, Patience, Server, TooManyResultsError, address_of

SCHEMES = names.DICOMWEB
FILTERS = ("StudyDate", "ModalitiesInStudy", "StudyInstanceUID")
"""What may follow the ``?``. Nothing that names a patient: the source is written into the manifest."""

_PAGE = 500
_FIRST_DAY, _LAST_DAY = date(1900, 1, 1), date(2099, 12, 31)
_STUDY, _SERIES, _INSTANCE = "0020000D", "0020000E", "00080018"
_UID = re.compile(r"[0-9.]{1,64}")
_PATH = re.compile(r"studies/[0-9.]{1,64}/series/[0-9.]{1,64}/instances/[0-9.]{1,64}")
_DATES = re.compile(r"(\d{8})?(-(\d{8})?)?")
_UNKNOWN_SIZE = -1
_LEAST_CAP = 10  # no server hands out fewer results than that; so short an answer is whole
_MOST_SHORT = 1000
"""Answers below that, of one search: more of them come from a server that makes them up."""
_MOST_STUDIES = 20_000_000
_COUNT = re.compile(r"[0-9]{1,9}", re.ASCII)
_LAST_MINUTE = 24 * 60 - 1
_NUM_IN_SERIES = "00201209"
_UNDATED, _CUT_SERIES = "studies/without-date", "not-all-listed"
_NOT_LISTED = "not-listed"
"""Members that a server may have and does not list: planned, and refused when they are read."""
_WITHOUT_UID = "without-uid"
_UNLISTED = {
    _UNDATED: "studies without a date or time may be missing: this server lists no more than so many and "
    "knows no offset; name their StudyInstanceUID, or leave them out by a StudyDate",
    _CUT_SERIES: "instances of a series may be missing: this server lists no more than so many and knows no "
    "offset; ask its keeper for a higher limit",
    _NOT_LISTED: "the server did not list the instances of this study: when it does, give the same command "
    "with --incremental",
}
_DOWN_AFTER = 8
"""Studies in a row that the server fails to list: it is down, and the listing ends."""

Window = tuple[date, date]
Minutes = tuple[int, int]
Found = list[dict[str, Any]]


class DicomWeb:
    """One server, and what of it is wanted."""

    def __init__(self, source: str, patience: Patience | None = None) -> None:
        """Ask nothing yet.

        Raises:
            UsageError: the address holds credentials, or a filter that is none of FILTERS.
        """
        address = address_of(source)
        self._filters = dict(parse_qsl(address.query, keep_blank_values=True))
        if not set(self._filters) <= set(FILTERS):
            raise UsageError(f"a DICOMweb address is filtered by {', '.join(FILTERS)} and by nothing else")
        self._dates = _dates(self._filters.get("StudyDate", ""))
        self._server = Server(address, patience)
        self._longest: dict[str, int] = {}
        self._has_unlisted = False
        self._unnamed = 0
        """Listed studies whose UID is none."""

    def close(self) -> None:
        """End the connections."""
        self._server.close()

    def entries(self) -> Iterator[Entry | None]:
        """Every instance once, with its series. A study that cannot be listed is a member of its own.

        None stands for each page of studies before that.

        Raises:
            StorageError, UsageError: the server cannot be searched, or lists none of its studies.
        """
        self._unnamed = 0
        listing = _Studies()
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            waiting: list[tuple[str, Future[list[Entry]]]] = []
            found: list[str] = []
            for study in self._studies():
                if study is None:
                    yield None
                else:
                    found.append(study)
            studies = iter(found)
            try:
                while True:
                    waiting += [
                        (study, pool.submit(self._instances, study))
                        for study in islice(studies, 2 * CONNECTIONS - len(waiting))
                    ]
                    if not waiting:
                        break
                    yield from listing.entries(*waiting.pop(0))
                listing.require_any()
                if self._has_unlisted:
                    yield Entry(_UNDATED, _UNKNOWN_SIZE)
                for number in range(self._unnamed):
                    yield Entry(f"studies/{_WITHOUT_UID}-{number}", _UNKNOWN_SIZE)
            finally:
                for _, future in waiting:
                    future.cancel()

    def read(self, path: str, max_bytes: int, first: int | None) -> bytes:
        """The Part 10 file of an instance as the server stores it, or its ``first`` bytes.

        Raises:
            OverLimitError, SourceReadError.
        """
        unlisted = next((why for end, why in _UNLISTED.items() if path.endswith(end)), None)
        if unlisted:
            raise SourceReadError(unlisted)
        if _WITHOUT_UID in path:
            raise SourceReadError(
                "the server lists it without a sound UID, so nobody can ask for it: mend it there"
            )
        if not _PATH.fullmatch(path):
            raise absent(path)
        wanted = max_bytes if first is None else min(first, max_bytes)
        answer = self._server.retrieve(path, wanted + OVERHEAD_BYTES, is_prefix=first is not None)
        is_whole = len(answer.body) <= wanted + OVERHEAD_BYTES
        data = single_part(answer.body, answer.content_type, is_whole=is_whole)
        if not is_of(data, path.rpartition("/")[2]):
            raise SourceReadError("the server hands over another instance than the one asked for")
        if first is None and len(data) > max_bytes:
            raise OverLimitError(f"the instance has {len(data)} bytes, the cap is {max_bytes}")
        return data if first is None else data[:first]

    def _studies(self) -> Iterator[str | None]:
        """UIDs of the studies, each once; windows of dates may overlap, and archives change between pages.

        Raises:
            StorageError, UsageError: the server cannot be searched, or lists without end.
        """
        pieces: list[pa.Array] = []
        count = 0
        for found in self._in_window(None):
            uids = [_uid(item, _STUDY) for item in found]
            pieces.append(pa.array([uid for uid in uids if uid], pa.string()))
            self._unnamed += uids.count("")
            count += len(found)
            yield None
            if count > _MOST_STUDIES:
                raise UsageError(
                    f"the server lists more than {_MOST_STUDIES:,} studies: narrow the StudyDate"
                )
        for uid in pc.unique(pa.chunked_array(pieces, pa.string())):
            yield uid.as_py()

    def _in_window(self, window: Window | None) -> Iterator[Found]:
        """Pages of studies; where the server hands out no more of them, those of each half of the time.

        Raises:
            StorageError: it does not hand out all studies of one minute.
        """
        query: dict[str, str | int] = dict(self._filters)
        if window:
            query["StudyDate"] = f"{window[0]:%Y%m%d}-{window[1]:%Y%m%d}"
        try:
            yield from self._pages("studies", query)
        except TooManyResultsError:
            first, last = window or self._dates
            if window is None and "StudyDate" not in self._filters:
                self._has_unlisted = True  # windows find no study without a date
            if first >= last:
                self._has_unlisted = True
                yield from self._in_minutes({**query, "StudyDate": f"{first:%Y%m%d}"}, (0, _LAST_MINUTE))
                return
            middle = first + (last - first) // 2
            yield from self._in_window((first, middle))
            yield from self._in_window((middle + timedelta(days=1), last))

    def _in_minutes(self, query: dict[str, str | int], minutes: Minutes) -> Iterator[Found]:
        """Pages of the studies of a part of one day.

        Raises:
            StorageError: the server does not hand out all studies of one minute.
        """
        first, last = minutes
        between = f"{first // 60:02d}{first % 60:02d}00-{last // 60:02d}{last % 60:02d}59"
        try:
            yield from self._pages("studies", {**query, "StudyTime": between})
        except TooManyResultsError as error:
            if first == last:
                raise StorageError(
                    "the DICOMweb server does not hand out all studies of one minute: "
                    "narrow the search by StudyDate or ModalitiesInStudy"
                ) from error
            middle = (first + last) // 2
            yield from self._in_minutes(query, (first, middle))
            yield from self._in_minutes(query, (middle + 1, last))

    def _instances(self, study: str) -> list[Entry]:
        try:
            pages = list(self._pages(f"studies/{study}/instances", {"includefield": _SERIES}))
            return _entries(study, pages)
        except (TooManyResultsError, UsageError):  # some servers only know the instances of a series
            return self._by_series(study)

    def _by_series(self, study: str) -> list[Entry]:
        """Instances of each series.

        Raises:
            StorageError: the server does not hand out all series of one study.
        """
        try:
            pages = list(self._pages(f"studies/{study}/series", {"includefield": _NUM_IN_SERIES}))
        except TooManyResultsError as error:
            raise StorageError("the DICOMweb server does not hand out all series of one study") from error
        entries = []
        for number, item in enumerate(item for page in pages for item in page):
            series = _uid(item, _SERIES)
            if series:
                count = str(_value(item, _NUM_IN_SERIES)).strip()
                entries += self._in_series(study, series, int(count) if _COUNT.fullmatch(count) else None)
            else:
                entries.append(Entry(f"studies/{study}/series/{_WITHOUT_UID}-{number}", _UNKNOWN_SIZE))
        return entries

    def _in_series(self, study: str, series: str, stated: int | None) -> list[Entry]:
        """Instances of one series, and a member that stands for the rest where not all may be listed."""
        path = f"studies/{study}/series/{series}"
        pages: list[Found] = []
        rest: list[Entry] = []
        try:
            for page in self._pages(f"{path}/instances", {}):
                pages.append(page)
        except TooManyResultsError:
            rest = [Entry(f"{path}/{_CUT_SERIES}", _UNKNOWN_SIZE, series)]
        entries = _entries(study, pages, series)
        return entries if stated is not None and len(entries) >= stated else [*entries, *rest]

    def _may_be_cut(self, path: str, count: int) -> bool:
        """Whether an answer is as long as the longest one of its kind: then it may be the server's cap."""
        kind = path.rsplit("/", 1)[-1]
        is_longest = count >= self._longest.get(kind, _LEAST_CAP)
        if is_longest:
            self._longest[kind] = count
        return is_longest

    def _pages(self, path: str, query: dict[str, str | int]) -> Iterator[Found]:
        """Answers until one is empty. A server may give less than it is asked for, so that ends nothing.

        Raises:
            TooManyResultsError: there is or may be more, and the server knows no offset or refuses.
        """
        offset, first, short = 0, None, 0
        while True:
            found, is_cut = self._server.search(path, {**query, "limit": _PAGE, "offset": offset})
            if not found:
                return
            if found[0] == first:  # the offset was not heeded
                if is_cut or len(found) >= _PAGE or self._may_be_cut(path, len(found)):
                    raise TooManyResultsError
                return
            first = found[0] if first is None else first
            short += len(found) < _LEAST_CAP
            if short > _MOST_SHORT or offset > _MOST_STUDIES:
                raise UsageError(
                    "the address answers a search without end, as no DICOMweb server does: check it"
                )
            yield found
            offset += len(found)


class _Studies:
    """The studies of a server, each ended: listed, or failed at the cost of that study alone."""

    def __init__(self) -> None:
        self._is_any_listed = False
        self._last: StorageError | UsageError | None = None
        self._in_a_row = 0

    def entries(self, study: str, future: Future[list[Entry]]) -> list[Entry]:
        """The instances of a study, or one member that stands for them.

        Raises:
            StorageError: the server is down.
        """
        found: list[Entry] = []
        try:
            found = future.result()
        except (StorageError, UsageError) as error:
            self._last = error
            self._in_a_row += isinstance(error, StorageError)
            if self._in_a_row >= _DOWN_AFTER:
                raise
        else:
            self._is_any_listed, self._in_a_row = True, 0
        return found or [Entry(f"studies/{study}/{_NOT_LISTED}", _UNKNOWN_SIZE)]

    def require_any(self) -> None:
        """Nothing, where there is no study or one was listed.

        Raises:
            StorageError, UsageError: that of the last study.
        """
        if self._last and not self._is_any_listed:
            raise self._last


def _entries(study: str, pages: Iterable[Found], series: str = "") -> list[Entry]:
    """The instances of a study, each once; one without a sound UID is planned too, and refused when read."""
    paths: dict[str, str] = {}
    for number, item in enumerate(item for page in pages for item in page):
        within, uid = series or _uid(item, _SERIES), _uid(item, _INSTANCE)
        path = (
            f"studies/{study}/series/{within}/instances/{uid}"
            if within and uid
            else f"studies/{study}/{_WITHOUT_UID}-{number}"
        )
        paths[path] = within
    return [Entry(path, _UNKNOWN_SIZE, within) for path, within in paths.items()]


def _value(item: dict[str, Any], tag: str) -> Any:
    """The first value of an element of DICOM JSON (PS3.18 F.2); None where there is none.

    Some servers write tags in lower case.
    """
    element = next((item[name] for name in item if name.upper() == tag), None)
    values = element.get("Value") if isinstance(element, dict) else None
    return values[0] if isinstance(values, list) and values else values


def _uid(item: dict[str, Any], tag: str) -> str:
    """The UID in an element, without padding (PS3.5 6.2, 9.4); empty where there is no sound one."""
    value = _value(item, tag)
    uid = value.strip(" \0") if isinstance(value, str) else ""
    return uid if _UID.fullmatch(uid) else ""


def _dates(text: str) -> Window:
    """First and last day of a StudyDate filter.

    Raises:
        UsageError: it is none.
    """
    match = _DATES.fullmatch(text)
    if not match:
        raise UsageError("StudyDate is 20240131, or 20240101-20241231 where one end may be missing")
    begin, is_range, end = match.groups()
    try:
        first = date.fromisoformat(begin) if begin else _FIRST_DAY
        if end:
            return first, date.fromisoformat(end)
        return first, _LAST_DAY if is_range or not begin else first
    except ValueError as error:
        raise UsageError("StudyDate names a day that does not exist") from error
