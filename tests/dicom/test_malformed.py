"""Files that others collected to break readers: each ends as a sample or as a typed error."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.dicom import header as elements
from engine.dicom.parse import DataSet, Limits, parse
from engine.dicom.pixels import stored_values
from engine.errors import FilteredError, InstanceError
from engine.imaging.preprocess import View
from engine.ingest.instance import InputRule, Instance
from tests.fixtures.prepared import prepare

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
VIEW = View(size_HW=(112, 112))


def cases(name: str, below: str) -> list[tuple[Path, dict[str, str]]]:
    manifest = DATA / name / "manifest.csv"
    if not manifest.exists():
        return []
    with manifest.open() as stream:
        return [(DATA / name / below / row["file"], row) for row in csv.DictReader(stream)]


def ended(read: Callable[[], Any]) -> Any:
    """What a read gives, or its typed error; any other error fails the test."""
    try:
        return read()
    except (InstanceError, FilteredError) as error:
        return error


MALFORMED = cases("dicom_malformed", ".")
MATRIX = cases("dicom_matrix", "files")


ENDS: dict[str, frozenset[str]] = {
    "bad_header": frozenset(
        {
            "TC0299_bits_bsstored_gt_ba.dcm",
            "TC0301_bits_highbit_eq_ba.dcm",
            "TC0323_encap_zero_frag.dcm",
            "TC0327_mono2_spp3.dcm",
            "TC0335_pi_256chars.dcm",
            "TC0393_meta_glen_one.dcm",
            "TC0395_meta_glen_max.dcm",
            "TC0397_meta_glen_huge.dcm",
            "TC0467_uid_uid_empty.dcm",
            "TC0471_uid_collision.dcm",
            "dcm_qa_12bit__12bitSigned_0x0F0F.dcm",
            "dwv__dwv-test-simple.dcm",
            "dwv__dwv-test_no-number-rows.dcm",
            "dwv__leadtools-flowers-8-mono2-rle.dcm",
            "pydicom-data__JLSN_RGB_ILV0.dcm",
            "pydicom-data__bad_sequence.dcm",
            "pydicom-data__priv_SQ.dcm",
        }
    ),
    "multi_frame": frozenset(
        {
            "cs3d__CT0012.fragmented_no_bot_jpeg_baseline.51.dcm",
            "dcmqi__label.seg",
            "dcmqi__mf.dcm",
            "dcmqi__sparse-labelmap-noppv.dcm",
            "dicomparser__CT0012.fragmented_no_bot_jpeg_lossless.57.dcm",
            "dicomparser__CT0012.fragmented_no_bot_jpeg_lossless.70.dcm",
            "dicomparser__CT0012.fragmented_no_bot_jpeg_ls.81.dcm",
            "dicomparser__CT0012.not_fragmented_no_bot_jpeg_ls.80.dcm",
            "dicomparser__CT0012.not_fragmented_no_bot_rle.dcm",
            "dicomparser__IM00001.fragmented_no_bot_jpeg_baseline.50.dcm",
            "highdicom__seg_image_ct_binary.dcm",
            "highdicom__seg_image_ct_binary_fractional.dcm",
            "highdicom__seg_image_sm_control_labelmap_palette_color.dcm",
            "highdicom__sm_image_jpegls_nobot.dcm",
            "highdicom__sm_image_numbers.dcm",
            "pydicom-data__OBXXXX1A_rle_2frame.dcm",
            "pydicom-data__SC_rgb_16bit_2frame.dcm",
            "pydicom-data__SC_rgb_32bit_2frame.dcm",
            "pydicom-data__SC_rgb_expb_16bit_2frame.dcm",
            "pydicom-data__SC_rgb_expb_2frame.dcm",
            "pydicom-data__SC_rgb_expb_32bit_2frame.dcm",
            "pydicom-data__emri_small.dcm",
            "pydicom-data__emri_small_RLE.dcm",
            "pydicom-data__emri_small_big_endian.dcm",
            "pydicom-data__emri_small_jpeg_2k_lossless.dcm",
            "pydicom-data__emri_small_jpeg_2k_lossless_too_short.dcm",
            "pydicom-data__emri_small_jpeg_ls_lossless.dcm",
            "pydicom-data__liver_deflate.dcm",
            "pydicom-data__liver_expb.dcm",
            "pydicom-data__liver_j2k.dcm",
            "pydicom-data__liver_rle.dcm",
        }
    ),
    "no_pixel_data": frozenset(
        {
            "cs3d__no-pixel-data.dcm",
            "dcmjs__no-meta-length-test.dcm",
            "dcmqi__rwvm.dcm",
            "highdicom__sm_annotations.dcm",
            "nibabel__csa_slice_norm.dcm",
        }
    ),
    "not_dicom": frozenset({"TC0387_dicm_offset64.dcm", "TC0389_dicm_offset256.dcm"}),
    "not_grayscale": frozenset(
        {
            "cs3d__TestPattern_JPEG-Baseline_YBRFull.dcm",
            "cs3d__TestPattern_JPEG-LS-Lossless.dcm",
            "cs3d__TestPattern_JPEG-Lossless_RGB.dcm",
            "cs3d__TestPattern_Palette.dcm",
            "dwv__nema-us1_j2ki.dcm",
            "dwv__nema-vl2_j2kr.dcm",
            "pydicom-data__HTJ2KLossless_08_RGB.dcm",
            "pydicom-data__HTJ2K_08_RGB.dcm",
            "pydicom-data__OBXXXX1A_expb.dcm",
            "pydicom-data__OBXXXX1A_rle.dcm",
            "pydicom-data__OT-PAL-8-face.dcm",
            "pydicom-data__SC_rgb_16bit.dcm",
            "pydicom-data__SC_rgb_32bit.dcm",
            "pydicom-data__SC_rgb_expb.dcm",
            "pydicom-data__SC_rgb_expb_16bit.dcm",
            "pydicom-data__SC_rgb_expb_32bit.dcm",
            "pydicom-data__SC_rgb_jpeg_lossy_gdcm.dcm",
            "pydicom-data__SC_rgb_small_odd.dcm",
            "pydicom-data__SC_ybr_full_uncompressed.dcm",
            "pydicom-data__color-pl.dcm",
            "pylibjpeg-data__JPEGExtended_3s_1f_u_08_08.dcm",
        }
    ),
    "pixel_decode": frozenset(
        {
            "TC0305_bits_ba_zero.dcm",
            "TC0311_bits_ba_nine.dcm",
            "TC0321_encap_empty_bot.dcm",
            "pydicom-data__parametric_map_double_float.dcm",
            "pydicom-data__parametric_map_float.dcm",
        }
    ),
    "sop_class": frozenset({"dwv__DICOMDIR"}),
    "truncated": frozenset(
        {
            "TC0293_buf_one_byte.dcm",
            "TC0313_bits_ba_24.dcm",
            "TC0347_deflate_truncated.dcm",
            "dicomparser__report_dfl",
            "dicomparser__wave_dfl",
        }
    ),
    "unsupported_syntax": frozenset({"TC0401_invalid_ts.dcm"}),
}
"""Reason -> the files that end with it where a task takes their SOP class; all the others become samples."""


@pytest.mark.skipif(not MALFORMED, reason="the folder shared/data is not beside the checkout")
@pytest.mark.parametrize(("path", "row"), [*MALFORMED, *MATRIX], ids=lambda value: getattr(value, "stem", ""))
def test_each_file_ends_with_its_reason(path: Path, row: dict[str, str]) -> None:
    data = path.read_bytes()
    parsed = ended(lambda: parse(data, elements.TAGS, Limits()))
    own = str(parsed.header.get("SOPClassUID", "")) if isinstance(parsed, DataSet) else ""
    outcome = ended(lambda: prepare(data, InputRule(sop_classes=(own,), view=VIEW), b"s" * 32))
    expected = next((reason for reason, names in ENDS.items() if path.name in names), "sample")
    if isinstance(outcome, Instance):
        assert expected == "sample"
        assert outcome.image_HW.shape == VIEW.size_HW
        assert outcome.columns["rows"] * outcome.columns["columns"] > 0
    else:
        assert outcome.reason == expected
        assert outcome.code.startswith("ORY-")
        assert str(outcome)


def comparable(name: str, below: str) -> list[tuple[Path, dict[str, str]]]:
    """Files of which we must give the stored values: another reader did, and they hold one grey frame."""
    return [
        (path, row)
        for path, row in cases(name, below)
        if row["decode"] == "ok"
        and row["samples"] == "1"
        and row["frames"] in {"", "1"}
        and 8 <= int(row["bits_alloc"]) <= 16
        and row["photometric"] != "PALETTE COLOR"
    ]


COMPARABLE = [*comparable("dicom_malformed", "."), *comparable("dicom_matrix", "files")]
LOSSY_BY_TWO = {"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"}
"""Two inverse cosine transforms may differ by a grey value or two."""


@pytest.mark.skipif(not MATRIX, reason="the folder shared/data/dicom_matrix is not beside the checkout")
@pytest.mark.parametrize(("path", "row"), MATRIX, ids=lambda value: getattr(value, "stem", ""))
def test_matrix_files_end_typed(path: Path, row: dict[str, str]) -> None:
    stored = ended(lambda: stored_values(parse(path.read_bytes(), elements.TAGS, Limits()), Limits()))
    if isinstance(stored, np.ndarray):
        assert not row["rows"] or stored.shape[:2] == (int(row["rows"]), int(row["cols"]))
    else:
        assert stored.reason


@pytest.mark.skipif(not MATRIX, reason="the folder shared/data/dicom_matrix is not beside the checkout")
@pytest.mark.parametrize(("path", "row"), COMPARABLE, ids=lambda value: getattr(value, "stem", ""))
def test_stored_values_are_those_of_the_manifest(path: Path, row: dict[str, str]) -> None:
    """Least and greatest value as an independent reader found them, sign and unused bits taken care of."""
    stored = stored_values(parse(path.read_bytes(), elements.TAGS, Limits()), Limits())
    bits = int(row["bits_stored"])
    values = stored.astype(np.int64) & ((1 << bits) - 1)
    if row["pixel_rep"] == "1":
        values = np.where(values >= 1 << (bits - 1), values - (1 << bits), values)
    tolerance = 2 if row["ts"] in LOSSY_BY_TWO else 0
    assert values.min() == pytest.approx(float(row["min"]), abs=tolerance)
    assert values.max() == pytest.approx(float(row["max"]), abs=tolerance)


@pytest.mark.skipif(not MATRIX, reason="the folder shared/data/dicom_matrix is not beside the checkout")
def test_many_syntaxes_are_compared() -> None:
    assert len(COMPARABLE) > 80
    assert len({row["ts"] for _, row in COMPARABLE}) >= 12
