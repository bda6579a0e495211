"""What lies beside images: other kinds of file are told by their bytes, what may be a film's rest is not."""

from __future__ import annotations

import gzip
import io
import json
import marshal
import py_compile
import sqlite3
import struct
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine import sources
from engine.dicom import header as elements
from engine.dicom.parse import Limits, parse
from engine.errors import CompanionError, InstanceError, NotDicomError
from engine.imaging.preprocess import View
from engine.ingest.instance import InputRule
from engine.ingest.shard import ReadSpec, read_shard
from engine.tasks.hand_age import HAND_AGE
from tests.fixtures.dicom_fixture import IMPLICIT, image, picture

NOISE = np.random.default_rng(0).bytes(4096)
FILM = image(picture())
RULE = InputRule(sop_classes=HAND_AGE.rule.sop_classes, view=View(size_HW=(16, 16)))


def drawn(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture(bits=8)).save(stream, kind)
    return stream.getvalue()


def nifti(order: str) -> bytes:
    """A NIfTI-1 file: sizeof_hdr, dimensions, ``magic`` at 344, then voxels."""
    head = bytearray(352)
    struct.pack_into(f"{order}i", head, 0, 348)
    struct.pack_into(f"{order}8h", head, 40, 3, 4, 4, 4, 1, 1, 1, 1)
    head[344:348] = b"n+1\0"
    return bytes(head) + bytes(128)


def tarred(data: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        info = tarfile.TarInfo("IM1")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def zipped(*names: str, data: bytes = b"<x/>") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, data)
    return stream.getvalue()


def saved_array() -> bytes:
    stream = io.BytesIO()
    np.save(stream, picture())
    return stream.getvalue()


def database(folder: Path) -> bytes:
    with sqlite3.connect(folder / "x") as opened:
        opened.execute("create table films (uid text)")
    opened.close()
    return (folder / "x").read_bytes()


def compiled(folder: Path) -> bytes:
    (folder / "x.py").write_text("HANDS = 2\n")
    made = py_compile.compile(str(folder / "x.py"), str(folder / "x.pyc"))
    assert marshal.loads(Path(str(made)).read_bytes()[16:])
    return Path(str(made)).read_bytes()


TEXTS: Mapping[str, bytes] = {
    "README": b"Films of 2019, left hands.\n",
    "one_word": b"1.2",
    "json": json.dumps({"00080018": {"vr": "UI", "Value": ["1.2.3"]}}).encode(),
    "csv": b"sop_instance_uid,age_months\r\n1.2.3,120\r\n",
    "mask": b"0,0,0,0,1,0,0,0\n" * 20,
    "xml": b"<?xml version='1.0'?><film/>",
    "html": b"<!DOCTYPE html><p>hand</p>",
    "python": Path(__file__).read_bytes(),
    "shell": b"#!/bin/sh\nexec storescp 11112\n",
    "bom": "\ufeffHände".encode(),
    "utf-16": "Hände\r\n".encode("utf-16"),
    "latin-1": "Aufnahme der linken Hand, Körpergröße unbekannt".encode("latin-1"),
    "shift-jis": ("左手のレントゲン写真\r\n" * 20).encode("shift_jis"),
    "koi8": ("снимок левой кисти\n" * 20).encode("koi8-r"),
    "long": "Größe ".encode() * 200_000,
}
FILES: Mapping[str, bytes] = {
    "png": drawn("PNG"), "jpeg": drawn("JPEG"), "tiff": drawn("TIFF"), "bmp": drawn("BMP"),
    "gif": drawn("GIF"), "webp": drawn("WEBP"), "jp2": drawn("JPEG2000"), "pgm": drawn("PPM"),
    "ico": drawn("ICO"), "pdf": drawn("PDF"), "nifti": nifti("<"), "nifti_big": nifti(">"),
    "xlsx": zipped("[Content_Types].xml", "xl/workbook.xml"), "odt": zipped("mimetype"),
    "npz": zipped("image.npy"), "npy": saved_array(),
    "ds_store": b"\0\0\0\1Bud1\0\0\x10\0" + bytes(200),
    "thumbs_db": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504),
    "apple_double": b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(60),
    "program": Path(sys.executable).resolve().read_bytes()[:4096],
}  # fmt: skip
RESTS: Mapping[str, bytes] = {
    "zeros": bytes(4096),
    "ones": b"\xff" * 4096,
    "pattern": b"\xde\xad\xbe\xef" * 1024,
    "letters": b"U" * 4096,
    "noise": NOISE,
    **{f"noise_{size}": NOISE[-size:] for size in (8, 16, 48, 64, 120, 300, 1000)},
    "pixels": picture().tobytes(),
    "pixels_8": picture((200, 200), bits=8).tobytes(),
    "preamble": bytes(128),
    "zip_of_films": zipped("IM0001"),
    "zip_of_a_stored_film": zipped("IM1", data=FILM),
    "tar_of_a_film": tarred(FILM),
    "parts": b"--b\r\nContent-Type: application/dicom\r\n\r\n" + FILM + b"\r\n--b--",
    "gzip": gzip.compress(FILM),
    "tail": FILM[200:],
    "no_meta": image(picture(), syntax=IMPLICIT)[300:],
    "starts_like_a_bitmap": b"BM" + NOISE,
    "starts_like_a_program": b"MZ" + NOISE,
}


