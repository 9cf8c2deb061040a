import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from datamodules.batches import Batches, Split, bernoulli, dequantise, seed_of


def numbered(size, pixels=4):
    """Images that differ, with their own position as label."""
    x = torch.arange(size * pixels).remainder(256).to(torch.uint8).reshape(size, 1, 2, pixels // 2)
    return Split(x, torch.arange(size))


def order(batches):
    return torch.cat([y for _, y in batches])


def same(left, right):
    left, right = list(left), list(right)
    assert len(left) == len(right) > 0
    return all(torch.equal(a, b) for pair in zip(left, right, strict=True) for a, b in zip(*pair, strict=True))


def test_a_batch_is_float_pixels_and_their_labels():
    split = numbered(10)
    batches = Batches(split, 4)
    assert [len(y) for _, y in batches] == [4, 4, 2]
    assert len(batches) == 3
    x, y = next(iter(batches))
    assert x.dtype == torch.float32
    assert y.dtype == torch.int64
    assert torch.equal(x, split.x[:4].double().div(255).float())
    assert torch.equal(y, split.y[:4])


def test_shuffled_images_keep_their_labels():
    split = numbered(10)
    for x, y in Batches(split, 4, shuffle=True):
        assert torch.equal(x, split.x[y] / 255)


def test_the_order_is_a_function_of_seed_and_epoch():
    orders = {}
    for seed in (0, 1):
        for epoch in (0, 1):
            batches, again = (Batches(numbered(50), 7, shuffle=True, seed=seed) for _ in range(2))
            batches.set_epoch(epoch)
            again.set_epoch(5)
            again.set_epoch(epoch)
            orders[seed, epoch] = tuple(order(batches).tolist())
            assert orders[seed, epoch] == tuple(order(again).tolist())
            assert sorted(orders[seed, epoch]) == list(range(50))
    assert len(set(orders.values())) == 4


def test_the_order_is_the_same_on_every_machine():
    batches = Batches(numbered(12), 5, shuffle=True, seed=3)
    assert order(batches).tolist() == [9, 2, 5, 11, 3, 6, 0, 8, 10, 1, 4, 7]


def test_each_iteration_is_the_next_epoch():
    batches = Batches(numbered(50), 7, pixel_sampler=bernoulli, shuffle=True)
    passes = [list(batches) for _ in range(3)]
    for epoch, seen in enumerate(passes):
        fresh = Batches(numbered(50), 7, pixel_sampler=bernoulli, shuffle=True)
        fresh.set_epoch(epoch)
        assert same(seen, fresh)
    assert not torch.equal(order(passes[0]), order(passes[1]))


@pytest.mark.parametrize("sampler", [bernoulli, dequantise])
def test_pixels_are_a_function_of_seed_epoch_rank_and_batch(sampler):
    split = Split(torch.full((12, 1, 8, 8), 128, dtype=torch.uint8), torch.zeros(12, dtype=torch.int64))

    def pixels(seed=0, epoch=0, rank=0):
        batches = Batches(split, 2, pixel_sampler=sampler, seed=seed, rank=rank, world=2)
        batches.set_epoch(epoch)
        return [x for x, _ in batches]

    before = torch.get_rng_state()
    first, *rest = pixels()
    assert all(torch.equal(a, b) for a, b in zip([first, *rest], pixels(), strict=True))
    others = [*rest, pixels(seed=1)[0], pixels(epoch=1)[0], pixels(rank=1)[0]]
    assert not any(torch.equal(first, other) for other in others)
    assert torch.equal(before, torch.get_rng_state()), "the default generator was used"


def test_bernoulli_pixels_have_probability_x_over_255():
    size = 40_000
    x = torch.arange(256, dtype=torch.uint8).repeat(size, 1)  # (N, 256)
    on = bernoulli(x, torch.Generator().manual_seed(0)).double()
    p = torch.arange(256) / 255
    assert on[:, 0].sum() == 0
    assert on[:, 255].sum() == size
    z = (on.mean(0) - p)[1:255] / (p * (1 - p) / size).sqrt()[1:255]
    assert z.abs().max() < 5
    assert abs(z.square().sum() - 254) < 5 * (2 * 254) ** 0.5  # chi-square of 254 degrees of freedom


def test_dequantised_pixels_are_uniform_within_their_intensity():
    x = torch.arange(256, dtype=torch.uint8).repeat(20_000, 1)
    grey = dequantise(x, torch.Generator().manual_seed(0))
    assert grey.dtype == torch.float32
    u = grey.double() * 256 - x
    assert u.min() >= 0
    assert u.max() < 1
    assert grey.max() < 1
    counts = torch.histc(u, bins=16, min=0, max=1)
    chi2 = ((counts - u.numel() / 16).square() / (u.numel() / 16)).sum()
    assert chi2 < 15 + 5 * 30**0.5


def test_the_brightest_dequantised_pixel_stays_below_1():
    # With torch.rand instead of 16 bits, about one in 100,000 of these would round to 1.
    grey = dequantise(torch.full((4_000_000,), 255, dtype=torch.uint8), torch.Generator().manual_seed(0))
    assert grey.min() >= 255 / 256
    assert 1 - 2**-20 < grey.max() < 1


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("size", [3, 20, 23, 41])
@pytest.mark.parametrize("batch_size", [1, 4, 10])
def test_unshuffled_batches_hold_every_image_once_and_ranks_have_equal_lengths(world, size, batch_size):
    ranks = [list(Batches(numbered(size), batch_size, rank=rank, world=world)) for rank in range(world)]
    assert sorted(torch.cat([order(rank) for rank in ranks]).tolist()) == list(range(size))
    assert len({len(rank) for rank in ranks}) == 1
    assert len(ranks[0]) == len(Batches(numbered(size), batch_size, world=world))
    assert max(len(y) for rank in ranks for _, y in rank) <= batch_size + (world > 1)


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("size", [3, 20, 23, 41])
def test_shuffled_batches_hold_equally_many_distinct_images_on_each_rank(world, size):
    left_out = set()
    for epoch in range(8):
        ranks = [Batches(numbered(size), 4, shuffle=True, rank=rank, world=world) for rank in range(world)]
        for rank in ranks:
            rank.set_epoch(epoch)
        sizes = [[len(y) for _, y in rank] for rank in ranks]
        for rank in ranks:
            rank.set_epoch(epoch)
        seen = torch.cat([order(rank) for rank in ranks]).tolist()
        assert all(one == sizes[0] for one in sizes)
        assert len(seen) == len(set(seen)) == size // world * world
        left_out |= set(range(size)) - set(seen)
    assert len(left_out) > size % world or size % world == 0, "the same images are left out of every epoch"


def test_fewer_images_than_ranks_are_refused():
    with pytest.raises(ValueError, match=r"^2 images cannot be split over 3 processes\.$"):
        Batches(numbered(2), 1, world=3)


@pytest.mark.parametrize("stop", [0, 1, 3, 5])
def test_an_interrupted_epoch_resumes_exactly(stop):
    def batches():
        return Batches(numbered(41), 7, pixel_sampler=bernoulli, shuffle=True, seed=2)

    whole = batches()
    uninterrupted = [list(whole) for _ in range(3)]
    first = batches()
    first.set_epoch(1)
    iterator = iter(first)
    seen = [next(iterator) for _ in range(stop)]
    state = first.state_dict()
    assert state == {"epoch": 1, "batch": stop}

    second = batches()
    second.load_state_dict(state)
    assert second.state_dict() == state
    second.set_epoch(1)  # Lightning does so on resuming
    assert same(seen + list(second), uninterrupted[1])
    assert same(second, uninterrupted[2]), "the position was used twice"


def test_a_new_epoch_resets_the_position():
    batches = Batches(numbered(41), 7, shuffle=True)
    batches.load_state_dict({"epoch": 1, "batch": 6})
    batches.set_epoch(2)
    assert batches.state_dict() == {"epoch": 2, "batch": 0}
    assert len(list(batches)) == 6


def test_a_loaded_position_applies_to_one_iteration_even_if_interrupted():
    batches = Batches(numbered(41), 7, shuffle=True)
    batches.load_state_dict({"epoch": 1, "batch": 4})
    next(iter(batches))
    assert batches.state_dict() == {"epoch": 1, "batch": 5}
    assert len(list(batches)) == 6


def test_a_partial_iteration_does_not_change_the_next_one():
    batches = Batches(numbered(41), 7, shuffle=True)
    next(iter(batches))
    assert sorted(order(batches).tolist()) == list(range(41))


def test_seeds_differ_and_are_the_same_on_every_machine():
    assert len({seed_of("pixels", 0, 0, 1), seed_of("pixels", 0, 1, 0), seed_of("order", 0, 0, 1)}) == 3
    assert seed_of("pixels", 0, 0, 0, 0) == 9237777362312601712


class Recorder(LightningModule):
    """Remembers which images came in which epoch."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = {}

    def training_step(self, batch):
        self.seen.setdefault(self.current_epoch, []).append(batch)
        return self.weight * batch[0].mean()

    def validation_step(self, batch):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder, epochs, resume=None, steps=-1, save_every=None, **options):
    model = Recorder()
    save = ModelCheckpoint(
        folder, filename="{step}", save_top_k=-1, every_n_train_steps=save_every, save_last=save_every is None
    )
    trainer = Trainer(
        max_epochs=epochs,
        max_steps=steps,
        accelerator="cpu",
        callbacks=[save],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    training = Batches(numbered(41), 7, pixel_sampler=bernoulli, shuffle=True, seed=2)
    trainer.fit(model, training, Batches(numbered(9), 7), ckpt_path=resume)
    return model.seen


@pytest.fixture(scope="module")
def three_epochs():
    batches = Batches(numbered(41), 7, pixel_sampler=bernoulli, shuffle=True, seed=2)
    return [list(batches) for _ in range(3)]


QUIET = pytest.mark.filterwarnings("ignore")


@QUIET
def test_lightning_gives_each_epoch_its_order(tmp_path, three_epochs):
    seen = fit(tmp_path, epochs=3)
    assert list(seen) == [0, 1, 2]
    assert all(same(seen[epoch], three_epochs[epoch]) for epoch in seen)


@QUIET
def test_limited_epochs_start_with_their_first_batch(tmp_path, three_epochs):
    seen = fit(tmp_path, epochs=3, limit_train_batches=2)
    assert all(same(seen[epoch], three_epochs[epoch][:2]) for epoch in range(3))


@QUIET
def test_a_resumed_run_continues_with_the_next_epoch(tmp_path, three_epochs):
    fit(tmp_path, epochs=1)
    seen = fit(tmp_path, epochs=3, resume=tmp_path / "last.ckpt")
    assert list(seen) == [1, 2]
    assert all(same(seen[epoch], three_epochs[epoch]) for epoch in seen)


@QUIET
@pytest.mark.parametrize("step", [2, 6, 8, 12])
def test_a_run_resumed_mid_epoch_skips_and_repeats_no_batch(tmp_path, three_epochs, step):
    fit(tmp_path, epochs=3, steps=step, save_every=2)
    seen = fit(tmp_path, epochs=3, resume=tmp_path / f"step={step}.ckpt")
    rest = [batch for epoch in three_epochs for batch in epoch][step:]
    assert same([batch for epoch in seen.values() for batch in epoch], rest)
