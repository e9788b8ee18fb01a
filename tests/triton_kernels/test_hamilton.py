"""The numbers are checked in Triton's interpreter: TRITON_INTERPRET=1 pytest tests/triton_kernels.

Whether the kernels compile for a GPU, and serve the public op, is checked without it too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sparseq.ops.hamilton import fold_real, hamilton_reference, real_weight
from tests.ops.cases import assert_near, normal, strided
from tests.source_tree import ROOT

HERE = Path(__file__).parent
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
BACKEND = ",".join(f"{op}=triton" for op in ("hamilton", "hamilton_dx", "hamilton_dw"))
# errors, but for what NumPy says of the interpreter of Triton 3.6
WARNINGS = ("-W", "error", "-W", "ignore:Conversion of an array with ndim:DeprecationWarning")
SIZES = [(1, 1), (3, 5), (16, 16), (17, 33), (70, 49), (65, 130)]

pytest.importorskip("triton", reason="Triton is not installed here")
interpreted = pytest.mark.skipif(
    not INTERPRETED, reason="runs in Triton's interpreter: TRITON_INTERPRET=1"
)
over_algorithms = pytest.mark.parametrize("algorithm", ["auto", "8", "16"])


@pytest.fixture
def module():
    """The kernels' file; importing it takes Triton along."""
    from sparseq.triton_kernels import KERNELS

    return sys.modules[KERNELS["hamilton"].__module__]


def tensors(dtype, batch, m, k):
    x, weight = normal(batch, 4 * k, dtype=dtype), normal(4, m, k, dtype=dtype)
    return x, weight, normal(4 * m, dtype=dtype), normal(batch, 4 * m, dtype=dtype, seed=3)


