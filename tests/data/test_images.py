import pytest
import torch

from sparseq.data import CropFlip, Normalize
from sparseq.seeds import derived_generator


def images(n=40, channels=3, height=7, width=5):
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (n, channels, height, width), generator=generator).byte()


def test_normalize_is_the_formula_channel_by_channel():
    x, mean, std = images(), (0.1, 0.5, 0.9), (0.2, 0.3, 0.4)
    got = Normalize(mean, std)(x)
    assert got.dtype == torch.float32
    for c in range(3):
        want = (x[:, c].double() / 255 - mean[c]) / std[c]
        torch.testing.assert_close(got[:, c].double(), want, rtol=0, atol=1e-5)
    assert torch.equal(x, images())


@pytest.mark.parametrize("padding", [0, 1, 4])
@pytest.mark.parametrize("flip", [True, False])
def test_every_image_is_a_window_of_the_padded_one(padding, flip):
    x = images()
    got = CropFlip(padding, flip)(x, derived_generator("test", 1))
    assert (got.shape, got.dtype) == (x.shape, torch.uint8)
    padded = torch.nn.functional.pad(x, [padding] * 4)
    steps = range(2 * padding + 1)
    seen = set()
    for one, source in zip(got, padded, strict=True):
        windows = {
            (row, column, mirrored): window.flip(-1) if mirrored else window
            for row in steps
            for column in steps
            for window in [source[:, row : row + 7, column : column + 5]]
            for mirrored in (False, True)
        }
        seen |= {place for place, window in windows.items() if torch.equal(one, window)}
    assert {place[2] for place in seen} == ({False, True} if flip else {False})
    assert {place[0] for place in seen} <= set(steps)
    assert len(seen) > (4 * padding if padding else 0)


def test_it_follows_its_generator_alone():
    change, x = CropFlip(2), images()
    torch.manual_seed(0)
    first = change(x, derived_generator("test", 1))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert torch.equal(change(x, derived_generator("test", 1)), first)
    assert not torch.equal(change(x, derived_generator("test", 2)), first)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(x, images())


def test_shifts_and_flips_are_uniform():
    x = torch.zeros(4000, 1, 9, 9, dtype=torch.uint8)
    x[:, :, 4, 6] = 1
    places = CropFlip(2)(x, derived_generator("test", 0)).flatten(1).argmax(1)
    rows = (places // 9).bincount(minlength=9)
    columns = (places % 9).bincount(minlength=9)
    assert rows.tolist()[:2] == rows.tolist()[7:] == [0, 0]
    assert (rows[2:7] / 4000 - 0.2).abs().max() < 0.03
    # column 6 goes to 4..8, mirrored to 0..4
    assert (columns[[0, 1, 2, 3, 5, 6, 7, 8]] / 4000 - 0.1).abs().max() < 0.03
    assert abs(columns[4] / 4000 - 0.2) < 0.03


def test_an_empty_batch_stays_empty():
    assert CropFlip()(images(0), derived_generator("test")).shape == (0, 3, 7, 5)
