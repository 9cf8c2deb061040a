from itertools import islice
from types import SimpleNamespace

import pytest
import torch

from datamodules import DATAMODULES
from datamodules.batches import Batches, MixedBatches, Split, bernoulli


def numbered(size, labelled):
    """Images that know their position; of the first `labelled` the label is known."""
    x = torch.zeros(size, 1, 1, 2, dtype=torch.uint8)
    x[:, 0, 0, 0], x[:, 0, 0, 1] = torch.arange(size) % 256, torch.arange(size) // 256
    y = torch.full((size,), -1)
    y[:labelled] = torch.arange(labelled) % 10
    return Split(x, y)


def positions(x):
    pixels = (x * 255).round().long().flatten(1)
    return pixels[:, 0] + 256 * pixels[:, 1]


def mixed(size=123, labelled=20, batch_size=10, labels_per_batch=3, **options):
    return MixedBatches(numbered(size, labelled), batch_size, labels_per_batch, **options)


def same(left, right):
    left, right = list(left), list(right)
    assert len(left) == len(right) > 0
    return all(torch.equal(a, b) for pair in zip(left, right, strict=True) for a, b in zip(*pair, strict=True))


@pytest.mark.parametrize("labels_per_batch", [1, 3, 9])
@pytest.mark.parametrize("labelled", [1, 7, 20, 29])
@pytest.mark.parametrize("size", [30, 123, 400])
def test_an_epoch(size, labelled, labels_per_batch):
    batches = mixed(size, labelled, 10, labels_per_batch)
    for _ in range(2):
        seen = list(batches)
        assert len(seen) == len(batches)
        assert all((y >= 0).sum() == labels_per_batch for _, y in seen[:-1])
        assert all(len(y) == 10 for _, y in seen[:-1])
        assert 2 <= len(seen[-1][1]) <= 10
        index, y = torch.cat([positions(x) for x, _ in seen]), torch.cat([y for _, y in seen])
        assert torch.equal(y, numbered(size, labelled).y[index])  # images keep their labels, hidden ones stay hidden
        counts = index.bincount(minlength=size)
        pools = [counts[:labelled], counts[labelled:]]
        assert all(pool.min() >= 1 and pool.max() - pool.min() <= 1 for pool in pools)  # all, equally often
        assert min(pool.max() for pool in pools) == 1  # the longer pool once


