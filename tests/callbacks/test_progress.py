import io
import re
from types import SimpleNamespace

import pytest

from callbacks import Progress, RunCheckpoint
from callbacks.progress import duration


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    screen = Terminal()
    # pytest keeps the real one for itself
    monkeypatch.setattr("callbacks.progress.sys", SimpleNamespace(stderr=screen))
    return screen


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (3600, "60 min"), (5400, "1.5 h"), (9000, "2.5 h")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_without_a_terminal_a_line_now_and_then(fit, make_model, capfd):
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


def test_a_limit_of_steps_is_the_whole_of_the_bar(fit, make_model, terminal):
    fit(make_model(), [Progress()], max_epochs=-1, max_steps=6)
    assert "100%" in terminal.getvalue()
    assert "epoch 2 " in terminal.getvalue()