def run_script(name, *args, **environment):
    """A script of this folder in an interpreter of its own, where warnings are errors."""
    kept = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    result = subprocess.run(
        [sys.executable, *WARNINGS, str(HERE / name), *map(str, args)],
        env={**kept, "PYTHONPATH": str(ROOT), **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@interpreted
@over_algorithms
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("batch", [0, 1, 17, 70])
def test_agrees_with_float64(module, dtype, algorithm, batch):
    for m, k in SIZES:
        x, w, b, dy = tensors(dtype, batch, m, k)
        real = real_weight(w.double())
        assert_near(module.hamilton(x, w, b, algorithm), x.double() @ real.t() + b.double())
        assert_near(module.hamilton(x, w, None, algorithm), x.double() @ real.t())
        assert_near(module.hamilton_dx(dy, w, algorithm), dy.double() @ real)
        assert_near(module.hamilton_dw(dy, x, algorithm), fold_real(dy.double().t() @ x.double()))


@interpreted
@over_algorithms
def test_many_steps_over_the_depth(module, algorithm):
    x, w, b, dy = tensors(torch.float32, 200, 18, 300)
    real = real_weight(w.double())
    assert_near(module.hamilton(x, w, b, algorithm), x.double() @ real.t() + b.double())
    assert_near(module.hamilton_dx(dy, w, algorithm), dy.double() @ real)
    assert_near(module.hamilton_dw(dy, x, algorithm), fold_real(dy.double().t() @ x.double()))


@interpreted
@over_algorithms
def test_takes_any_strides_and_leading_dimensions(module, algorithm):
    x, w, b, dy = tensors(torch.float32, 6, 7, 5)
    want = module.hamilton(x, w, b, algorithm)
    assert torch.equal(module.hamilton(strided(x), strided(w), strided(b), algorithm), want)
    turned = w.transpose(0, 2).contiguous().transpose(0, 2)
    assert torch.equal(module.hamilton(x.t().contiguous().t(), turned, b, algorithm), want)
    folded = x.unflatten(0, (2, 3)).transpose(0, 1)
    got = module.hamilton(folded, w, b, algorithm).transpose(0, 1)
    assert torch.equal(got.flatten(0, 1), want)
    assert torch.equal(module.hamilton(x[2], w, b, algorithm), want[2])
    one = torch.ones(())
    spread = one.expand(dy.shape)
    for op, other in ((module.hamilton_dx, w), (module.hamilton_dw, x)):
        assert torch.equal(op(spread, other, algorithm), op(torch.ones_like(dy), other, algorithm))


@interpreted
@over_algorithms
def test_empty_sides(module, algorithm):
    b = normal(12, dtype=torch.float32)
    got = module.hamilton(torch.empty(2, 0), torch.empty(4, 3, 0), b, algorithm)
    assert torch.equal(got, b.expand(2, 12))
    assert module.hamilton(torch.ones(2, 8), torch.empty(4, 0, 2), None, algorithm).shape == (2, 0)
    dw = module.hamilton_dw(torch.empty(0, 12), torch.empty(0, 8), algorithm)
    assert torch.equal(dw, torch.zeros(4, 3, 2))


@interpreted
@over_algorithms
def test_writes_every_entry_and_none_beyond(module, algorithm):
    x, w, _, _ = tensors(torch.float32, 33, 19, 20)
    buffer = torch.full((35, 80), float("nan"))
    sizes = module.Sizes(19, 33, 20)
    plan = module.plan_for(sizes, x.dtype, algorithm)
    y = buffer[1:-1, :76]
    target = module.Operand(y, 19, 1, 80)
    module._multiply(module._weight(w), module._features(x), target, None, sizes, plan)
    assert torch.equal(y, module.hamilton(x, w, None, algorithm))
    y.fill_(float("nan"))
    assert buffer.isnan().all()


@interpreted
@over_algorithms
def test_nan_of_one_row_stays_in_that_row(module, algorithm):
    x, w, _, _ = tensors(torch.float32, 40, 20, 20)
    x[7, 3] = float("nan")
    broken = module.hamilton(x, w, None, algorithm).isnan().any(1)
    assert broken.nonzero().flatten().tolist() == [7]


@interpreted
def test_large_float16_entries_do_not_overflow_in_the_eight_form(module):
    x, w = torch.full((20, 80), 2.0e4).half(), torch.full((4, 20, 20), 1e-3).half()
    exact = x.double() @ real_weight(w.double()).t()
    assert_near(module.hamilton(x, w, None, "8"), exact)


@interpreted
def test_eight_rounds_little_worse_than_sixteen(module):
    x, w, _, _ = tensors(torch.float32, 64, 32, 256)
    exact = x.double() @ real_weight(w.double()).t()
    errors = [
        float((module.hamilton(x, w, None, name).double() - exact).norm()) for name in ("8", "16")
    ]
    assert errors[0] < 3 * errors[1]


def test_shapes_that_do_not_fit_are_refused(module):
    x, w, b, dy = tensors(torch.float32, 3, 2, 5)
    calls = [
        (module.hamilton, x[:, :-4], w, None),
        (module.hamilton, x, w, b[:-1]),
        (module.hamilton, x, w[:3], None),
        (module.hamilton_dx, dy[:, :-4], w),
        (module.hamilton_dx, dy, w[:3]),
        (module.hamilton_dw, dy[:-1], x),
        (module.hamilton_dw, dy[:, :-1], x),
    ]
    for op, *args in calls:
        with pytest.raises((RuntimeError, ValueError, IndexError)):
            op(*args, "8")


def test_other_dtypes_go_to_the_reference(module):
    x, w, b, dy = tensors(torch.float64, 3, 2, 5)
    assert torch.equal(module.hamilton(x, w, b, "8"), hamilton_reference(x, w, b, "8"))
    torch.testing.assert_close(module.hamilton_dx(dy, w, "8"), dy @ real_weight(w))
    torch.testing.assert_close(module.hamilton_dw(dy, x, "8"), fold_real(dy.t() @ x))
    with pytest.raises(RuntimeError, match="dtype"):
        module.hamilton(x.float(), w, None, "8")


@pytest.fixture
def float32_as_tf32():
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "tf32"
    yield
    matmul.fp32_precision = before


def test_the_form_asked_for_is_planned(module):
    sizes = module.Sizes(64, 64, 64)
    forms = {name: module.plan_for(sizes, torch.float32, name).eight for name in ("8", "16")}
    assert forms == {"8": True, "16": False}
    assert module.plan_for(sizes, torch.float32, "auto").eight
    assert not module.plan_for(module.Sizes(64, 1, 64), torch.float32, "auto").eight


def test_float32_is_exact_by_default(module):
    plan = module.plan_for(module.Sizes(64, 64, 64), torch.float32, "auto")
    assert plan.precision == "ieee"


@pytest.mark.usefixtures("float32_as_tf32")
def test_float32_is_tf32_where_torch_says_so(module):
    plan = module.plan_for(module.Sizes(64, 64, 64), torch.float32, "auto")
    assert plan.precision == "tf32"


def test_serves_the_public_op_and_its_gradients():
    environment = {"TRITON_INTERPRET": "1", "SPARSEQ_BACKEND": BACKEND}
    assert run_script("through_ops.py", **environment) == "agrees\n"


@pytest.mark.parametrize("kind", ["float32", "tf32", "bfloat16"])
def test_compiles_for_a_gpu_without_spills(kind, tmp_path):
    text = run_script("cross_compile.py", kind, TRITON_CACHE_DIR=str(tmp_path))
    found = json.loads(text)
    assert {name.split()[0] for name in found} == {"hamilton", "hamilton_dx", "hamilton_dw"}
    for name, kernel in found.items():
        assert kernel["registers"] <= 255, (name, kernel)
        assert kernel["stack"] == 0, (name, kernel)
        assert ("wgmma" in kernel["products"]) == (kind != "float32"), (name, kernel)
