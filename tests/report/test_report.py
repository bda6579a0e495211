"""Reports are read back as a reader would: rows of tables, sentences, pictures; figures by hand."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine import errors
from engine.deploy.abstained import AbstainedError
from engine.errors import UsageError
from engine.evaluation.answer import Figures
from engine.imaging.overlay import overlay
from engine.report import page as writing
from engine.report.build import run_report, score_report
from engine.report.reasons import EXPLANATIONS
from engine.report.thumbnails import Images, png_uri
from tests.fixtures.report_fixture import (
    HEADLINE,
    MAP_HW,
    HeldOut,
    Page,
    Rejected,
    Scored,
    decoded,
    write_labels,
    write_run,
    write_score,
)


def score_page(folder: Path, **given) -> Page:
    return Page(score_report(folder, **{"labels": None, "compare": {}, "images": None, **given}))


HELD = [("a", 100.0, 103.0), ("b", 100.0, 91.0), ("c", 40.0, 52.0), ("d", 200.0, 230.0)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four held-out instances with errors +3, -9, +12, +30, two training ones with enormous errors."""
    sexes = {"a": "F", "b": "F", "c": "M", "d": None}
    held = [Scored(uid=uid, predicted=months, sex=sexes[uid], sd=10) for uid, _, months in HELD]
    return write_score(tmp_path / "score", [*held, *(Scored(uid=u, predicted=1.0, sd=1) for u in "xy")])


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    seen = [(uid, 200.0, "train") for uid in "xy"]
    return write_labels(tmp_path / "labels.csv", [*((u, t, "test") for u, t, _ in HELD), *seen])


def test_error_table_by_hand_on_held_out_instances_only(folder: Path, labels: Path) -> None:
    page = score_page(folder, labels=labels)
    group, images, mae, rmse, *within, bias, lower, upper = page.row("All")
    assert images == "4 4 patients"
    assert mae.split()[0] == "13.5"
    assert rmse.split()[0] == "16.8"  # sqrt(1134 / 4)
    assert [cell.split()[0] for cell in within] == ["25.0", "75.0", "75.0"]
    assert bias.split()[0] == "9.0"
    assert lower.split()[0] == "−23.2"  # sd sqrt(270) = 16.43, 9 -+ 32.2
    assert upper.split()[0] == "41.2"
    assert page.row("Female")[2].split()[0] == "6.0"
    assert page.row("Not stated")[2].split()[0] == "30.0"
    assert page.row("0 to under 5 years")[2].split()[0] == "12.0"
    assert page.row("5 to under 10 years")[1] == "2 2 patients"
    assert not page.has_row("10 to under 15 years")
    assert page.row("15 years and over")[2].split()[0] == "30.0"
    assert "Held-out images only" in page.text
    assert "2 labelled images of other splits are not counted" in page.text


def test_labels_of_another_archive_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="names none of the .* scored instances"):
        score_page(folder, labels=write_labels(tmp_path / "l.csv", [("9.9", 90.0, "test")]))


def test_without_a_split_all_labels_count_and_the_page_warns(folder: Path, tmp_path: Path) -> None:
    rows = [*((u, t, "") for u, t, _ in HELD), ("x", 2.0, "")]
    page = score_page(folder, labels=write_labels(tmp_path / "l.csv", rows, split=False))
    assert page.row("All")[1] == "5 5 patients"
    assert "Not held out, as far as this page can tell" in page.text
    assert "Held-out images only" not in page.text
    assert "1 scored images have no label" in page.text


def test_what_fell_out_of_the_evaluation_is_said(tmp_path: Path) -> None:
    scored = [Scored(uid=u, predicted=p) for u, p in (("a", 50), ("a", 90), ("b", 60), ("n", float("nan")))]
    rows = [
        ("a", 48.0, "test"),
        ("b", 60.0, "test"),
        ("n", 9.0, "test"),
        ("gone", 9.0, "test"),
        ("e", "", "test"),
    ]
    page = score_page(write_score(tmp_path / "s", scored), labels=write_labels(tmp_path / "l.csv", rows))
    assert page.row("All")[2].split()[0] == "1.0"  # the first copy of a, and b
    assert "1 repeated copies of an image are counted once" in page.text
    assert "1 predictions that are no number are not counted" in page.text
    assert "2 labelled images have no prediction" in page.text  # n and gone


