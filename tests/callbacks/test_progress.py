import io
import re
from types import SimpleNamespace

import pytest

from callbacks import PowersOfTwoCallback, Progress, RunCheckpoint
from callbacks.progress import Pace, duration, rounds_between
from callbacks.record import finished_epochs
from models import VAE


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    screen = Terminal()
    # pytest captures the real stderr
    monkeypatch.setattr("callbacks.progress.sys", SimpleNamespace(stderr=screen))
    return screen


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (3600, "60 min"), (5400, "1.5 h"), (9000, "2.5 h")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_without_a_terminal_lines_after_powers_of_two(fit, make_model, capfd):
    fit(make_model(), [Progress()], max_epochs=5)
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("epoch")]
    assert [line.split()[1] for line in lines] == ["1/5", "2/5", "4/5", "5/5"]
    number = r"-?\d+\.\d\d"
    whole = rf"epoch 1/5  val/bound {number}  loss {number}  \d+\.\d s/epoch  \d+ s left"
    assert re.fullmatch(whole, lines[0])
    assert "left" not in lines[-1]


def test_the_line_shows_the_metrics(fit, make_model, capfd):
    trainer = fit(make_model(), [Progress()], max_epochs=1)
    bound, loss = (trainer.callback_metrics[name].item() for name in ("val/bound", "train/loss"))
    assert f"val/bound {bound:.2f}  loss {loss:.2f}" in capfd.readouterr().err


def test_without_a_terminal_no_bar(fit, make_model, capfd):
    fit(make_model(), [Progress()])
    assert not set("\r█|") & set(capfd.readouterr().err)


def test_on_a_terminal_one_bar_for_the_whole_run(fit, make_model, terminal, monkeypatch):
    monkeypatch.setattr("callbacks.progress.REFRESH", 0.0)
    fit(make_model(), [Progress()], max_epochs=3)
    states = [state for state in terminal.getvalue().split("\r") if "epoch" in state]
    percents = [int(re.search(r"(\d+)%", state)[1]) for state in states]
    assert percents == sorted(percents)
    assert set(percents) == {0, 11, 22, 33, 44, 56, 67, 78, 89, 100}  # three epochs of three steps
    assert states[0].startswith("epoch 1/3   0%|")
    assert re.fullmatch(r"epoch 3/3  val/bound -\d+\.\d\d  loss \d+\.\d\d 100%\|.*\| 00:00 left\n", states[-1])
    assert terminal.getvalue().count("\n") == 1  # the bar stays on its line
    assert "s/epoch" not in terminal.getvalue()


def test_a_resumed_bar_starts_where_the_run_stood(fit, make_model, terminal, tmp_path):
    fit(make_model(), [RunCheckpoint(tmp_path, seed=0)], max_epochs=2)
    resumed = {"max_epochs": 4, "ckpt_path": tmp_path / "checkpoints" / "last.ckpt"}
    fit(make_model(), [Progress(), RunCheckpoint(tmp_path, seed=0)], **resumed)
    assert re.search(r"(\d+)%", terminal.getvalue())[1] == "50"


def test_a_failed_run_leaves_no_open_bar(fit, make_model, terminal):
    model, progress = make_model(), Progress()
    model.on_train_epoch_end = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        fit(model, [progress])
    assert progress.bar is None
    assert terminal.getvalue().endswith("\n")


def test_the_bar_ends_at_a_step_limit(fit, make_model, terminal):
    fit(make_model(), [Progress()], max_epochs=-1, max_steps=6)
    assert "100%" in terminal.getvalue()
    assert "epoch 2/2 " in terminal.getvalue()


# The time left


class Clock:
    """A clock that tests advance."""

    now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("callbacks.progress.time", clock)
    return clock


@pytest.mark.parametrize(("on_terminal", "start", "per_step", "validation", "figures"), [
    (False, 20.0, 0.1, 0.05, 2.0),  # small steps, large figures, as on the digits
    (False, 5.0, 3.0, 4.0, 2.0),
    (False, 0.0, 0.01, 0.0, 9.0),
    (True, 20.0, 0.1, 0.05, 2.0),
])  # fmt: skip
def test_the_estimate_holds_from_the_second_epoch_on(
    fit, make_model, clock, capfd, monkeypatch, request, on_terminal, start, per_step, validation, figures
):
    """The first step takes `start` longer, and the first figures 10 s."""
    estimates = []  # (time, estimated seconds left)

    class Slow(VAE):
        def loss(self, x, y):
            clock.now += per_step + start * (clock.now == 0)
            return super().loss(x, y)

        def on_validation_end(self):
            clock.now += validation

    class Figures(PowersOfTwoCallback):
        def act(self, trainer, model):
            clock.now += figures + 10 * (self.acted_after == 1)

    class Watched(Progress):
        def _left(self, trainer):
            left = super()._left(trainer)
            if finished_epochs(trainer) >= 2:
                estimates.append((clock.now, left))
            return left

    if on_terminal:
        request.getfixturevalue("terminal")
        monkeypatch.setattr("callbacks.progress.REFRESH", -1.0)
    fit(make_model(kind=Slow), [Figures(), Watched()], max_epochs=20)
    assert len(estimates) > (50 if on_terminal else 4)
    for when, left in estimates[:-1]:
        assert left == pytest.approx(clock.now - when, rel=0.5, abs=0.1), when


def test_the_rate_follows_the_load_of_the_machine():
    pace = Pace(now=0.0, step=0)
    for epoch in range(1, 17):
        pace.epoch_ended(float(epoch), float(epoch), 10 * epoch, restart=epoch in (1, 2, 4, 8, 16))
    assert pace.left(100, 0) == pytest.approx(10)
    for epoch in range(17, 33):
        now = 16 + 5.0 * (epoch - 16)
        pace.epoch_ended(now, now, 10 * epoch, restart=epoch == 32)
    assert pace.left(100, 0) == pytest.approx(50)


@pytest.mark.parametrize("last", [1, 2, 7, 8, 300])
def test_rounds_of_figures(last):
    for epoch in range(last + 1):
        after = [later for later in range(epoch + 1, last + 1) if later & (later - 1) == 0 or later == last]
        assert rounds_between(epoch, last) == len(after)


def test_with_early_stopping_the_estimate_is_an_upper_bound(fit, make_model, capfd):
    from callbacks import EarlyStopping

    fit(make_model(), [EarlyStopping(9), Progress()], max_epochs=3)
    assert " s/epoch  at most " in capfd.readouterr().err
