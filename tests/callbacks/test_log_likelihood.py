import pytest

from callbacks import LogLikelihood, log_likelihood
from models.estimators.importance import importance


def test_logs_the_estimate_with_the_validation_metrics(fit, make_model, memory, data):
    log, model = memory(), make_model()
    fit(model, [LogLikelihood(num_images=120, num_samples=50)], max_epochs=2, logger=log)
    again = importance(model, data.images("val", 120)[0], K=50, seed=99)
    [_, (step, epoch, nll)] = log.of("val/nll")
    # other noise: the mean over 120 images differs by a few hundredths of a nat
    assert nll == pytest.approx(-again.log_px.mean().item(), abs=0.3)
    assert log.of("val/ess")[-1][2] == pytest.approx(again.ess.median().item(), rel=0.2)
    assert (step, epoch) == log.of("val/bound")[-1][:2] == (5, 1)


def test_each_image_is_estimated_once_with_the_seed_of_its_part(fit, make_model, data, monkeypatch):
    calls = []

    def spy(model, x, K, chunk, *labels, seed):
        calls.append((len(x), K, chunk, labels, seed))
        return importance(model, x, K, chunk, *labels, seed=seed)

    monkeypatch.setattr(log_likelihood, "importance", spy)
    fit(make_model(), [LogLikelihood(num_samples=3)], max_epochs=1)  # 500 asked for, 250 there
    assert calls == [(100, 3, 25, (), 0), (100, 3, 25, (), 1), (50, 3, 25, (), 2)]


@pytest.mark.parametrize(("name", "chunk"), [("CVAE", 25), ("M2", 2), ("M1M2", 2)])
def test_only_conditional_models_receive_labels_and_memory_is_bounded(
    fit, make_model, memory, data, monkeypatch, name, chunk
):
    chunks = []

    def spy(model, x, K, chunk, *labels, seed):
        chunks.append(chunk)
        return importance(model, x, K, chunk, *labels, seed=seed)

    monkeypatch.setattr(log_likelihood, "importance", spy)
    log, model = memory(), make_model(name)
    fit(model, [LogLikelihood(num_images=50, num_samples=20)], max_epochs=1, logger=log)
    x, y = data.images("val", 50)
    again = importance(model, x, 20, chunk, y if name == "CVAE" else None)
    assert log.of("val/nll")[-1][2] == -again.log_px.mean().item()
    assert set(chunks) == {chunk}
