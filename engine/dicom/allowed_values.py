"""Known words for header columns that are free text in the file: anything may be typed there, names too.

A column holds the known word or nothing. Body parts are the terms of PS3.16 Annex L (table L-1), modalities
and views those of PS3.3 (C.7.3.1.1.1, C.8.11.5.1.1); makers have no list in the standard, so ours is short.
"""

from __future__ import annotations

import re


def _terms(text: str) -> frozenset[str]:
    return frozenset(text.split())


_BODY_PARTS = _terms(
    """ABDOMEN ABDOMENPELVIS ADRENAL ANKLE ANUS AORTA ARM AXILLA BACK BLADDER BRAIN BREAST BRONCHUS BUTTOCK
    CALCANEUS CALF CAROTID CEREBELLUM CERVIX CHEEK CHEST CHESTABDOMEN CHESTABDPELVIS CIRCLEOFWILLIS CLAVICLE
    COCCYX COLON CORNEA CORONARYARTERY CSPINE CTSPINE DUODENUM EAR ELBOW ESOPHAGUS EXTREMITY EYE EYELID FACE
    FEMUR FIBULA FINGER FOOT FOREARM GALLBLADDER HAND HEAD HEADNECK HEART HIP HUMERUS IAC ILEUM ILIUM JAW
    JEJUNUM JOINT KIDNEY KNEE LARYNX LEG LIVER LOWERLEG LOWERLIMB LSPINE LSSPINE LUNG MANDIBLE MAXILLA
    MEDIASTINUM METACARPUS MOUTH NECK NECKCHEST NECKCHESTABDOMEN NECKCHESTABDPELV NOSE ORBIT OVARY PANCREAS
    PAROTID PATELLA PELVIS PELVISLOWEXTREMT PENIS PHARYNX PROSTATE RADIUS RECTUM RIB SACRUM SCALP SCAPULA
    SCLERA SCROTUM SHOULDER SIJOINT SINUS SKULL SPINE SPLEEN SSPINE STERNUM STOMACH SUBMANDIBULAR TESTIS THIGH
    THUMB THYMUS THYROID TIBIA TLSPINE TMJ TOE TONGUE TRACHEA TSPINE ULNA UPPERARM UPPERLIMB URETER URETHRA
    UTERUS VAGINA VULVA WHOLEBODY WHOLESPINE WRIST ZYGOMA"""
)
_MODALITIES = _terms(
    """AR ASMT AU BDUS BI BMD CFM CR CT CTPROTOCOL DG DMS DOC DX ECG EEG EMG EOG EPS ES FID GM HC HD IO IOL
    IVOCT IVUS KER KO LEN LS M3D MG MR NM OAM OCT OP OPM OPT OPTBSV OPTENF OPV OSS OT PA PLAN POS PR PT PX REG
    RESP RF RG RTDOSE RTIMAGE RTPLAN RTRECORD RTSEGANN RTSTRUCT RWV SEG SM SMR SR SRF STAIN TEXTUREMAP TG US
    VA XA XC"""
)
_VIEWS = _terms("AP PA LL RL RLD LLD RLO LLO LAO RAO LPO RPO CC MLO ML LM LAT LATERAL OBL OBLIQUE")
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
    """The term for a body part, however it is spaced: "c-spine" is CSPINE; None where it is none."""
    return _known(text, _BODY_PARTS)


def modality(text: str | None) -> str | None:
    """The code of a modality; None where it is none."""
    return _known(text, _MODALITIES)


def view(text: str | None) -> str | None:
    """The term for a view position; None where it is none."""
    return _known(text, _VIEWS)


def maker(text: str | None) -> str | None:
    """The first maker that is named, by one spelling of its name; None where none is."""
    words = _WORD.findall((text or "").upper())
    return next((_MAKERS[word] for word in words if word in _MAKERS), None)


def _known(text: str | None, terms: frozenset[str]) -> str | None:
    term = _GAPS.sub("", text or "").upper()
    return term if term in terms else None
