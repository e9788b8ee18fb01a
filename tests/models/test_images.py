"""Convolutional models: structure, parameter counts, images of various sizes."""

import subprocess
import sys

import pytest
import torch
from torch import nn

import sparseq
from sparseq.models import build
from sparseq.nn.quaternion.color import rgb_to_quaternion
from tests.models.zoo import parameter_count

IMAGENET = {"in_shape": (3, 224, 224), "num_classes": 1000}


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("resnet18", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
        ("resnet101", 44_549_160),
        ("resnet152", 60_192_808),
    ],
)
def test_resnets_for_imagenet_have_the_published_sizes(name, count):
    assert parameter_count(name, **IMAGENET) == count


def test_the_stem_depends_on_the_image_size_by_default():
    def first(**arguments):
        with torch.device("meta"):
            return build("resnet18", **arguments).stem.kernel_size[0]

    assert [first(in_shape=(3, size, size)) for size in (32, 64, 65, 224)] == [3, 3, 7, 7]
    assert first(in_shape=(3, 32, 64)) == 3
    assert first(stem="imagenet") == 7
    assert first(in_shape=(3, 224, 224), stem="cifar") == 3


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vgg16bn", "resnet20"])
def test_feature_maps_have_the_published_sizes(name):
    with torch.device("meta"):
        model = build(name).eval()
        sizes, x = {}, torch.empty(2, 3, 32, 32)
        for part, module in model.named_children():
            x = module(x)
            sizes[part] = tuple(x.shape[1:])
    wide = {"resnet18": 512, "resnet50": 2048, "vgg16bn": 512, "resnet20": 64}[name]
    last = {"resnet20": 8, "vgg16bn": 1}.get(name, 4)
    before = "pool5" if name == "vgg16bn" else "stage3" if name == "resnet20" else "stage4"
    assert sizes[before] == (wide, last, last)
    assert sizes["flatten"] == (wide,)


def test_vgg_has_no_bias_before_a_normalization():
    with torch.device("meta"):
        model = build("vgg16bn")
    convs = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert [conv.out_channels for conv in convs] == [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6
    assert all(conv.bias is None for conv in convs)


def test_shortcuts_are_named_so_that_pruning_can_exclude_them():
    with torch.device("meta"):
        model = build("resnet20")
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    assert [name for name in names if "shortcut" in name] == [
        "stage2.0.shortcut.conv",
        "stage3.0.shortcut.conv",
    ]


def test_quaternion_models_convert_rgb_and_gray_images():
    model = build("conv_2", "quaternion", (3, 8, 8))
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(model.quaternions(x), rgb_to_quaternion(x))
    gray = build("conv_2", "quaternion", (1, 8, 8))
    torch.testing.assert_close(
        gray.quaternions(x[:, :1]), x[:, :1].expand(-1, 4, -1, -1), rtol=1e-3, atol=1e-3
    )
    assert not hasattr(build("conv_2", "quaternion", (8, 8, 8)), "quaternions")
    assert not hasattr(build("conv_2", "real", (3, 8, 8)), "quaternions")


def test_bottlenecks_stride_in_their_3x3_convolution():
    with torch.device("meta"):
        block = build("resnet50").stage2[0]
    strides = [getattr(block.main, f"conv{n}").stride[0] for n in (1, 2, 3)]
    assert strides == [1, 2, 1]
    assert block.shortcut.conv.stride == (2, 2)


def test_files_load_without_model_code(tmp_path):
    sparseq.save(build("resnet20", "quaternion", (3, 8, 8)).eval(), tmp_path / "m.sparseq")
    code = (
        "import sys, torch, sparseq\n"
        f"model = sparseq.load({str(tmp_path / 'm.sparseq')!r})\n"
        "assert model(torch.zeros(1, 3, 8, 8)).shape == (1, 10)\n"
        "assert 'sparseq.models' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("name", "algebra", "size"),
    [
        ("vgg16bn", "real", 33),
        ("vgg16bn", "quaternion", 33),
        ("resnet18", "real", 9),
        ("resnet18", "quaternion", 9),
        ("resnet50", "real", 16),
        ("resnet50", "quaternion", 16),
    ],
)
def test_forward_and_backward_of_large_networks(name, algebra, size):
    model = build(name, algebra, (3, size, size))
    outputs = model(torch.randn(2, 3, size, size))
    assert outputs.shape == (2, 10)
    assert outputs.isfinite().all()
    outputs.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert model.eval()(torch.randn(1, 3, size, size)).isfinite().all()
