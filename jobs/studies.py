"""The ablations of a task as data: which views there are, what is trained on them, and what teaches it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A part of every instance; ``region`` is cut along boxes of the network of another view, ``found_by``.

    Without either it is the whole instance.
    """

    name: str
    region: str = ""
    found_by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table: a recipe trained on some views, with changes, and what teaches it."""

    name: str
    views: str
    """Names of views joined by ``+``."""
    recipe: str
    changes: tuple[str, ...] = ()
    is_taught: bool = False

    @property
    def folder(self) -> str:
        """Name of its run folder."""
        return self.name.replace(" ", "-").replace(",", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """``teacher`` is the row that is recorded for those that are taught; what finds a view has a row too."""

    task: str
    views: tuple[View, ...]
    teacher: str
    rows: tuple[Row, ...]

    def row(self, name: str) -> Row:
        """The row called ``name``."""
        return next(row for row in self.rows if row.name == name)


_WHOLE, _STUDENT = "hand-region", "hand-region-student"
_HAND_AGE = Study(
    task="hand-age",
    views=(
        View(name="O"),
        View(name="H", region="hand", found_by="O"),
        View(name="R1", region="carpals", found_by="H"),
        View(name="R2", region="metacarpals", found_by="H"),
    ),
    teacher="H+R1+R2",
    rows=(
        *(Row(name=view, views=view, recipe=_WHOLE) for view in ("O", "H", "R1", "R2")),
        Row(name="O, regression", views="O", recipe="hand-regression"),
        *(Row(name=views, views=views, recipe=_WHOLE) for views in ("H+R1", "H+R2", "R1+R2", "H+R1+R2")),
        Row(name="H+R1+R2, stacked", views="H+R1+R2", recipe=_WHOLE, changes=("fusion=channel_stack",)),
        Row(name="student alone", views="O", recipe=_STUDENT, changes=("distill=none",)),
        Row(
            name="student, kd", views="O", recipe=_STUDENT, changes=("distill=none", "distill.kd=1.0"),
            is_taught=True,
        ),
        Row(name="student, all terms", views="O", recipe=_STUDENT, is_taught=True),
    ),
)  # fmt: skip

STUDIES: dict[str, Study] = {study.task: study for study in (_HAND_AGE,)}
