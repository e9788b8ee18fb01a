import pytest
import torch

from sparseq.data.split import DataBundle, Split, batch_order, stratified_split


def numbered(count):
    return Split(torch.arange(count).float().unsqueeze(1), torch.arange(count) % 3)


def gathered(batches):
    return torch.cat([x for x, _ in batches]).flatten().tolist()


@pytest.mark.parametrize(("count", "batch_size"), [(10, 3), (10, 10), (10, 50), (1, 1), (0, 4)])
def test_every_example_occurs_once_and_with_its_class(count, batch_size):
    batches = numbered(count).batches(batch_size, seed=1, epoch=2)
    assert sorted(gathered(batches) if count else []) == list(range(count))
    assert len(list(batches)) == len(batches) == -(-count // batch_size)
    assert all(torch.equal(x.flatten() % 3, y.float()) for x, y in batches)


def test_order_depends_on_seed_and_epoch_only():
    split = numbered(100)
    torch.manual_seed(1)
    first = gathered(split.batches(7, seed=3, epoch=4))
    torch.manual_seed(2)
    torch.rand(5)
    assert gathered(split.batches(7, seed=3, epoch=4)) == first
    assert gathered(split.batches(20, seed=3, epoch=4)) == first
    assert gathered(split.batches(7, seed=3, epoch=5)) != first
    assert gathered(split.batches(7, seed=4, epoch=4)) != first


def test_seeds_and_epochs_are_not_confused():
    orders = {tuple(batch_order(20, s, e).tolist()) for s in range(-3, 12) for e in range(12)}
    assert len(orders) == 15 * 12


def test_batches_leave_the_global_random_state_alone():
    before = torch.get_rng_state()
    list(numbered(9).batches(2, seed=0))
    assert torch.equal(torch.get_rng_state(), before)


def test_without_seed_the_order_is_kept():
    assert gathered(numbered(10).batches(4)) == list(range(10))


def test_batches_can_be_iterated_again():
    batches = numbered(10).batches(4, seed=0)
    assert gathered(batches) == gathered(batches)


@pytest.mark.parametrize("size", [0, -1])
def test_batch_size_must_be_positive(size):
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        numbered(3).batches(size)


def test_split_needs_as_many_classes_as_examples():
    with pytest.raises(ValueError, match="equally many"):
        Split(torch.zeros(3, 2), torch.zeros(4))
    with pytest.raises(ValueError, match="dimension of examples"):
        Split(torch.zeros(()), torch.zeros(()))


def test_moving_to_the_same_device_copies_nothing():
    split = numbered(4)
    assert split.to("cpu") is split
    bundle = DataBundle(split, split, split, (1,), 3, "x").to("meta")
    assert bundle.test.x.device.type == bundle.train.y.device.type == "meta"


@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.25, 0.5, 0.9, 0.999])
def test_stratified_split_is_a_partition_of_exact_sizes(fraction):
    y = torch.cat([torch.zeros(500), torch.ones(40), torch.full((7,), 2)]).long()
    rest, part = stratified_split(y, fraction, torch.Generator().manual_seed(0))
    assert sorted(torch.cat([rest, part]).tolist()) == list(range(547))
    assert len(part) == max(1, round(fraction * 547))
    share = torch.bincount(y[part], minlength=3) - torch.bincount(y) * len(part) / 547
    assert share.abs().max() <= 1


def test_stratified_split_depends_on_the_generator_alone():
    y = torch.arange(100) % 10
    parts = [
        stratified_split(y, 0.2, torch.Generator().manual_seed(s))[1].tolist() for s in (0, 0, 1)
    ]
    assert parts[0] == parts[1] != parts[2]
    with pytest.raises(ValueError, match="two examples"):
        stratified_split(y[:1], 0.5, torch.Generator())


def shifted(x, generator):
    return x + torch.rand(len(x), 1, generator=generator)


def test_batches_are_augmented_by_seed_epoch_and_batch_and_then_normalized():
    split = Split(torch.zeros(10, 1), torch.arange(10), lambda x: 100 * x, shifted)
    torch.manual_seed(0)
    first = gathered(split.batches(4, seed=1, epoch=2))
    torch.manual_seed(1)
    assert gathered(split.batches(4, seed=1, epoch=2)) == first
    assert gathered(split.batches(4, seed=1, epoch=3)) != first
    assert gathered(split.batches(4, seed=2, epoch=2)) != first
    assert first[:4] != first[4:8]
    assert max(first) > 1
    assert gathered(split.batches(4)) == [0] * 10
    assert gathered(split.unaugmented().batches(4, seed=1)) == [0] * 10


def test_transforms_are_kept_by_take_and_to():
    split = Split(torch.zeros(4, 1), torch.arange(4), lambda x: x + 1, shifted)
    for other in (split.take(torch.tensor([1, 3])), split.to("meta"), split.to("cpu")):
        assert (other.normalize, other.augment) == (split.normalize, split.augment)
