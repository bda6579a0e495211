"""A scored instance as a FHIR R4 bundle: an Observation and the Device that made it, in one JSON file.

``preliminary``, labelled as research by a security tag and in words. The patient is a logical reference by
the key of our tables, the study one by its UID (urn:dicom:uid): whoever may know who that is can look it up
there.
"""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

from engine.delivery import sr, uids
from engine.delivery.scored import MANUFACTURER, RESEARCH_USE, Model, Models, Scored, scored_of
from engine.store import ledger
from engine.store.files import MANIFEST_NAME, read_json, replacing

PATIENT_KEY_SYSTEM = "urn:osteoray:patient-key"
MODEL_SYSTEM = "urn:osteoray:model-sha256"

_LOINC, _SNOMED, _UCUM = "http://loinc.org", "http://snomed.info/sct", "http://unitsofmeasure.org"
_BODY_SITES = {"HAND": ("85562004", "Hand"), "KNEE": ("72696002", "Knee")}
_RESEARCH = {
    "system": "http://terminology.hl7.org/CodeSystem/v3-ActReason",
    "code": "HRESCH",
    "display": "healthcare research",
}
_DECIMALS = 2

Json = dict[str, Any]


def folder(scores: Path, target: Path) -> Json:
    """Write one bundle for each scored instance that counts; gives the count.

    Raises:
        TableError: a table of the folder cannot be read.
    """
    models = Models(read_json(scores / MANIFEST_NAME))
    gone = set(ledger.superseded(scores).to_pylist())
    target.mkdir(parents=True, exist_ok=True)
    count = 0
    for path in ledger.tables_of(scores, "predictions"):
        table = ledger.read_table(path)
        for row in table.drop_columns(["attention_map"]).to_pylist():
            if row["instance_index"] in gone:
                continue
            scored = scored_of(row)
            model = models.of(scored)
            with replacing(target / f"{sr.report_uid(scored, model)}.json") as temporary:
                text = json.dumps(bundle(scored, row, model), indent=1, allow_nan=False, ensure_ascii=False)
                temporary.write_text(text + "\n", encoding="utf-8")
            count += 1
    return {"bundles": count}


def bundle(scored: Scored, row: Json, model: Model) -> Json:
    """The bundle; of ``row`` it takes the patient's key and the study's UID."""
    device_url, observation_url = _url(model.sha256), _url(sr.report_uid(scored, model))
    entries = ((device_url, _device(model)), (observation_url, _observation(scored, row, model, device_url)))
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


def _observation(scored: Scored, row: Json, model: Model, device_url: str) -> Json:
    code, _, meaning = model.quantity.code
    site, site_name = _BODY_SITES[model.quantity.body_part]
    observation: Json = {
        "resourceType": "Observation",
        "meta": {"security": [_RESEARCH]},
        "identifier": [{"system": "urn:dicom:uid", "value": f"urn:oid:{sr.report_uid(scored, model)}"}],
        "status": "preliminary",
        "category": [
            {"coding": [{
                "system": "http://terminology.hl7.org/CodeSystem/observation-category", "code": "imaging",
            }]}
        ],
        "code": {
            "coding": [{"system": _LOINC, "code": code, "display": meaning}],
            "text": "Bone age predicted by a model",
        },
        "subject": {
            "type": "Patient",
            "identifier": {"system": PATIENT_KEY_SYSTEM, "value": row["patient_key"]},
        },
        "issued": model.scored_at.isoformat(),
        "valueQuantity": _months(scored.months),
        "bodySite": {"coding": [{"system": _SNOMED, "code": site, "display": site_name}]},
        "device": {"reference": device_url},
        "note": [{"text": RESEARCH_USE}],
        "component": _components(scored),
    }  # fmt: skip
    if row.get("study_instance_uid"):
        observation["derivedFrom"] = [
            {
                "type": "ImagingStudy",
                "identifier": {"system": "urn:dicom:uid", "value": f"urn:oid:{row['study_instance_uid']}"},
                "display": f"SOP instance {scored.sop_instance_uid}",
            }
        ]
    return observation


def _components(scored: Scored) -> list[Json]:
    coding = [{"system": _SNOMED, "code": "386136009", "display": "Standard deviation"}]
    sd = {
        "code": {"coding": coding, "text": "Standard deviation"},
        "valueQuantity": _months(scored.sd_months),
    }
    if not scored.interval:
        return [sd]
    names = ("Lower bound of prediction interval", "Upper bound of prediction interval")
    return [
        sd,
        *(
            {"code": {"text": name}, "valueQuantity": _months(months)}
            for name, months in zip(names, scored.interval, strict=True)
        ),
    ]


def _months(value: float) -> Json:
    return {"value": round(value, _DECIMALS), "unit": "months", "system": _UCUM, "code": "mo"}


def _url(name: str) -> str:
    return f"urn:uuid:{uuid.uuid5(uids.NAMESPACE, name)}"