@pytest.mark.parametrize("name", [*TEXTS, *FILES])
def test_another_kind_of_file_is_named(name: str) -> None:
    with pytest.raises(CompanionError, match="^no DICOM file but "):
        parse((TEXTS | FILES)[name], elements.TAGS, Limits())


def test_files_of_this_machine_are_named(tmp_path: Path) -> None:
    for data in (database(tmp_path), compiled(tmp_path)):
        with pytest.raises(CompanionError):
            parse(data, elements.TAGS, Limits())


@pytest.mark.parametrize("name", RESTS)
def test_what_may_be_left_of_a_film_is_not(name: str) -> None:
    with pytest.raises(InstanceError):
        parse(RESTS[name], elements.TAGS, Limits())


def ends(root: Path) -> dict[str, tuple[str, str]]:
    """Path -> (table, reason) of everything in a folder."""
    spec = ReadSpec(source=str(root), folder=root, rules=(RULE,), salt=b"s" * 32)
    tables = read_shard(sources.plan(str(root), 100).to_pylist(), spec)
    return {
        row["path"]: (name, row.get("reason", ""))
        for name, table in tables.items()
        for row in table.to_pylist()
    }


def test_a_cut_film_is_never_another_kind_of_file(tmp_path: Path) -> None:
    for number, film in enumerate((FILM, FILM[132:], FILM[FILM.index(b"\x08\0\x16\0") :])):
        for cut in (1, 60, 127, 140, 200, 400, len(film) - 1):
            (tmp_path / f"{number}-{cut}").write_bytes(film[:cut])
    assert {table for table, _ in ends(tmp_path).values()} == {"quarantine"}


def test_an_ordinary_folder_has_nothing_in_quarantine(tmp_path: Path) -> None:
    (tmp_path / "film").write_bytes(FILM)
    (tmp_path / "README.txt").write_bytes(FILM.replace(b"1.2.3.4\0", b"1.2.3.5\0"))  # the name says nothing
    (tmp_path / "volume.nii.gz").write_bytes(gzip.compress(nifti("<")))
    (tmp_path / "._film.dcm").write_bytes(FILES["apple_double"])
    for name, data in (TEXTS | FILES).items():
        (tmp_path / name).write_bytes(data)
    found = ends(tmp_path)
    assert {path for path, (table, _) in found.items() if table == "samples"} == {"film", "README.txt"}
    others = {end for path, end in found.items() if path not in {"film", "README.txt"}}
    assert others == {("filtered", CompanionError.reason)}


@pytest.mark.parametrize("name", ["IM1.dcm", "IM1.DCM", "IM1.dicom", "IM1.IMA", "IM1.dcm.gz"])
def test_a_page_under_the_name_of_a_film_is_a_lost_film(tmp_path: Path, name: str) -> None:
    page = TEXTS["html"]
    (tmp_path / name).write_bytes(gzip.compress(page) if name.endswith(".gz") else page)
    assert ends(tmp_path) == {name: ("quarantine", NotDicomError.reason)}
