import pytest
import torch

from sparseq.nn.quaternion.color import ImageToQuaternion, rgb_to_quaternion


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (3, 1, 1), (2, 2, 3, 3, 1), (0, 3, 2, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_gray_follows_the_colors(shape, dtype):
    x = torch.randn(shape, dtype=torch.float64).to(dtype)
    got = rgb_to_quaternion(x)
    assert got.dtype == dtype
    colors, gray = got.split([3, 1], dim=-3)
    assert torch.equal(colors, x)
    weights = torch.tensor([0.2989, 0.587, 0.114], dtype=torch.float64)
    want = torch.einsum("...chw,c->...hw", x.double(), weights).unsqueeze(-3)
    tolerance = 0.02 if dtype == torch.bfloat16 else 1e-6
    torch.testing.assert_close(gray.double(), want, rtol=tolerance, atol=tolerance)


def test_gradients():
    x = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(rgb_to_quaternion, x)


@pytest.mark.parametrize(
    "x", [torch.zeros(2, 4, 3, 3), torch.zeros(3, 3), torch.zeros(1, 3, 2, 2, dtype=torch.uint8)]
)
def test_other_inputs_than_rgb_images_are_refused(x):
    with pytest.raises(ValueError, match="rgb_to_quaternion: x must be floating point of shape"):
        rgb_to_quaternion(x)


def test_images_of_one_or_three_channels_become_quaternions():
    x = torch.randn(2, 3, 2, 2)
    assert torch.equal(ImageToQuaternion()(x), rgb_to_quaternion(x))
    gray = ImageToQuaternion()(x[:, :1])
    torch.testing.assert_close(gray, x[:, :1].expand(-1, 4, -1, -1), rtol=1e-3, atol=1e-3)
