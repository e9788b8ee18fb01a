import pytest
import torch

from sparseq.data import DATASETS, find_dataset, load_data

LOCAL = ["digits", "fake", "fake:digits", "fake:fashion_mnist"]


@pytest.mark.parametrize("name", LOCAL)
def test_bundle_matches_its_description(name):
    bundle = load_data(name)
    assert bundle.name == name
    for split in (bundle.train, bundle.validation, bundle.test):
        assert split.x.shape[1:] == bundle.in_shape
        assert split.x.dtype == torch.float32
        assert split.y.dtype == torch.int64
        assert split.y.unique().tolist() == list(range(bundle.num_classes))
    assert abs(bundle.train.x.mean()) < 0.02
    assert abs(bundle.train.x.std() - 1) < 0.15


def test_digits_sizes_and_values():
    bundle = load_data("digits", validation=0.1)
    sizes = [len(split) for split in (bundle.train, bundle.validation, bundle.test)]
    assert sizes == [1294, 144, 359]
    assert bundle.train.y.bincount().min() >= 125


def rows(*splits):
    return sorted(tuple(x) for split in splits for x in split.x.flatten(1).tolist())


def test_test_split_never_changes_and_train_and_validation_are_one_set():
    one, two = load_data("digits", seed=0), load_data("digits", seed=1, validation=0.3)
    assert torch.equal(one.test.x, two.test.x)
    assert torch.equal(one.test.y, two.test.y)
    assert rows(one.train, one.validation) == rows(two.train, two.validation)
    assert not set(rows(one.test)) & set(rows(one.train, one.validation))


def test_validation_split_depends_on_the_seed_only():
    torch.manual_seed(0)
    first = load_data("digits", seed=5).validation
    torch.manual_seed(1)
    again, other = load_data("digits", seed=5).validation, load_data("digits", seed=6).validation
    assert torch.equal(first.x, again.x)
    assert not torch.equal(first.x, other.x)


def test_loading_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    load_data("fake")
    load_data("digits")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", DATASETS.names())
def test_fake_data_has_the_shape_of_the_original(name):
    fake, source = load_data(f"fake:{name}"), find_dataset(name)
    assert (fake.in_shape, fake.num_classes) == (source.in_shape, source.num_classes)


@pytest.mark.parametrize("name", ["emnist", "", "fake:nothing", "digits:fake", "mnist "])
def test_unknown_name_lists_the_known_ones(name):
    known = r"unknown data set .*cifar10, .*digits, fake, fashion_mnist, mnist, svhn"
    with pytest.raises(ValueError, match=known):
        load_data(name)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_validation_fraction_is_checked(fraction):
    with pytest.raises(ValueError, match="validation must lie between 0 and 1"):
        load_data("digits", validation=fraction)
