import numpy as np
import pytest

from sparseq.ops import build, host
from tests.ops.cases import SIZES, patterns

over_sizes = pytest.mark.parametrize("size", SIZES, ids=str)


@pytest.fixture(scope="module")
def built():
    """Build the compiled helpers, which `host` uses only if they exist."""
    try:
        build.library("host")
    except build.BuildError:
        pytest.skip("the compiled helpers cannot be built")


@over_sizes
def test_twins_agree(size, built):
    if host.compiled() is None:
        pytest.skip("SPARSEQ_BACKEND rules out the compiled helpers")
    for pattern in patterns(*size):
        arguments = (pattern.row_ptr.numpy(), pattern.col_idx.numpy(), size[1])
        compiled = host.compiled().transpose_csr(*arguments)
        for one, two in zip(compiled, host.transpose_csr_numpy(*arguments), strict=True):
            assert one.dtype == two.dtype == np.int32
            np.testing.assert_array_equal(one, two)


@over_sizes
def test_transpose_is_the_matrix_transpose(size):
    for pattern in patterns(*size):
        row_ptr_t, col_idx_t, perm = host.transpose_csr(
            pattern.row_ptr.numpy(), pattern.col_idx.numpy(), size[1]
        )
        rows_t = np.repeat(np.arange(size[1]), np.diff(row_ptr_t))
        np.testing.assert_array_equal(pattern.rows().numpy()[perm], col_idx_t)
        np.testing.assert_array_equal(pattern.col_idx.numpy()[perm], rows_t)


def test_a_helper_does_not_wait_for_a_build(monkeypatch):
    monkeypatch.setattr(host, "_modules", [])
    monkeypatch.setattr(build, "existing", lambda name: None)
    assert host.compiled() is None


@pytest.mark.parametrize("content", [b"", b"no library", b"\x7fELF and then nothing"])
def test_a_file_that_cannot_be_loaded_leaves_the_work_to_numpy(tmp_path, monkeypatch, content):
    path = tmp_path / "host.so"
    path.write_bytes(content)
    monkeypatch.setattr(host, "_modules", [])
    monkeypatch.setattr(build, "existing", lambda name: path)
    monkeypatch.delenv("SPARSEQ_BACKEND", raising=False)
    with pytest.warns(UserWarning, match=f"helpers in NumPy: .*remove {tmp_path}"):
        assert host.compiled() is None
    assert host.compiled() is None
    row_ptr, col_idx = np.array([0, 1], np.int32), np.array([2], np.int32)
    assert host.transpose_csr(row_ptr, col_idx, 3)[0].tolist() == [0, 0, 0, 1]


def test_the_compiled_helper_checks_its_indices(built):
    module = host.compiled()
    if module is None:
        pytest.skip("SPARSEQ_BACKEND rules out the compiled helpers")
    with pytest.raises(IndexError, match="col_idx"):
        module.transpose_csr(np.array([0, 1], np.int32), np.array([5], np.int32), 3)
    with pytest.raises(IndexError, match="row_ptr"):
        module.transpose_csr(np.array([0, 9], np.int32), np.array([1], np.int32), 3)
