"""The teacher cache: written by shards, mapped, refused where it does not fit; the same losses as live."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from numpy.typing import NDArray

from engine.distillation import teacher_cache
from engine.distillation.cached_teacher import RecordedTeacher
from engine.distillation.teacher_cache import (
    OUTPUTS,
    Keys,
    TeacherCache,
    digests,
    open_cache,
    require_intact,
    write_shard,
)
from engine.distillation.terms import TERMS
from engine.errors import TableError, TeacherCacheError, UnknownNameError, UsageError
from engine.imaging.augment import Augmentation, draw
from engine.models.network import Network, frozen
from engine.store import ledger
from engine.tasks import task_named
from engine.training.checkpoint import State, load_state, new_state, save_state
from engine.training.dataset import TrainingSet
from engine.training.forward import views_of
from engine.training.loop import Log, Teacher, World, epochs, recorded_for
from engine.training.recipe import Recipe, changed
from engine.training.record_teacher import recorded_outputs, require_outputs
from tests.fixtures.training_fixture import BACKBONE, SIZE, disc_set, net_facts, tiny_recipe

torch.set_num_threads(1)

LEARNING = task_named("hand-age").learning()
STILL = Augmentation(rotation_deg=0, scale=0, shift=0, gamma=0, contrast=0)
SHARD = 16


@pytest.fixture(scope="module")
def discs() -> TrainingSet:
    return disc_set(80)


def net(seed: int = 9) -> Network:
    torch.manual_seed(seed)
    return frozen(Network(net_facts(backbone=BACKBONE)))


def facts(names: list[str], net: Network, *, size_HW: tuple[int, int] = (SIZE, SIZE)) -> dict[str, Any]:
    return {
        "kind": "record-teacher",
        "config_sha256": "c0ffee",
        "channels": list(net.channels) if "features" in names else [],
        "teachers": [{"run": "a run", "backbone": BACKBONE, "sha256": "beef"}],
        "outputs": names,
        "rule": {"view": {"size_HW": list(size_HW)}},
        "view_sha256": "f00d",
    }


def record(folder: Path, data: TrainingSet, names: list[str], teacher: Network) -> dict[str, Any]:
    """A cache of all samples, in shards of 16."""
    manifest = facts(names, teacher)
    ledger.begin(folder, manifest)
    for shard, start in enumerate(range(0, len(data.uids_N), SHARD)):
        part = slice(start, start + SHARD)
        arrays = recorded_outputs([teacher], data.images_NVHW[part], [data.covariates_NQ[part]], names)
        write_shard(folder, shard, keys(data, part), arrays, digests(manifest))
    return manifest


def keys(data: TrainingSet, part: slice) -> Keys:
    uids = data.uids_N[part].tolist()
    return Keys(uids=uids, contents=uids, to_network_N9=data.to_network_N33[part].reshape(-1, 9))


@pytest.fixture(scope="module")
def cache(discs: TrainingSet, tmp_path_factory: pytest.TempPathFactory) -> TeacherCache:
    folder = tmp_path_factory.mktemp("cache")
    record(folder, discs, list(OUTPUTS), net())
    assert teacher_cache.missing_shards(folder, 6) == [5]
    assert teacher_cache.close(folder, 5) == {"recorded": 80}
    return open_cache(folder)


def read(cache: TeacherCache, column: str, uids: list[str]) -> NDArray[Any]:
    return cache.read(column, cache.places(uids))


def test_a_sample_is_found_by_its_uid_whatever_the_order(cache: TeacherCache, discs: TrainingSet) -> None:
    chosen = np.array([70, 3, 16, 15, 3])
    with torch.no_grad():
        x_BVHW = torch.from_numpy(discs.images_NVHW[chosen]).float() / 255
        live = net()(x_BVHW, torch.from_numpy(discs.covariates_NQ[chosen]))
    uids = discs.uids_N[chosen].tolist()
    np.testing.assert_allclose(read(cache, "logits", uids), live.logits_BK, atol=1e-5)
    np.testing.assert_allclose(read(cache, "embedding", uids), live.embedding_BC, atol=2e-3)
    np.testing.assert_allclose(read(cache, "dense", uids), live.class_maps_BKhw, atol=2e-3)
    for tap, maps in enumerate(live.features):
        np.testing.assert_allclose(read(cache, f"features_{tap}", uids), maps, rtol=1e-3, atol=2e-3)
    assert read(cache, "attention", uids).max() == 255


def test_columns_have_their_forms_and_lie_on_the_mapped_file(cache: TeacherCache) -> None:
    kinds = {name: parts[0].dtype for name, parts in cache.columns.items()}
    assert kinds.pop("logits") == np.float32
    assert kinds.pop("attention") == np.uint8
    assert set(kinds.values()) == {np.dtype(np.float16)}
    assert set(kinds) == {"embedding", "dense", "features_0", "features_1"}
    for parts in cache.columns.values():
        assert all(not part.flags.owndata and not part.flags.writeable for part in parts)


def test_any_arrow_reader_reads_a_shard_without_us(cache: TeacherCache) -> None:
    table = pa.ipc.open_file(cache.folder / "shards" / "00000.arrow").read_all()
    assert table.num_rows == SHARD
    assert table.schema.field("logits").type == pa.fixed_shape_tensor(pa.float32(), [240])


def test_an_instance_that_was_not_recorded_is_refused(cache: TeacherCache, discs: TrainingSet) -> None:
    strange = replace(discs, uids_N=np.where(np.arange(80) == 5, "2.25.999", discs.uids_N))
    with pytest.raises(TeacherCacheError, match="lacks 1 of 56 samples"):
        recorded_for(strange, cache, ["kd"])


def test_a_term_that_needs_more_says_what_to_record(tmp_path: Path, discs: TrainingSet) -> None:
    record(tmp_path, discs, ["logits"], net())
    teacher_cache.close(tmp_path, 5)
    cache = open_cache(tmp_path)
    recorded_for(discs, cache, ["kd", "reg"])
    with pytest.raises(TeacherCacheError, match="the term hint needs features.*--outputs logits,features"):
        recorded_for(discs, cache, ["kd", "hint"])


def test_a_shard_of_another_teacher_is_refused(tmp_path: Path, discs: TrainingSet) -> None:
    manifest = record(tmp_path, discs, ["logits"], net())
    other = {**manifest, "teachers": [{"run": "another", "backbone": BACKBONE, "sha256": "dead"}]}
    part = slice(0, SHARD)
    arrays = recorded_outputs([net(1)], discs.images_NVHW[part], [discs.covariates_NQ[part]], ["logits"])
    write_shard(tmp_path, 0, keys(discs, part), arrays, digests(other))
    with pytest.raises(TeacherCacheError, match="of another teacher"):
        teacher_cache.close(tmp_path, 5)


def test_what_is_unfinished_or_damaged_or_begun_otherwise_is_refused(
    tmp_path: Path, discs: TrainingSet
) -> None:
    manifest = record(tmp_path, discs, ["logits"], net())
    with pytest.raises(TeacherCacheError, match="no finished teacher cache"):
        open_cache(tmp_path)
    with pytest.raises(TableError, match="another configuration"):
        ledger.begin(tmp_path, {**manifest, "config_sha256": "0"})
    teacher_cache.close(tmp_path, 5)
    require_intact(tmp_path)
    path = tmp_path / "shards" / "00003.arrow"
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(TeacherCacheError, match="was changed"):
        require_intact(tmp_path)
    path.unlink()
    with pytest.raises(TeacherCacheError, match="absent or damaged"):
        open_cache(tmp_path)


def test_several_teachers_give_the_mean_of_their_distributions(discs: TrainingSet) -> None:
    nets, known, images = [net(1), net(2)], discs.covariates_NQ[:4], discs.images_NVHW[:4]
    both = recorded_outputs(nets, images, [known, known], ["logits"])["logits"]
    apart = [recorded_outputs([one], images, [known], ["logits"])["logits"] for one in nets]
    mean = np.mean([torch.from_numpy(logits).softmax(1) for logits in apart], axis=0)
    np.testing.assert_allclose(torch.from_numpy(both).softmax(1), mean, atol=1e-6)


def test_several_passes_give_their_mean_distribution_and_the_maps_of_the_first(discs: TrainingSet) -> None:
    teacher, known_BQ, images_BVHW = net(1), discs.covariates_NQ[:4], discs.images_NVHW[:4]
    names = ["logits", "embedding"]
    plain = recorded_outputs([teacher], images_BVHW, [known_BQ], names)
    averaged = recorded_outputs([teacher], images_BVHW, [known_BQ], names, passes=3)
    x_BVHW = torch.from_numpy(images_BVHW).float() / 255
    with torch.inference_mode():
        apart = [teacher(see(x_BVHW), torch.from_numpy(known_BQ)).logits_BK.softmax(1) for see in views_of(3)]
    mean_BK = torch.stack(apart).mean(0)
    torch.testing.assert_close(torch.from_numpy(averaged["logits"]).softmax(1), mean_BK)
    np.testing.assert_array_equal(averaged["embedding"], plain["embedding"])
    assert not np.allclose(averaged["logits"], plain["logits"])


def test_a_pass_of_an_image_does_not_depend_on_its_neighbours(discs: TrainingSet) -> None:
    x_BVHW = torch.from_numpy(discs.images_NVHW[:4]).float() / 255
    together, alone = ([see(x) for see in views_of(3)] for x in (x_BVHW, x_BVHW[2:3]))
    assert torch.equal(together[0], x_BVHW)
    for all_of_them, one in zip(together, alone, strict=True):
        torch.testing.assert_close(all_of_them[2:3], one)


@pytest.mark.parametrize(
    ("names", "count", "views", "error"),
    [
        (["logits", "featurs"], 1, 1, UnknownNameError),
        (["embedding"], 1, 1, UsageError),
        (["logits", "embedding"], 2, 1, UsageError),
        (["logits", "attention"], 1, 2, UsageError),
    ],
)
def test_what_teachers_cannot_give_is_refused(
    names: list[str], count: int, views: int, error: type[Exception]
) -> None:
    nets = [Network(net_facts(backbone=BACKBONE, num_views=views)) for _ in range(count)]
    with pytest.raises(error):
        require_outputs(names, nets)


def test_every_term_says_what_it_needs() -> None:
    assert all(term.needs for term in TERMS.values())
    assert {name for term in TERMS.values() for name in term.needs} <= set(OUTPUTS)
    assert [name for name, term in TERMS.items() if term.adapts] == ["hint"]


def started(recipe: Recipe, channels: tuple[int, ...]) -> State:
    model = net_facts(backbone=BACKBONE)
    return new_state(recipe, LEARNING.network, model, channels, torch.device("cpu"))


def trained(recipe: Recipe, data: TrainingSet, teacher: Teacher | RecordedTeacher) -> list[Log]:
    state = new_state(
        recipe, LEARNING.network, net_facts(backbone=BACKBONE), teacher.channels, torch.device("cpu")
    )
    return list(epochs(recipe, LEARNING, data, state, world=World(), teacher=teacher))


def student(augmentation: Augmentation) -> Recipe:
    return tiny_recipe(
        role="student",
        epochs=1,
        distill=dict.fromkeys(TERMS, 0.5),
        augmentation=augmentation,
        learning_rate=1e-4,
    )


def test_without_augmentation_every_loss_is_that_of_the_live_teacher(
    cache: TeacherCache, discs: TrainingSet
) -> None:
    recipe = student(STILL)
    (live,) = trained(recipe, discs, Teacher(net=net(), precision="f32"))
    (looked_up,) = trained(recipe, discs, recorded_for(discs, cache, TERMS))
    for name in (f"term/{term}/raw" for term in TERMS):
        assert looked_up[name] == pytest.approx(live[name], rel=5e-3, abs=1e-4), name
    assert looked_up["train/loss"] == pytest.approx(live["train/loss"], rel=1e-3)


def test_maps_move_with_the_augmented_image(cache: TeacherCache, discs: TrainingSet) -> None:
    """A flip, which needs no interpolation: the recorded map is the mirrored one."""
    flipped = Augmentation(rotation_deg=0, scale=0, shift=0, gamma=0, contrast=0, flip=1)

    teacher, index_B = recorded_for(discs, cache, ["cat", "gradcam"]), np.arange(4)
    still, mirrored = (
        teacher.outputs(index_B, draw(4, ranges, seed=0, epoch=0).warp((SIZE, SIZE)), torch.device("cpu"))
        for ranges in (STILL, flipped)
    )
    assert torch.equal(still.logits_BK, mirrored.logits_BK)
    torch.testing.assert_close(mirrored.class_maps_BKhw, still.class_maps_BKhw.flip(3), atol=1e-5, rtol=0)
    assert still.attention_Bhw is not None
    assert mirrored.attention_Bhw is not None
    torch.testing.assert_close(mirrored.attention_Bhw, still.attention_Bhw.flip(2), atol=1e-5, rtol=0)


def test_a_teacher_of_a_crop_teaches_on_the_full_view(
    tmp_path: Path, cache: TeacherCache, discs: TrainingSet
) -> None:
    """The teacher saw the left half at twice the size: its maps lie on the left half, the right is empty."""
    crop = np.broadcast_to(np.diag([2.0, 1.0, 1.0]), (80, 3, 3)) + np.array(
        [[0, 0, 0.5], [0, 0, 0], [0, 0, 0]]
    )
    cropped = replace(discs, to_network_N33=crop)
    record(tmp_path, cropped, ["logits", "dense"], net())
    teacher_cache.close(tmp_path, 5)
    teacher = recorded_for(discs, open_cache(tmp_path), ["cat"])
    unmoved = Augmentation(rotation_deg=0, scale=0, shift=0, gamma=0, contrast=0)

    warp = draw(4, unmoved, seed=0, epoch=0).warp((SIZE, SIZE))
    dense = teacher.outputs(np.arange(4), warp, torch.device("cpu")).class_maps_BKhw
    columns = dense.shape[3]
    assert dense[..., : columns // 2].abs().amax() > 0
    assert dense[..., (columns + 1) // 2 + 1 :].abs().sum() == 0


def test_the_same_seed_and_cache_give_the_same_weights(cache: TeacherCache, discs: TrainingSet) -> None:
    recipe = student(Augmentation())
    logs = [trained(recipe, discs, recorded_for(discs, cache, TERMS))[0] for _ in range(2)]
    for log in logs:
        log.pop("seconds")
    assert logs[0] == logs[1]


def test_a_resumed_student_of_a_cache_ends_bit_for_bit_as_one_that_was_not_stopped(
    cache: TeacherCache, discs: TrainingSet, tmp_path: Path
) -> None:
    recipe = changed(student(Augmentation()), epochs=2, accumulate=2)
    teacher = recorded_for(discs, cache, TERMS)

    def begun() -> tuple[State, Iterator[Log]]:
        state = new_state(
            recipe, LEARNING.network, net_facts(backbone=BACKBONE), teacher.channels, torch.device("cpu")
        )
        return state, epochs(recipe, LEARNING, discs, state, world=World(), teacher=teacher)

    whole, logs = begun()
    next(logs)
    save_state(whole, tmp_path)
    list(logs)
    torch.manual_seed(77)  # whatever the next process drew before
    resumed, logs = begun()
    load_state(resumed, tmp_path)
    list(logs)
    theirs = whole.trainee.state_dict()
    assert resumed.step == whole.step
    assert all(torch.equal(theirs[name], value) for name, value in resumed.trainee.state_dict().items())
