"""Known words for header columns that are free text in the file: anything may be typed there, names too.

A column holds the known word or nothing. Body parts are the terms of ``sites``, modalities and views those of
PS3.3 (C.7.3.1.1.1, C.8.11.5.1.1); makers have no list in the standard, so ours is short.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from engine.dicom.sites import folded, named, scanned


def _terms(text: str) -> frozenset[str]:
    return frozenset(text.split())


_MODALITIES = _terms(
    """AR AS ASMT AU BDUS BI BMD CD CF CFM CP CR CS CT CTPROTOCOL DD DF DG DM DMS DOC DS DX EC ECG EEG EMG EOG
    EPS ES FA FID FS GM HC HD IO IOL IVOCT IVUS KER KO LEN LP LS M3D MA MG MR MS NM OAM OCT OP OPM OPR OPT
    OPTBSV OPTENF OPV OSS OT PA PLAN POS PR PT PX REG RESP RF RG RTDOSE RTIMAGE RTPLAN RTRECORD RTSEGANN
    RTSTRUCT RWV SEG SM SMR SR SRF ST STAIN TEXTUREMAP TG US VA VF XA XC"""
)
"""Those that the standard has retired among them: old files keep them."""
_VIEWS = {
    **{v: v for v in _terms("AP PA LL RL RLD LLD RLO LLO LAO RAO LPO RPO CC MLO ML LM LAT OBL AXIAL")},
    **dict.fromkeys(_terms("ANTEROPOSTERIOR PALMODORSAL VOLODORSAL VENTRODORSAL PD"), "AP"),
    **dict.fromkeys(_terms("POSTEROANTERIOR DORSOPALMAR DORSOVOLAR DORSOVENTRAL DP"), "PA"),
    **dict.fromkeys(_terms("LATERAL LATERALE LATERALIS SEITLICH SEITL PROFIL PROFILE SAGITTAL"), "LAT"),
    **dict.fromkeys(_terms("LATEROMEDIAL LATERALMEDIAL"), "LM"),
    **dict.fromkeys(_terms("MEDIOLATERAL MEDIALLATERAL"), "ML"),
    **dict.fromkeys(_terms("LEFTLATERAL LLAT LATL LTLAT"), "LL"),
    **dict.fromkeys(_terms("RIGHTLATERAL RLAT LATR RTLAT"), "RL"),
    **dict.fromkeys(_terms("OBLIQUE OBLIQ OBLI SCHRAEG SCHRAG OBLICUA OBLIQUA OBLIKT"), "OBL"),
    **dict.fromkeys(_terms("AX TANGENTIAL SKYLINE SUNRISE MERCHANT TUNNEL NOTCH INTERCONDYLAR"), "AXIAL"),
    **dict.fromkeys(_terms("CRANIOCAUDAL"), "CC"),
}  # fmt: skip
"""Word -> the term that it is written for."""
_VIEW_CODES = {
    **dict.fromkeys(_terms("R-10206 399348003"), "AP"),
    **dict.fromkeys(_terms("R-10214 R-40888 272479007"), "PA"),
    **dict.fromkeys(_terms("R-102CD 399067008 G-A145 30730003"), "LAT"),
    **dict.fromkeys(_terms("R-10228 399352003"), "LM"),
    **dict.fromkeys(_terms("R-10224 399260004"), "ML"),
    **dict.fromkeys(_terms("R-10236 399173006"), "LL"),
    **dict.fromkeys(_terms("R-10232 399198007"), "RL"),
    **dict.fromkeys(_terms("R-102C1 399182000 R-10204 399160007 R-10216 399059000 R-10208 399312000"), "OBL"),
    **dict.fromkeys(_terms("R-10238 399184004 R-10234 399236003 R-40782 260426006 R-40783 260427002"), "OBL"),
    **dict.fromkeys(_terms("R-10230 399099002"), "OBL"),
    **dict.fromkeys(_terms("R-10241 399061009 R-102C2 399110001"), "AXIAL"),
    **dict.fromkeys(_terms("R-10242 399162004"), "CC"),
    **dict.fromkeys(_terms("R-10226 399368009"), "MLO"),
}  # fmt: skip
"""CID 4010."""
_SEX_WORDS = {
    **dict.fromkeys(_terms("M MALE MAN BOY MAENNLICH MANNLICH MASCULIN MASCULINO MASCHIO HOMME"), "M"),
    **dict.fromkeys(_terms("F FEMALE WOMAN GIRL W WEIBLICH FEMININ FEMENINO FEMININO FEMMINA FEMME"), "F"),
    "O": "O",
}
_MAKERS = {
    "AGFA": "Agfa", "CANON": "Canon", "CARESTREAM": "Carestream", "EIZO": "Eizo", "FUJI": "Fujifilm",
    "FUJIFILM": "Fujifilm", "FUJIPHOTOFILM": "Fujifilm", "GE": "GE", "HITACHI": "Hitachi",
    "HOLOGIC": "Hologic", "KODAK": "Kodak", "KONICA": "Konica Minolta", "LUMISYS": "Lumisys",
    "MINOLTA": "Konica Minolta", "OSTEORAY": "osteoray", "PHILIPS": "Philips", "SAMSUNG": "Samsung",
    "SHIMADZU": "Shimadzu", "SIEMENS": "Siemens", "STERLING": "Sterling", "SWISSRAY": "Swissray",
    "TOSHIBA": "Toshiba", "VATECH": "Vatech", "VIDAR": "Vidar",
}  # fmt: skip
_WORD = re.compile(r"[A-Z]+")
_GAPS = re.compile(r"[\s_-]+")


def body_part(text: str | None) -> str | None:
    """The terms for the body parts that a text names, ``joined``; None where it names none."""
    return joined(named(text or "").parts)


def modality(text: str | None) -> str | None:
    """The code of a modality; None where it is none."""
    return _known(text, _MODALITIES)


def view(text: str | None) -> str | None:
    """The terms for the views that a text names, ``joined``; None where it names none."""
    return joined(scanned(text or "", _view_of))


def view_of_code(code: str) -> str | None:
    """The term for a SNOMED code of CID 4010; None where it is none."""
    return _VIEW_CODES.get(code.strip().upper())


def sex(text: str | None) -> str | None:
    """F, M or O (PS3.3 C.7.1.1) of the letter or word; None where it is anything else."""
    return _SEX_WORDS.get(folded(text or ""))


def joined(terms: Iterable[str]) -> str | None:
    """Terms without repeats, with a backslash between them as in an element; None where there is none."""
    return "\\".join(dict.fromkeys(terms)) or None


def maker(text: str | None) -> str | None:
    """The first maker that is named, by one spelling of its name; None where none is."""
    words = _WORD.findall((text or "").upper())
    return next((_MAKERS[word] for word in words if word in _MAKERS), None)


def _view_of(word: str) -> tuple[str, ...]:
    return (_VIEWS[word],) if word in _VIEWS else ()


def _known(text: str | None, terms: frozenset[str]) -> str | None:
    term = _GAPS.sub("", text or "").upper()
    return term if term in terms else None
