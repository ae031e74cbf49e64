"""Stopped and resumed is as never stopped."""

import shutil
from pathlib import Path

import pytest
import torch

import common
import curve_gan
import linear_gan
import numbers_gan

RESUME = "--resume run/checkpoint.pt"
SMALL = "--batch-size 1000"  # of curve_gan.py


def assert_same(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def press_ctrl_c_in_epoch_2(patch):
    log = common.Run.log

    def log_and_stop(run, **values):
        log(run, **values)
        if run.epoch == 1:
            raise KeyboardInterrupt

    patch.setattr(common.Run, "log", log_and_stop)


def test_resumed_run(script, options, whole_run, train, read_checkpoint, capsys):
    """One epoch; then Ctrl-C in epoch 2; then epoch 2."""
    train(script, f"{options} --epochs 1 --out run")
    Path("run/losses.png").unlink()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stop:
        press_ctrl_c_in_epoch_2(patch)
        train(script, f"{RESUME} --epochs 2")
    assert stop.value.code == 1
    said = capsys.readouterr().out
    assert "Going on after epoch 1 of 2" in said
    assert "Stopped after epoch 1. Go on: python" in said
    assert Path("run/losses.png").exists()  # it draws, also after Ctrl-C
    torch.manual_seed(5)  # to be forgotten
    train(script, f"{RESUME} --epochs 2")
    once = whole_run.checkpoint
    twice = read_checkpoint("run")
    assert_same(once["parts"], twice["parts"])
    assert_same(once["random"], twice["random"])
    for name in ("args", "epoch", "step", "history"):
        assert once[name] == twice[name]
    pictures = sorted((whole_run.folder / "samples").iterdir())
    again = sorted(Path("run/samples").iterdir())
    assert [path.name for path in again] == [path.name for path in pictures]
    assert again[-1].read_bytes() == pictures[-1].read_bytes()


def test_max_steps_counts_as_an_epoch(train, read_checkpoint):
    """The quick try does not say how long --resume trains."""
    train(linear_gan, "--batch-size 100 --max-steps 4 --out run")
    train(linear_gan, f"{RESUME} --max-steps 4")
    assert read_checkpoint("run")["epoch"] == 2
    assert linear_gan.parse(RESUME).epochs == linear_gan.parse("").epochs


def test_a_finished_run_gets_its_score_and_pictures_again(script, train, whole_run):
    """Nothing is left to train."""
    shutil.copytree(whole_run.folder, "run")
    for name in ("training.png", "training.gif", "losses.png", "metrics.json"):
        Path("run", name).unlink()
    assert train(script, RESUME) == whole_run.score
    assert len(list(Path("run").iterdir())) >= len(list(whole_run.folder.iterdir()))


# %% Stopping early
def test_early_stop():
    """Three calls in vain. An equal gdif is no improvement."""
    for stopper in (curve_gan.EarlyStop(3), numbers_gan.EarlyStop(3)):
        for gdif in (5, 4, 6, 3, 3, 4, 2, 2, 9):
            assert not stopper.stop(gdif)
        assert stopper.stop(9)


def test_early_stop_saves_the_best_net(train, monkeypatch, capsys, read_checkpoint):
    distances = []

    def worst(**quality):
        return distances.pop(0)

    monkeypatch.setattr(curve_gan, "worst", worst)
    distances += [3, 1]
    train(curve_gan, f"{SMALL} --epochs 2 --out two")
    best = read_checkpoint("two")["parts"]["G"]

    distances += [3, 1, 2, 4, 5, 6, 7, 8]
    train(curve_gan, f"{SMALL} --epochs 20 --patience 3 --out run")
    assert read_checkpoint("run")["epoch"] == 5
    assert "no better for 3 epochs; raise --patience" in capsys.readouterr().out

    train(curve_gan, f"{RESUME} --patience 6")
    checkpoint = read_checkpoint("run")
    assert checkpoint["epoch"] == 8
    assert_same(checkpoint["parts"]["best_G"], best)


def test_early_stop_of_numbers_gan(train, monkeypatch, read_checkpoint):
    """It looks each hundred epochs, or, as the document, each."""

    def look(*args):
        return 0.5

    monkeypatch.setattr(numbers_gan, "variation", look)
    monkeypatch.setattr(numbers_gan, "distance", look)
    train(numbers_gan, "--patience 1 --out run")
    assert read_checkpoint("run")["epoch"] == 200
    train(numbers_gan, "--watch remainder --patience 4 --out numbers")
    assert read_checkpoint("numbers")["epoch"] == 5


def test_the_documents_stop_saves_the_last_net(train, monkeypatch, read_checkpoint):

    def performance(*args):
        return torch.tensor(0.5)

    monkeypatch.setattr(curve_gan, "performance", performance)
    train(curve_gan, f"{SMALL} --watch error --patience 2 --out run")
    checkpoint = read_checkpoint("run")
    assert checkpoint["epoch"] == 3
    assert_same(checkpoint["parts"]["best_G"], checkpoint["parts"]["G"])