@pytest.mark.parametrize("world", [1, 2, 3])
def test_most_images_labelled(world):
    # each epoch covers both pools, and ranks share the labelled images, of which there are more than enough
    ranks = [list(mixed(200, 170, 10, 5, rank=rank, world=world)) for rank in range(world)]
    assert {len(rank) for rank in ranks} == {-(-(170 // world) // 5)}
    counts = torch.cat([positions(x) for rank in ranks for x, _ in rank]).bincount(minlength=200)
    assert counts[:170].max() == 1
    assert counts[:170].sum() == 170 // world * world
    assert counts[170:].min() >= 5
    assert counts[170:].max() - counts[170:].min() <= 1


def test_each_repetition_has_its_own_order():
    index = torch.cat([positions(x[y >= 0]) for x, y in mixed(400, 20, 10, 4)])
    rounds = [tuple(each.tolist()) for each in index.split(20)[:-1]]
    assert len(rounds) > 5
    assert len(set(rounds)) == len(rounds)
    assert all(sorted(each) == list(range(20)) for each in rounds)


def test_the_order_is_a_function_of_seed_and_epoch():
    orders = {}
    for seed in (0, 1):
        for epoch in (0, 1):
            batches, again = mixed(seed=seed), mixed(seed=seed)
            batches.set_epoch(epoch)
            again.set_epoch(4)
            again.set_epoch(epoch)
            index = [tuple(torch.cat([positions(x) for x, _ in each]).tolist()) for each in (batches, again)]
            assert index[0] == index[1]
            orders[seed, epoch] = index[0]
    assert len(set(orders.values())) == 4


def test_the_order_is_the_same_on_every_machine():
    index = torch.cat([positions(x) for x, _ in mixed(12, 3, 5, 2, seed=3)])
    assert index.tolist() == [0, 1, 6, 9, 4, 2, 1, 11, 7, 3, 2, 0, 5, 10, 8]


@pytest.mark.parametrize("stop", [0, 1, 5, 14, 15])
def test_an_interrupted_epoch_resumes_exactly(stop):
    whole = mixed(pixel_sampler=bernoulli, seed=2)
    uninterrupted = [list(whole) for _ in range(3)]
    first = mixed(pixel_sampler=bernoulli, seed=2)
    first.set_epoch(1)
    iterator = iter(first)
    seen = [next(iterator) for _ in range(stop)]
    second = mixed(pixel_sampler=bernoulli, seed=2)
    second.load_state_dict(first.state_dict())
    second.set_epoch(1)
    assert same(seen + list(second), uninterrupted[1])
    assert same(second, uninterrupted[2])


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_the_unlabelled_images_and_agree_on_the_length(world):
    ranks = [list(mixed(rank=rank, world=world)) for rank in range(world)]
    assert len({len(rank) for rank in ranks}) == 1
    assert len({tuple(len(y) for _, y in rank) for rank in ranks}) == 1
    assert all((y >= 0).sum() == 3 for rank in ranks for _, y in rank)
    hidden = torch.cat([positions(x[y < 0]) for rank in ranks for x, y in rank]).tolist()
    assert len(hidden) == len(set(hidden)) == 103 // world * world
    first = [positions(rank[0][0][rank[0][1] >= 0]).tolist() for rank in ranks]
    assert len(set(map(tuple, first))) == world  # not the same labelled images on every rank


# From the data module


def digits(**options):
    data = DATAMODULES["Digits"](**options)
    data.setup()
    return data


@pytest.mark.parametrize(("options", "each"), [
    ({}, 10), ({"batch_size": 40}, 4), ({"batch_size": 5}, 1), ({"labels_per_batch": 30}, 30),
    ({"num_labels": 10, "batch_size": 200}, 10), ({"num_labels": 120}, 10), ({"num_labels": 140}, 11),
    ({"num_labels": 1000}, 77), ({"num_labels": 1000, "batch_size": 3}, 2), ({"num_labels": 1000, "batch_size": 2}, 1),
    ({"num_labels": 1000, "batch_size": 10**9}, 1000),
])  # fmt: skip
def test_default_labels_per_batch(options, each):
    batches = digits(**{"num_labels": 50, **options}).train_dataloader()
    assert isinstance(batches, MixedBatches)
    assert batches.labels_per_batch == each
    assert all((y >= 0).sum() == each for _, y in islice(batches, len(batches) - 1))


@pytest.mark.parametrize("num_labels", [100, 140, 500, 1000, 1200])
@pytest.mark.parametrize("options", [{}, {"batch_size": 7}, {"labels_per_batch": 10}])
def test_an_epoch_of_digits_has_all_images(num_labels, options):
    data = digits(num_labels=num_labels, **options)
    seen = torch.cat([y for _, y in data.train_dataloader()])
    assert (seen >= 0).sum() >= num_labels
    assert (seen < 0).sum() >= len(data.train.y) - num_labels


def test_fully_labelled_data_give_ordinary_batches():
    batches = digits().train_dataloader()
    assert type(batches) is Batches
    assert all((y >= 0).all() for _, y in batches)


@pytest.mark.parametrize("learns", [True, False])
def test_a_model_that_does_not_learn_from_labels_gets_ordinary_batches(learns):
    data = digits(num_labels=50)
    data.trainer = SimpleNamespace(
        lightning_module=SimpleNamespace(learns_from_labels=learns),
        strategy=SimpleNamespace(root_device="cpu"),
        global_rank=0,
        world_size=1,
    )
    assert type(data.train_dataloader()) is (MixedBatches if learns else Batches)


def test_labels_per_batch_is_refused_for_ordinary_batches():
    with pytest.raises(ValueError, match="labels_per_batch requires a model that learns from labels"):
        digits(labels_per_batch=7).train_dataloader()


@pytest.mark.parametrize(("options", "sentence"), [
    ({"labels_per_batch": 0}, "labels_per_batch must be between 1 and batch_size - 1; 0 is not"),
    ({"labels_per_batch": 100}, "labels_per_batch must be between 1 and .*; 100 is not"),
    ({"labels_per_batch": 60}, "A batch of 100 images cannot hold 60 of 50 labelled images and an unlabelled one"),
    ({"batch_size": 1}, "A batch of 1 images cannot hold 1 of 50 labelled images and an unlabelled one"),
])  # fmt: skip
def test_options_out_of_range(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        digits(num_labels=50, **options).train_dataloader()


def test_originally_partly_labelled_data_give_mixed_batches():
    data = digits()
    y = data.train.y.clone()
    y[30:] = -1
    data.train = data.train._replace(y=y)
    batches = data.train_dataloader()
    assert isinstance(batches, MixedBatches)
    assert all((y >= 0).sum() == 10 for _, y in batches)


def test_fewer_unlabelled_images_than_ranks_are_refused():
    with pytest.raises(ValueError, match="2 unlabelled images cannot be split over 3 processes"):
        mixed(22, 20, world=3)


# Hidden labels


def test_7_labels_for_10_classes():
    with pytest.raises(
        ValueError, match=r"^num_labels must be a multiple of the number of classes \(10\) .*; got 7\.$"
    ):
        digits(num_labels=7)


def test_label_indices_are_balanced_and_a_function_of_the_seed():
    hashes = {}
    for seed in (0, 1, 0):
        data = digits(num_labels=50, seed=seed)
        assert data.train.y[data.train.y >= 0].bincount().tolist() == [5] * 10
        assert hashes.setdefault(seed, data.labels_hash) == data.labels_hash
    assert hashes[0] != hashes[1]
    assert hashes[0] == "e896d60e45d2"
