import pytest
import torch

from sparseq.data import CropFlip, Normalize
from sparseq.seeds import derived_generator


def images(n=40, channels=3, height=7, width=5):
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (n, channels, height, width), generator=generator).byte()


def test_normalize_is_the_formula_per_channel():
    x, mean, std = images(), (0.1, 0.5, 0.9), (0.2, 0.3, 0.4)
    got = Normalize(mean, std)(x)
    assert got.dtype == torch.float32
    for c in range(3):
        expected = (x[:, c].double() / 255 - mean[c]) / std[c]
        torch.testing.assert_close(got[:, c].double(), expected, rtol=0, atol=1e-5)
    assert torch.equal(x, images())


@pytest.mark.parametrize("padding", [0, 1, 4])
@pytest.mark.parametrize("flip", [True, False])
def test_every_image_is_a_crop_of_the_padded_one(padding, flip):
    x = images()
    got = CropFlip(padding, flip)(x, derived_generator("test", 1))
    assert (got.shape, got.dtype) == (x.shape, torch.uint8)
    padded = torch.nn.functional.pad(x, [padding] * 4)
    steps = range(2 * padding + 1)
    seen = set()
    for one, source in zip(got, padded, strict=True):
        crops = {
            (row, column, flipped): crop.flip(-1) if flipped else crop
            for row in steps
            for column in steps
            for crop in [source[:, row : row + 7, column : column + 5]]
            for flipped in (False, True)
        }
        seen |= {key for key, crop in crops.items() if torch.equal(one, crop)}
    assert {flipped for _, _, flipped in seen} == ({False, True} if flip else {False})
    assert {row for row, _, _ in seen} <= set(steps)
    assert len(seen) > (4 * padding if padding else 0)


def test_crops_depend_on_the_generator_alone():
    augment, x = CropFlip(2), images()
    torch.manual_seed(0)
    first = augment(x, derived_generator("test", 1))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert torch.equal(augment(x, derived_generator("test", 1)), first)
    assert not torch.equal(augment(x, derived_generator("test", 2)), first)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(x, images())


def test_shifts_and_flips_are_uniform():
    x = torch.zeros(4000, 1, 9, 9, dtype=torch.uint8)
    x[:, :, 4, 6] = 1
    positions = CropFlip(2)(x, derived_generator("test", 0)).flatten(1).argmax(1)
    rows = (positions // 9).bincount(minlength=9)
    columns = (positions % 9).bincount(minlength=9)
    assert rows.tolist()[:2] == rows.tolist()[7:] == [0, 0]
    assert (rows[2:7] / 4000 - 0.2).abs().max() < 0.03
    # column 6 moves to 4..8, flipped to 0..4
    assert (columns[[0, 1, 2, 3, 5, 6, 7, 8]] / 4000 - 0.1).abs().max() < 0.03
    assert abs(columns[4] / 4000 - 0.2) < 0.03


def test_an_empty_batch_stays_empty():
    assert CropFlip()(images(0), derived_generator("test")).shape == (0, 3, 7, 5)
