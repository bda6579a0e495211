"""A scored instance as a FHIR R4 bundle: an Observation and the Device that made it, in one JSON file.

The first number that the task measured is the value; all other measurements are components. The Observation
is ``preliminary``, labelled as research by a security tag and in words. Patient and study are logical
references: the patient by the key of our tables, the study by its UID (urn:dicom:uid).
"""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.delivery import uids
from engine.delivery.scored import MANUFACTURER, RESEARCH_USE, Model, Models, Scored
from engine.evaluation.answer import Code, Measurement
from engine.store.files import PRIVATE, replacing

PATIENT_KEY_SYSTEM = "urn:osteoray:patient-key"
MODEL_SYSTEM = "urn:osteoray:model-sha256"

_SYSTEMS = {
    "LN": "http://loinc.org",
    "SCT": "http://snomed.info/sct",
    "UCUM": "http://unitsofmeasure.org",
    "DCM": "http://dicom.nema.org/resources/ontology/DCM",
}
"""Coding scheme of DICOM -> code system of FHIR; a code of any other scheme stands as its words."""
_RESEARCH = {
    "system": "http://terminology.hl7.org/CodeSystem/v3-ActReason",
    "code": "HRESCH",
    "display": "healthcare research",
}

Json = dict[str, Any]


def folder(scores: Path, target: Path) -> Json:
    """Write one bundle for each scored instance that counts; gives the count.

    Raises:
        TableError: a table of the folder cannot be read.
    """
    results = Models(scores).results()
    target.mkdir(parents=True, exist_ok=True)
    count = 0
    for scored in results:
        with replacing(target / f"{scored.uid(uids.SR)}.json", mode=PRIVATE) as temporary:
            text = json.dumps(bundle(scored), indent=1, allow_nan=False, ensure_ascii=False)
            temporary.write_text(text + "\n", encoding="utf-8")
        count += 1
    return {"bundles": count}


def bundle(scored: Scored) -> Json:
    """The bundle of one result."""
    model = scored.model
    device_url, observation_url = _url(model.sha256), _url(scored.uid(uids.SR))
    entries = ((device_url, _device(model)), (observation_url, _observation(scored, device_url)))
    return {
        "resourceType": "Bundle",
        "type": "collection",
        "timestamp": model.scored_at.isoformat(),
        "meta": {"security": [_RESEARCH]},
        "entry": [{"fullUrl": url, "resource": resource} for url, resource in entries],
    }


def _device(model: Model) -> Json:
    return {
        "resourceType": "Device",
        "identifier": [{"system": MODEL_SYSTEM, "value": model.sha256}],
        "manufacturer": MANUFACTURER,
        "deviceName": [{"name": model.name, "type": "model-name"}],
        "version": [{"value": model.version}],
        "note": [{"text": RESEARCH_USE}],
    }


def _observation(scored: Scored, device_url: str) -> Json:
    row, measurements = scored.row, scored.measurements
    value = next((one for one in measurements if not isinstance(one.value, Code)), measurements[0])
    observation: Json = {
        "resourceType": "Observation",
        "meta": {"security": [_RESEARCH]},
        "identifier": [{"system": "urn:dicom:uid", "value": f"urn:oid:{scored.uid(uids.SR)}"}],
        "status": "preliminary",
        "category": [
            {"coding": [{
                "system": "http://terminology.hl7.org/CodeSystem/observation-category", "code": "imaging",
            }]}
        ],
        "code": _concept(value.name, value.words),
        "subject": {
            "type": "Patient",
            "identifier": {"system": PATIENT_KEY_SYSTEM, "value": row["patient_key"]},
        },
        "issued": scored.model.scored_at.isoformat(),
        **_value(value),
        "bodySite": {"coding": _coding(scored.model.task.anatomy)},
        "device": {"reference": device_url},
        "note": [{"text": RESEARCH_USE}],
    }  # fmt: skip
    further = [_component(one, value) for one in measurements if one is not value]
    if further:
        observation["component"] = further
    if row.get("study_instance_uid"):
        observation["derivedFrom"] = [
            {
                "type": "ImagingStudy",
                "identifier": {"system": "urn:dicom:uid", "value": f"urn:oid:{row['study_instance_uid']}"},
                "display": f"SOP instance {scored.sop_instance_uid}",
            }
        ]
    return observation


def _component(one: Measurement, value: Measurement) -> Json:
    """A further measurement; one derived of ``value``, such as its standard deviation, is so called."""
    if one.derivation is None or one.name != value.name:
        return {"code": _concept(one.name, one.words), **_value(one)}
    words = one.derivation.meaning.capitalize()
    return {"code": _concept(replace(one.derivation, meaning=words), one.words), **_value(one)}


def _value(one: Measurement) -> Json:
    if isinstance(one.value, Code):
        return {"valueCodeableConcept": _concept(one.value)}
    quantity: Json = {"value": round(one.value, one.decimals)}
    if one.unit is not None:
        words = one.unit_words or one.unit.meaning
        quantity |= {"unit": words, "system": _SYSTEMS["UCUM"], "code": one.unit.value}
    return {"valueQuantity": quantity}


def _concept(code: Code, words: str = "") -> Json:
    coding = _coding(code)
    return {**({"coding": coding} if coding else {}), "text": words or code.meaning}


def _coding(code: Code) -> list[Json]:
    system = _SYSTEMS.get(code.scheme)
    return [{"system": system, "code": code.value, "display": code.meaning}] if system else []


def _url(name: str) -> str:
    return f"urn:uuid:{uuid.uuid5(uids.NAMESPACE, name)}"
