"""Changed views of an image: a pure function of seed, step and row, each field doing what it says."""

from __future__ import annotations

import numpy as np
import pytest

from luthier.core.errors import DataError, ExperimentError
from luthier.data.image_views import OPERATIONS, ImageViews
from luthier.pilot.show import Shown, ShownImage, show

NONE = {"flip": 0.0, "crop": 1.0, "colour": 0.0, "trivial": 0.0}


@pytest.fixture
def picture() -> np.ndarray:
    down, across = np.mgrid[0:48, 0:64]
    return np.stack([across * 4 % 256, down * 5 % 256, (across + down) * 2 % 256], axis=2).astype(np.uint8)


def test_the_same_question_gives_the_same_view_and_another_step_row_or_seed_another(picture) -> None:
    views = ImageViews(trivial=1.0)
    assert np.array_equal(views.view(picture, 1, 2, 3), views.view(picture, 1, 2, 3))
    others = [views.view(picture, *key).tobytes() for key in ((1, 2, 3), (1, 2, 4), (1, 3, 3), (2, 2, 3))]
    assert len(set(others)) == 4
    assert all(views.view(picture, 1, step, 0).shape == picture.shape for step in range(40))


def test_nothing_asked_for_changes_nothing(picture) -> None:
    assert np.array_equal(ImageViews(**NONE).view(picture, 1, 2, 3), picture)


def test_a_flip_is_a_mirror_and_comes_as_often_as_asked(picture) -> None:
    assert np.array_equal(ImageViews(**{**NONE, "flip": 1.0}).view(picture, 1, 2, 3), picture[:, ::-1])
    half = ImageViews(**{**NONE, "flip": 0.5})
    flipped = sum(np.array_equal(half.view(picture, 1, step, 0), picture[:, ::-1]) for step in range(400))
    assert flipped == pytest.approx(200, abs=40)


def test_a_crop_shows_a_part_of_at_least_the_share_asked_for() -> None:
    size = 60
    gradient = np.repeat(np.tile(np.arange(size, dtype=np.uint8) * 4, (size, 1))[:, :, None], 3, axis=2)
    for step in range(60):
        seen = ImageViews(**{**NONE, "crop": 0.5}).view(gradient, 1, step, 0)[30, :, 0].astype(float)
        across = (seen[-1] - seen[0]) / 4 / size
        assert (np.diff(seen) >= 0).all()  # the order of what is seen stays
        assert 0.5 * 0.75**0.5 - 0.06 < across <= 1.0  # a side is at least sqrt(0.5 × 3/4) of the whole: proportions reach 3:4
    seen = {ImageViews(**{**NONE, "crop": 0.5}).view(gradient, 1, step, 0).tobytes() for step in range(60)}
    assert len(seen) > 40


def test_colour_keeps_a_grey_image_grey_and_its_shapes(picture) -> None:
    grey = np.repeat(picture[:, :, :1], 3, axis=2)
    seen = ImageViews(**{**NONE, "colour": 0.4}).view(grey, 1, 2, 3)
    assert not np.array_equal(seen, grey)
    assert (seen[:, :, 0] == seen[:, :, 1]).all()
    order = np.argsort(grey[0, :, 0].astype(int), kind="stable")
    assert (np.diff(seen[0, :, 0].astype(int)[order]) >= 0).all()  # what was brighter is not darker now


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_of_the_trivial_policy_keeps_the_size_and_all_but_one_change_something(name, picture) -> None:
    from PIL import Image

    rough = 40 + (picture // 4 + np.random.default_rng(0).integers(0, 64, picture.shape)).astype(np.uint8)
    seen = np.asarray(OPERATIONS[name](Image.fromarray(rough), 0.7, 1))
    assert seen.shape == rough.shape
    assert seen.dtype == np.uint8
    assert np.array_equal(seen, rough) == (name == "identity")


def test_shifts_are_shares_of_the_image_and_strength_nought_is_nothing(picture) -> None:
    from PIL import Image

    image = Image.fromarray(picture)
    moved = np.asarray(OPERATIONS["translate_x"](image, 0.5, 1))
    assert np.array_equal(moved[:, :48], picture[:, 16:])
    for name in ("rotate", "shear_x", "shear_y", "translate_x", "translate_y", "solarize", "posterize"):
        assert np.array_equal(np.asarray(OPERATIONS[name](image, 0.0, 1)), picture), name


def test_show_writes_a_page_of_views_and_says_a_texts_views(tmp_path, picture, bases) -> None:
    from PIL import Image

    for number in range(40):
        folder = tmp_path / "pictures" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
    found = show(tmp_path / "pictures", views=5, page=tmp_path / "views.html", set=["augment.images.trivial=1"])
    assert isinstance(found, ShownImage)
    assert (found.width, found.height, found.target) == (30, 20, "a")
    page = (tmp_path / "views.html").read_text()
    assert page.count("<img ") == 6
    assert "augment.images.trivial=1" in page
    with pytest.raises(DataError, match="need a page"):
        show(tmp_path / "pictures", views=5)
    with pytest.raises(ExperimentError, match=r"augment.images.flap.*\n.*did you mean 'flip'"):
        show(tmp_path / "pictures", set=["augment.images.flap=1"])
    rows = "".join(f"word{number} is a good number of words {number},{'ab'[number % 2]}\n" for number in range(60))
    (tmp_path / "texts.csv").write_text("text,label\n" + rows)
    said = show(tmp_path / "texts.csv", views=3, set=["augment.drop=0.5"], base=str(bases("bert").folder))
    assert isinstance(said, Shown)
    assert len(said.views) == 3 > 1 < len({*said.views})
