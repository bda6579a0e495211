"""Public layouts to DICOM archives: every naming, the tags, the pixels, and what is skipped."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import imagecodecs
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.encaps import get_frame
from typer.testing import CliRunner

from engine.datasets.archive import Label, write_labels
from engine.datasets.convert import convert, read_grey
from engine.dicom.write import ENCODERS, SECONDARY_CAPTURE, uid_from
from engine.errors import (
    MissingDependencyError,
    NotGrayscaleError,
    PixelDecodeError,
    UnknownNameError,
    UsageError,
)
from engine.tasks.ages.layouts import LAYOUTS
from jobs.__main__ import command_line

RSNA = LAYOUTS["rsna"]


def _picture(seed: int, shape: tuple[int, int] = (12, 9)) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def _save(path: Path, pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def _plain(root: Path) -> Path:
    """The layout of a repack: labels.csv beside images/."""
    root.mkdir()
    (root / "labels.csv").write_text(
        "id,boneage,male,split\n1377,180,False,train\n1378,12,True,test\n1379,94.5,False,\n"
    )
    for name in (1377, 1378, 1379):
        _save(root / "images" / f"{name}.png", _picture(name))
    return root


def _challenge(root: Path) -> Path:
    """The original names: a folder nested twice, other cases, sex in two spellings, a BOM, a spare column."""
    root.mkdir()
    (root / "boneage-training-dataset.csv").write_text("id,boneage,male\n1377,180,False\n1378,12,True\n")
    nested = root / "boneage-training-dataset" / "boneage-training-dataset"
    for name in (1377, 1378):
        _save(nested / f"{name}.png", _picture(name))
    (nested / "._1377.png").write_bytes(b"a resource fork of macOS")
    validation = root / "Bone Age Validation Set"
    validation.mkdir()
    (validation / "Validation Dataset.csv").write_text("Image ID,male,Bone Age (months)\n1386,TRUE,30\n")
    _save(validation / "boneage-validation-dataset-1" / "1386.png", _picture(1386))
    (root / "Bone age ground truth.csv").write_bytes(
        "\ufeffCase ID,Sex,Ground truth bone age (months),\n4360,F,168.9334,\n4361,m,1.5,\n".encode()
    )
    for name in (4360, 4361):
        _save(root / "Test Set Images" / f"{name}.png", _picture(name))
    return root


def _labels(archive: Path) -> dict[str, tuple[float, str]]:
    with (archive / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {row["sop_instance_uid"]: (float(row["bone_age_months"]), row["split"]) for row in rows}


def _by_patient(archive: Path) -> dict[str, pydicom.Dataset]:
    data_sets = [pydicom.dcmread(path) for path in sorted(archive.rglob("*.dcm"))]
    return {str(data.PatientID): data for data in data_sets}


def _truth(archive: Path) -> dict[str, tuple[str, float, str]]:
    """Patient -> (sex, bone age, split), joined by the SOP instance UID in the file."""
    labels = _labels(archive)
    return {
        name: (str(data.PatientSex), *labels[str(data.SOPInstanceUID)])
        for name, data in _by_patient(archive).items()
    }


def _pixels(data: pydicom.Dataset) -> NDArray[np.integer]:
    """Stored values, decoded with a codec alone where pydicom itself has none for the syntax."""
    codecs = {
        ENCODERS["jpeg-lossless"].transfer_syntax_uid: imagecodecs.ljpeg_decode,
        ENCODERS["jpeg-ls"].transfer_syntax_uid: imagecodecs.jpegls_decode,
        ENCODERS["jpeg-2000"].transfer_syntax_uid: imagecodecs.jpeg2k_decode,
    }
    codec = codecs.get(str(data.file_meta.TransferSyntaxUID))
    if codec is None:
        return np.asarray(data.pixel_array)
    return np.asarray(codec(get_frame(data.PixelData, 0, number_of_frames=1)))


def test_plain_naming(tmp_path: Path) -> None:
    counts = convert(RSNA, _plain(tmp_path / "in"), tmp_path / "out")
    assert counts == {
        "rows": 3, "written": 3, "train": 2, "test": 1, "skipped": 0, "skipped_reasons": {}
    }  # fmt: skip
    assert _truth(tmp_path / "out") == {
        "rsna-1377": ("F", 180.0, "train"),
        "rsna-1378": ("M", 12.0, "test"),
        "rsna-1379": ("F", 94.5, "train"),
    }


def test_names_of_the_challenge(tmp_path: Path) -> None:
    counts = convert(RSNA, _challenge(tmp_path / "in"), tmp_path / "out")
    assert (counts["written"], counts["train"], counts["test"], counts["skipped"]) == (5, 2, 3, 0)
    assert _truth(tmp_path / "out") == {
        "rsna-1377": ("F", 180.0, "train"),
        "rsna-1378": ("M", 12.0, "train"),
        "rsna-1386": ("M", 30.0, "test"),
        "rsna-4360": ("F", 168.933, "test"),
        "rsna-4361": ("M", 1.5, "test"),
    }


def test_header_claims_no_more_than_the_source_says(tmp_path: Path) -> None:
    convert(RSNA, _plain(tmp_path / "in"), tmp_path / "out")
    data = _by_patient(tmp_path / "out")["rsna-1377"]
    assert "PatientAge" not in data
    assert "ViewPosition" not in data
    assert "ImagerPixelSpacing" not in data
    assert (data.SOPClassUID, data.ConversionType, data.Modality) == (SECONDARY_CAPTURE, "WSD", "CR")
    assert (data.BodyPartExamined, data.PhotometricInterpretation) == ("HAND", "MONOCHROME2")
    assert (data.Rows, data.Columns, data.BitsAllocated, data.BitsStored, data.HighBit) == (12, 9, 8, 8, 7)
    assert data.SOPInstanceUID == data.file_meta.MediaStorageSOPInstanceUID
    assert data.SOPInstanceUID == uid_from("rsna", "1377", "instance")
    assert len({data.SOPInstanceUID, data.StudyInstanceUID, data.SeriesInstanceUID}) == 3


@pytest.mark.parametrize("syntax", [*ENCODERS, "mixed"])
def test_pixels_are_the_same_after_every_syntax(tmp_path: Path, syntax: str) -> None:
    convert(RSNA, _plain(tmp_path / "in"), tmp_path / "out", syntax=syntax)
    by_patient = _by_patient(tmp_path / "out")
    for name in (1377, 1378, 1379):
        data = by_patient[f"rsna-{name}"]
        assert np.array_equal(_pixels(data), _picture(name))
    used = [str(by_patient[f"rsna-{name}"].file_meta.TransferSyntaxUID) for name in (1377, 1378, 1379)]
    wanted = ["explicit", "jpeg-ls", "jpeg-lossless"] if syntax == "mixed" else [syntax] * 3
    assert used == [ENCODERS[name].transfer_syntax_uid for name in wanted]


def test_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    source = _plain(tmp_path / "in")
    convert(RSNA, source, tmp_path / "a", syntax="mixed")
    convert(RSNA, source, tmp_path / "b", syntax="mixed")
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) == 4
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)


def test_limit_takes_the_first_rows(tmp_path: Path) -> None:
    convert(RSNA, _plain(tmp_path / "in"), tmp_path / "out", limit=2)
    assert set(_truth(tmp_path / "out")) == {"rsna-1377", "rsna-1378"}


def test_what_cannot_be_converted_is_counted_with_its_reason(tmp_path: Path) -> None:
    root = tmp_path / "in"
    (root / "images").mkdir(parents=True)
    rows = ["1,10,True", "2,20,True", "3,30,True", "4,40,True", "5,,True", "6,60,perhaps", "7,700,True"]
    rows += ["1,11,False", "../8,80,True", "9,90,True,later"]
    (root / "labels.csv").write_text("\n".join(["id,boneage,male,split", *rows, ",,,", ""]))
    _save(root / "images" / "1.png", _picture(1))
    colour_HW3 = np.stack([_picture(2), _picture(2), _picture(3)], axis=2)
    _save(root / "images" / "2.png", colour_HW3)
    (root / "images" / "3.png").write_bytes(b"\x89PNG no more")
    for name in (5, 6, 7, 8, 9):
        _save(root / "images" / f"{name}.png", _picture(name))
    counts = convert(RSNA, root, tmp_path / "out")
    assert counts["skipped_reasons"] == {
        "not_grayscale": 1, "pixel_decode": 1, "source_read": 1, "no_label": 6
    }  # fmt: skip
    assert counts["rows"] == counts["written"] + counts["skipped"] == 10
    assert _truth(tmp_path / "out") == {"rsna-1": ("M", 10.0, "train")}


def test_grey_saved_as_colour_is_grey_again(tmp_path: Path) -> None:
    grey_HW = _picture(1)
    _save(tmp_path / "rgb.png", np.stack([grey_HW] * 3, axis=2))
    _save(tmp_path / "rgba.png", np.dstack([grey_HW] * 3 + [np.full_like(grey_HW, 255)]))
    Image.fromarray(grey_HW).convert("P").save(tmp_path / "palette.png")
    Image.fromarray(grey_HW).convert("LA").save(tmp_path / "alpha.png")
    for name in ("rgb", "rgba", "palette", "alpha"):
        assert np.array_equal(read_grey(tmp_path / f"{name}.png"), grey_HW), name


def test_sixteen_bits_stay_sixteen_bits(tmp_path: Path) -> None:
    deep_HW = np.random.default_rng(1).integers(0, 65536, (12, 9), dtype=np.uint16)
    root = tmp_path / "in"
    _save(root / "images" / "1.png", deep_HW)
    (root / "labels.csv").write_text("id,boneage,male\n1,10,True\n")
    convert(RSNA, root, tmp_path / "out", syntax="jpeg-ls")
    data = _by_patient(tmp_path / "out")["rsna-1"]
    assert data.BitsStored == 16
    assert np.array_equal(_pixels(data), deep_HW)


def test_colour_and_broken_images_raise_their_types(tmp_path: Path) -> None:
    _save(tmp_path / "colour.png", np.dstack([_picture(1), _picture(2), _picture(3)]))
    with pytest.raises(NotGrayscaleError):
        read_grey(tmp_path / "colour.png")
    _save(tmp_path / "whole.png", _picture(1, (200, 200)))
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:5000])
    with pytest.raises(PixelDecodeError):
        read_grey(tmp_path / "cut.png")


def test_two_images_for_one_id_are_refused(tmp_path: Path) -> None:
    root = _challenge(tmp_path / "in")
    _save(root / "copy" / "1377.png", _picture(5))
    with pytest.raises(UsageError, match="two images for one id"):
        convert(RSNA, root, tmp_path / "out")


def test_a_folder_of_another_layout_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(UsageError, match="not an rsna folder"):
        convert(RSNA, tmp_path / "in", tmp_path / "out")
    (tmp_path / "in" / "labels.csv").write_text("name,age\na,1\n")
    with pytest.raises(UsageError, match="no column for age, id, sex"):
        convert(RSNA, tmp_path / "in", tmp_path / "out")
    (tmp_path / "in" / "labels.csv").write_text("")
    with pytest.raises(UsageError, match="is empty"):
        convert(RSNA, tmp_path / "in", tmp_path / "out")
    with pytest.raises(UsageError, match="not a folder"):
        convert(RSNA, tmp_path / "absent", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    source = _plain(tmp_path / "in")
    words = ["convert", "rnsa", str(source), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(command_line(words), words)
    assert isinstance(result.exception, UnknownNameError)
    assert "unknown layout" in str(result.exception)
    with pytest.raises(UnknownNameError, match="did you mean 'jpeg-2000'"):
        convert(RSNA, source, tmp_path / "out", syntax="jpeg2000")


def test_an_archive_in_the_way_is_left_alone(tmp_path: Path) -> None:
    source = _plain(tmp_path / "in")
    convert(RSNA, source, tmp_path / "out")
    before = (tmp_path / "out" / "labels.csv").read_bytes()
    with pytest.raises(UsageError, match="not empty"):
        convert(RSNA, source, tmp_path / "out", limit=1)
    assert (tmp_path / "out" / "labels.csv").read_bytes() == before


def test_a_spreadsheet_without_its_reader_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    root = _challenge(tmp_path / "in")
    (root / "Bone age ground truth.csv").rename(root / "Bone age ground truth.xlsx")
    with pytest.raises(MissingDependencyError, match="save it as CSV"):
        convert(RSNA, root, tmp_path / "out")


def test_a_spreadsheet_is_read_where_its_reader_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = [("Case ID", "Sex", "Ground truth bone age (months)"), (4360.0, "F", 168.5), (None, None, None)]
    sheet = SimpleNamespace(iter_rows=lambda values_only: iter(cells))
    reader = ModuleType("openpyxl")
    reader.load_workbook = lambda *_, **__: SimpleNamespace(active=sheet)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "openpyxl", reader)
    root = tmp_path / "in"
    _save(root / "4360.png", _picture(1))
    (root / "Bone age ground truth.xlsx").write_bytes(b"PK")
    convert(RSNA, root, tmp_path / "out")
    assert _truth(tmp_path / "out") == {"rsna-4360": ("F", 168.5, "test")}


def test_labels_appear_whole_or_not_at_all(tmp_path: Path) -> None:
    def one_then_broken() -> Iterator[Label]:
        yield Label(sop_instance_uid="1.2", split="train", values={"bone_age_months": 3.0})
        raise RuntimeError("stopped half way")

    with pytest.raises(RuntimeError):
        write_labels(tmp_path, one_then_broken(), ("bone_age_months",))
    assert not (tmp_path / "labels.csv").exists()


def test_command_ends_with_3_when_rows_were_skipped(tmp_path: Path) -> None:
    source = _plain(tmp_path / "in")
    (source / "images" / "1378.png").unlink()
    words = ["convert", "rsna", str(source), "--out", str(tmp_path / "out"), "--json"]
    result = CliRunner().invoke(command_line(words), words)
    assert result.exit_code == 3, result.output
    last = json.loads(result.stdout.splitlines()[-1])
    assert (last["written"], last["skipped"], last["skipped_reasons"]) == (2, 1, {"source_read": 1})


def test_command_ends_with_0_when_all_rows_were_written(tmp_path: Path) -> None:
    words = ["convert", "rsna", str(_plain(tmp_path / "in")), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(command_line(words), words)
    assert result.exit_code == 0, result.output
