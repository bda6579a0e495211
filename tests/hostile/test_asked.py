"""An instance that is not the one asked for is refused, in every way that its UID may be written."""

from __future__ import annotations

import pytest

from engine.errors import SourceReadError
from engine.sources.asked import is_of
from tests.fixtures.dicom_fixture import DEFLATED, EXPLICIT, image, picture
from tests.fixtures.source_fixture import instance
from tests.sources.test_sources_web import KIND, client, serving

IMPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
PATH = "studies/1.2.1/series/1.2.1.1/instances/1.2.1.1.7"


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, DEFLATED, BIG_ENDIAN])
def test_its_uid_is_found_however_it_is_written(syntax: str) -> None:
    data = image(picture((8, 8)), syntax=syntax, SOPInstanceUID="1.2.3.45")
    assert is_of(data, "1.2.3.45")
    assert not is_of(data, "1.2.3.4")
    assert is_of(b"no DICOM", "1.2.3.4")  # that is told when it is parsed


@pytest.mark.parametrize("first", [None, 4096])
@pytest.mark.parametrize("number", [7, 8])
def test_another_instance_is_refused(number: int, first: int | None) -> None:
    body = b"--b1\r\nContent-Type: application/dicom\r\n\r\n" + instance(number) + b"\r\n--b1--"
    with serving(lambda *_: (200, {"Content-Type": KIND}, body)) as source, client(source) as web:
        if number == 7:
            assert web.read(PATH, 1 << 20, first)
        else:
            with pytest.raises(SourceReadError, match="another instance"):
                web.read(PATH, 1 << 20, first)