def test_uncertainty_table_by_hand(tmp_path: Path) -> None:
    count = 40  # errors 5 with sd 4, 6, 8, 10 by quarter: outside one sd only in the first
    scored = [Scored(uid=f"u{i}", predicted=55, sd=4 + 2 * (i // 10)) for i in range(count)]
    rows = [(f"u{i}", 50.0, "test") for i in range(count)]
    page = score_page(write_score(tmp_path / "s", scored), labels=write_labels(tmp_path / "l.csv", rows))
    overall = next(row for row in page.rows if row[:2] == ["All", "40"] and "7.0" in row)
    assert overall[2:] == ["7.0", "5.0", "75.0", "100.0"]
    assert page.row("Surest quarter")[2:] == ["4.0", "5.0", "0.0", "100.0"]
    assert page.row("Least sure quarter")[2:] == ["10.0", "5.0", "100.0", "100.0"]


def test_intervals_are_by_patient(tmp_path: Path) -> None:
    # One patient without error three times, one with error 10: resampled MAE is 0, 2.5 or 10.
    scored = [Scored(uid=f"u{i}", predicted=50 + 10 * (i == 3), patient="ab"[i == 3]) for i in range(4)]
    rows = [(f"u{i}", 50.0, "test") for i in range(4)]
    page = score_page(write_score(tmp_path / "s", scored), labels=write_labels(tmp_path / "l.csv", rows))
    assert page.row("All")[1:3] == ["4 2 patients", "2.5 0.0 to 10.0"]


NASTY = "a/<script>alert(1)</script>&\"'/\u202efdp.dcm"


def test_text_from_files_is_escaped_and_cannot_disguise_itself(tmp_path: Path) -> None:
    bad = Rejected(path=NASTY, reason="truncated", code="ORY-I03", message="<img src=x onerror=alert(1)>")
    folder = write_score(
        tmp_path / "s", [Scored(uid='"><marquee>', predicted=9)], quarantined=[bad], source="<iframe>\x07"
    )
    run = write_run(
        tmp_path / "r", [HeldOut(uid="a", truth=9, predicted=9)], epochs=[{"epoch": 1, "val/error": 3}]
    )
    page = score_page(folder, compare={"<u>$x_1": run, "_b": run}, has_names=True)
    assert page.tags.isdisjoint({"script", "marquee", "iframe", "u", "img"})
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&amp;" in page.html
    assert "\u202e" not in page.html
    assert "\x07" not in page.html
    assert "<u>$x_1 minus _b" in page.text


@pytest.mark.parametrize("with_labels", [True, False])
def test_the_page_is_complete_in_itself(
    folder: Path, labels: Path, tmp_path: Path, with_labels: bool
) -> None:
    run = write_run(
        tmp_path / "r", [HeldOut(uid="a", truth=9, predicted=9)], epochs=[{"epoch": 1, "val/error": 3.0}]
    )
    page = score_page(folder, labels=labels if with_labels else None, compare={"r": run}, images=grey)
    for link in page.links:
        assert link.startswith(("#", "data:image/png;base64,"))
    assert set(re.findall(r"url\((.)", page.html)) <= {"#"}
    assert not re.findall(r"https?:|@import|//\w+\.|\bon\w+=", re.sub(r"base64,[\w+/=]+", "", page.html))
    assert page.tags.isdisjoint({"script", "iframe", "object", "embed", "form", "link", "base"})
    assert "default-src 'none'" in page.html
    assert len(page.ids) == len(set(page.ids))
    assert all(link[1:] in page.ids for link in page.links if link.startswith("#"))
    assert page.text.count("For research use only.") == 2


def test_the_same_folder_gives_the_same_bytes(folder: Path, labels: Path) -> None:
    pages = {score_report(folder, labels=labels, compare={}, images=grey) for _ in range(2)}
    assert len(pages) == 1


def test_an_empty_folder_has_a_page(tmp_path: Path) -> None:
    page = score_page(
        write_score(tmp_path / "s"), labels=write_labels(tmp_path / "l.csv", [("a", 9.0, "test")])
    )
    assert "No file was found in the source" in page.text
    assert "No held-out image has both a label and a prediction" in page.text
    assert "nan" not in page.text.lower().split()


def test_nothing_scored_and_nothing_quarantined_are_said(tmp_path: Path) -> None:
    only_bad = [Rejected(path="x", reason="empty_file", code="ORY-I01")]
    page = score_page(write_score(tmp_path / "bad", quarantined=only_bad))
    assert "0 of 1 file were scored" in page.text
    assert "1 could not be read and is listed with the reason" in page.text
    page = score_page(write_score(tmp_path / "good", [Scored(uid="a", predicted=9)]))
    assert "Nothing was quarantined" in page.text
    assert "No label table was given" in page.text


def test_outcomes_are_counted_from_the_tables(tmp_path: Path) -> None:
    scored = [Scored(uid=f"u{i}", predicted=9) for i in range(4)]
    page = score_page(write_score(tmp_path / "s", scored, shard_size=2))
    assert page.row("Tables")[1:] == ["4", "4", "0", "0", "0", "0"]
    assert "They add up." in page.text
    (tmp_path / "s/shards/00001/shard.json").unlink()
    page = score_page(tmp_path / "s")
    assert page.row("Tables")[1:] == ["4", "2", "0", "0", "0", "2"]
    assert page.row("Manifest")[1:] == ["4", "4", "0", "0", "0", "0"]
    assert "The counts do not add up." in page.text


def test_an_unfinished_score_and_a_mixed_one_are_marked(tmp_path: Path) -> None:
    scored = [Scored(uid="a", predicted=9), Scored(uid="b", predicted=9, model_sha256="cd" * 32)]
    folder = write_score(tmp_path / "s", scored)
    assert "2 different models wrote into this folder" in score_page(folder).text
    begun = {"kind": "score", "task": "hand-age", "started": "2026-11-21T09:00:00+00:00", "complete": False}
    (folder / "manifest.json").write_text(json.dumps(begun))
    assert "This scoring has not finished." in score_page(folder).text


def test_every_reason_is_explained() -> None:
    def leaves(kind: type) -> set[str]:
        return {sub.reason for sub in kind.__subclasses__()}

    families = (errors.InstanceError, errors.FilteredError, AbstainedError)
    assert set(EXPLANATIONS) == set().union(*(leaves(family) for family in families))


def test_a_rare_reason_is_listed_among_twenty_files(tmp_path: Path) -> None:
    bad = [Rejected(path=f"{i:03}.dcm", reason="bad_header", code="ORY-I04") for i in range(60)]
    bad.append(Rejected(path="zzz.dcm", reason="truncated", code="ORY-I03", message="ends at byte 9"))
    folder = write_score(tmp_path / "s", quarantined=bad)
    assert ".dcm" not in score_page(folder).html  # a file may be called as the patient is
    assert ["60", "truncated", "ends at byte 9"] in score_page(folder).rows
    page = score_page(folder, has_names=True)
    files = [row for row in page.rows if row and row[0].endswith(".dcm")]
    assert len(files) == 20
    assert ["zzz.dcm", "truncated", "ends at byte 9"] in files
    assert page.row("bad_header")[:3] == ["bad_header", "ORY-I04", "60"]
    assert page.row("truncated")[3].startswith("The file ends before")


def grey(rule: Mapping[str, Any], paths: Sequence[str]) -> Images:
    return {path: np.full((28, 28), 40 + len(path), np.uint8) for path in paths}


def test_cases_are_the_worst_held_out_and_the_least_sure(folder: Path, labels: Path) -> None:
    asked: list[str] = []

    def again(rule: Mapping[str, Any], paths: Sequence[str]) -> Images:
        asked.extend(paths)
        return grey(rule, [path for path in paths if path != "b.dcm"])  # that one is gone

    page = score_page(folder, labels=labels, images=again)
    assert asked == ["d.dcm", "c.dcm", "b.dcm", "a.dcm"]  # each once
    shown = page.text.split("Largest errors among held-out images")[1].split("Models")[0]
    assert shown.index("30.0 months") < shown.index("12.0 months") < shown.index("9.0 months")
    assert "Error 30.0 months · truth 200 months Predicted bone age 230 months, sd 10." in shown
    assert page.html.count('alt="Image as the network saw it"') == 6  # all but b, which is shown twice


def test_without_a_reader_pictures_are_left_out_with_a_sentence(folder: Path) -> None:
    page = score_page(folder)
    assert "img" not in page.tags
    assert "The pictures are left out" in page.text


def test_the_attention_map_belongs_to_its_instance(tmp_path: Path) -> None:
    strong = np.full(MAP_HW, 255, np.uint8)
    scored = [
        Scored(uid=f"u{i}", predicted=9, sd=i, attention_hw=strong if i == 2 else None) for i in range(3)
    ]
    page = score_page(write_score(tmp_path / "s", scored, shard_size=2), images=grey)
    pictures = [decoded(link) for link in page.links if link.startswith("data:")]
    assert np.ptp(pictures[1].astype(int), axis=2).min() > 50  # u2, the least sure: coloured all over
    assert all(np.ptp(picture.astype(int), axis=2).max() == 0 for picture in pictures[2:])


def test_overlay_leaves_grey_what_has_no_attention() -> None:
    image = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert (overlay(image, np.zeros((4, 4), np.uint8)) == image[..., None]).all()
    strongest = overlay(image, np.full((4, 4), 255, np.uint8))
    assert strongest[0, 0].tolist() == [191, 169, 68]  # 0.75 of the ramp's end (255, 225, 90) over black
    assert decoded(png_uri(np.zeros((480, 240), np.uint8))).shape == (240, 120, 3)


def three_runs(tmp_path: Path) -> dict[str, Path]:
    def rows(error: float) -> list[HeldOut]:
        return [HeldOut(uid=f"u{i}", truth=100, predicted=100 + error * (-1) ** i) for i in range(30)]

    swapped = [HeldOut(uid=f"u{i}", truth=100, predicted=100 + (2, 4)[i % 2]) for i in range(30)]
    other = [HeldOut(uid=f"v{i}", truth=100, predicted=101) for i in range(30)]
    named = {"good": rows(2), "bad": rows(5), "level": swapped, "elsewhere": other, "empty": []}
    return {name: write_run(tmp_path / name, held) for name, held in named.items()}


def test_runs_are_compared_in_pairs_and_in_plain_words(tmp_path: Path) -> None:
    runs = three_runs(tmp_path)
    page = score_page(write_score(tmp_path / "s"), compare=runs)
    assert page.row("good minus bad")[1:] == [
        "30",
        "−3.00",
        "–",
        "0.006",  # the smallest of 1,000 draws, times the three pairs that can be compared
        "good is better : the interval excludes zero.",
    ]
    level = score_page(tmp_path / "s", compare={"a": runs["level"], "b": mirrored(tmp_path)}).row("a minus b")
    assert level[2] == "0.00"
    assert level[5] == "No difference can be claimed : the interval includes zero."
    assert page.row("good minus elsewhere")[5].startswith("No image in common")
    assert page.row("empty")[5:7] == ["0", "–"]
    assert page.row("bad")[1:5] == ["student", "mobilenetv3_small_100", "kd (1), attention (0.5)", "1.55"]


def test_among_several_pairs_less_is_claimed(tmp_path: Path) -> None:
    """The same two runs, alone and beside a third: what may be chance among three pairs is not claimed."""
    errors = {"a": [2] * 30, "b": [3] * 19 + [1] * 8 + [2] * 3, "c": [-2] * 30}
    runs = {
        name: write_run(
            tmp_path / name,
            [HeldOut(uid=f"u{i}", truth=100, predicted=100 + error) for i, error in enumerate(held)],
        )
        for name, held in errors.items()
    }
    scored = write_score(tmp_path / "s")
    alone = score_page(scored, compare={name: runs[name] for name in "ab"}).row("a minus b")
    among = score_page(scored, compare=runs).row("a minus b")
    assert 0.01 < float(alone[4]) < 0.05
    assert alone[5] == "a is better : the interval excludes zero."
    assert float(among[4]) == pytest.approx(3 * float(alone[4]), abs=0.002)
    assert among[5] == "No difference can be claimed among so many pairs."


def mirrored(tmp_path: Path) -> Path:
    held = [HeldOut(uid=f"u{i}", truth=100, predicted=100 - (4, 2)[i % 2]) for i in range(30)]
    return write_run(tmp_path / "mirrored", held)


def test_a_run_has_its_own_page(tmp_path: Path) -> None:
    held = [HeldOut(uid=uid, truth=truth, predicted=predicted) for uid, truth, predicted in HELD]
    epochs = [
        {"epoch": e, "train/loss": 2 / e, "val/error": 9 / e, "term/kd/weighted": 1 / e} for e in (1, 2)
    ]
    run = write_run(tmp_path / "night", held, epochs=epochs)
    curve = run / "metrics.jsonl"
    curve.write_text(curve.read_text() + '{"epoch": 3, "train')  # torn by a kill
    page = Page(run_report(run))
    assert page.row("All")[2].split()[0] == "13.5"
    assert "12 min 34 s 2 epochs" in page.text
    assert page.row("optimiser.name") == ["optimiser.name", "adamw"]
    assert "term/kd" in page.html


def test_a_run_shows_what_it_recorded_and_that_it_is_not_finished(tmp_path: Path) -> None:
    held = [HeldOut(uid="a", truth=10, predicted=12)]
    recorded = {"figures": Figures(headline=HEADLINE).facts()}
    run = write_run(tmp_path / "r", held, evaluation=recorded, status="running", seconds=None)
    text = Page(run_report(run)).text
    assert "mean absolute error 7.25 months (95 % interval 6.50 to 8.00)" in text  # not 2, of the table
    assert "This training has not finished." in text
    bare = write_run(tmp_path / "bare", evaluation=None, parameters=None, recipe={}, speed=None)
    text = Page(run_report(bare)).text
    assert "its accuracy is not known" in text
    assert "It learned from labels alone" in text


def test_a_large_cloud_becomes_one_picture(tmp_path: Path) -> None:
    held = [HeldOut(uid=str(i), truth=i % 200, predicted=i % 190) for i in range(3001)]
    html = run_report(write_run(tmp_path / "r", held))
    assert len(html) < 600_000
    assert "data:image/png" in html


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (writing.number(-0.04), "0.0"),
        (writing.number(-1234.56), "−1,234.6"),
        (writing.number(float("nan")), "–"),
        (writing.signed(0.04), "0.0"),
        (writing.signed(0.06), "+0.1"),
        (writing.signed(-2.0), "−2.0"),
        (writing.percent(1.0), "100.0 %"),
        (writing.percent(0.9999), "> 99.9 %"),
        (writing.percent(0.0001), "< 0.1 %"),
        (writing.percent(0.0), "0.0 %"),
        (writing.percent(float("nan")), "–"),
        (writing.duration(59.94), "59.9 s"),
        (writing.duration(4000), "1 h 6 min"),
        (writing.duration(None), "–"),
        (writing.short("ab" * 32), "ab" * 6),
        (writing.date("2026-11-21T09:02:00+00:00"), "21 November 2026, 09:02 UTC"),
        (writing.date("soon"), "soon"),
        (writing.value([112, True, None, 0.25]), "112, yes, –, 0.25"),
        (writing.value("x" * 900), "x" * 400 + "…"),
    ],
)
def test_how_figures_are_written(written: str, expected: str) -> None:
    assert written == expected
