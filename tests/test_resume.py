"""Stopped and resumed is as never stopped."""

from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

import common
import curve_gan
import linear_gan
import mnist_gan
import numbers_gan

RESUME = "--resume run/checkpoint.pt"


def assert_same(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def read_pictures(folder):
    pictures = {}
    for path in Path(folder, "samples").iterdir():
        pictures[path.name] = path.read_bytes()
    return pictures


def read_steps(folder):
    """The steps of loss/G in TensorBoard."""
    events = EventAccumulator(str(folder)).Reload()
    return [event.step for event in events.Scalars("loss/G")]


def stop_in_epoch_2(patch):
    """Ctrl-C, when a step of epoch 2 has been logged."""
    log = common.Run.log

    def log_and_stop(run, **values):
        log(run, **values)
        if run.epoch == 2:
            run.writer.add_scalar("loss/G", 0.5, run.step)  # to be forgotten
            raise KeyboardInterrupt

    patch.setattr(common.Run, "log", log_and_stop)


def age_events():
    """TensorBoard reads events in the order of their names: the time, in seconds."""
    (events,) = Path("run").glob("events*")
    events.rename("run/events.out.tfevents.1")


def test_resumed_is_as_never_stopped(
    script, three_steps, whole_run, train, refuse, read_checkpoint
):
    figures = script is linear_gan
    with pytest.MonkeyPatch.context() as patch:
        stop_in_epoch_2(patch)
        options = f"{three_steps} --epochs 2 --out run"
        status, message = refuse(train, script, options, "cpu", figures)
    assert status == 1
    assert "stopped in epoch 2" in message
    assert RESUME in message
    age_events()
    torch.manual_seed(5)  # to be forgotten, too
    train(script, RESUME, "cpu", figures)
    once = whole_run.checkpoint
    twice = read_checkpoint("run")
    for name in ("parts", "random"):
        assert_same(once[name], twice[name])
    for name in ("args", "epoch", "step", "history", "kept", "stop"):
        assert once[name] == twice[name]
    assert read_pictures(whole_run.folder) == read_pictures("run")
    assert read_steps(whole_run.folder) == read_steps("run")


def test_a_checkpoint_keeps_all_nets_and_optimizers(script, whole_run):
    parts = whole_run.checkpoint["parts"]
    optimizers = 0
    for state in parts.values():
        if "param_groups" in state:
            optimizers += 1
            assert state["state"]  # momentum and so on
    assert optimizers == 2
    nets = {"D", "G"}
    if script.__name__ == "aae_mnist":
        nets = {"encoder", "decoder", "discriminator"}
    assert nets <= set(parts)


def test_random_numbers_drawn_before_the_loop_change_nothing(
    arguments, read_checkpoint
):
    data = torch.arange(9)
    seen = []

    def run_epochs(args):
        torch.rand(3)  # a learner's, for instance
        with common.Run(args) as run:
            torch.rand(7)
            for _ in run.epochs():
                for (rows,) in run.minibatches(data):
                    seen.append(rows.tolist())

    torch.manual_seed(0)
    run_epochs(arguments(epochs=2, out=Path("once")))
    once = seen.copy()
    seen.clear()
    torch.manual_seed(0)
    run_epochs(arguments(epochs=1, out=Path("run")))
    path = Path("run/checkpoint.pt")
    checkpoint = read_checkpoint("run")
    run_epochs(arguments(epochs=2, resume=path, checkpoint=checkpoint))
    assert seen == once


@pytest.mark.parametrize("script", ["linear_gan", "mnist_gan"], indirect=True)
def test_longer_is_as_in_one_go(script, three_steps, whole_run, train, read_checkpoint):
    train(script, f"{three_steps} --epochs 1 --out run")
    train(script, f"{RESUME} --epochs 2")
    twice = read_checkpoint("run")
    for name in ("parts", "random"):
        assert_same(whole_run.checkpoint[name], twice[name])


def test_a_cut_epoch_begins_anew(train, read_checkpoint):
    options = "--batch-size 100 --max-steps 4 --out run"  # of 10 steps an epoch
    assert train(linear_gan, options).step == 4
    assert read_checkpoint("run")["epoch"] == 0
    again = train(linear_gan, f"{RESUME} --max-steps 4")
    assert again.epoch == 1
    assert again.step == 8
    assert read_checkpoint("run")["epoch"] == 0
    whole = train(linear_gan, f"{RESUME} --epochs 2")
    assert whole.epoch == 2
    assert whole.step == 8 + 20
    assert list(whole.history["loss_D"]) == [1, 2]


def test_max_steps_at_the_end_of_an_epoch_cuts_nothing(train, read_checkpoint):
    train(linear_gan, "--batch-size 100 --max-steps 10 --out run")
    assert read_checkpoint("run")["epoch"] == 1
    assert train(linear_gan, f"{RESUME} --max-steps 10").epoch == 2


def test_a_finished_run_trains_no_more(train_once, train, copy_run):
    copy_run(train_once(linear_gan).folder)
    run = train(linear_gan, RESUME)
    assert run.epoch == 2
    assert run.step == 6


def test_a_finished_run_gets_its_score_and_pictures_again(
    train_once, small_mnist, copy_run, capsys
):
    whole = train_once(mnist_gan)
    copy_run(whole.folder)
    for name in ("losses.png", "training.gif", "training.png", "metrics.json"):
        Path("run", name).unlink()
    assert mnist_gan.main(RESUME) == whole.score
    for name in ("losses.png", "training.gif", "training.png", "metrics.json"):
        assert Path("run", name).exists()


def test_early_stop():
    """Three calls in vain. An equal gdif is no improvement."""
    for stopper in (curve_gan.EarlyStop(3), numbers_gan.EarlyStop(3)):
        for gdif in (5, 4, 6, 3, 3, 4, 2, 2, 9):
            assert not stopper.stop(gdif)
        assert stopper.stop(9)


def test_early_stop_saves_the_best_net_and_goes_on(
    train, monkeypatch, capsys, read_checkpoint
):
    distances = iter([3, 1, 2, 4, 5, 6, 7, 8, 9, 10])

    def worst(**quality):
        return next(distances)

    monkeypatch.setattr(curve_gan, "worst", worst)
    options = "--batch-size 800 --epochs"
    two = train(curve_gan, f"{options} 2")
    best = two.parts["best_G"].state_dict()

    distances = iter([3, 1, 2, 4, 5, 6, 7, 8, 9, 10])
    run = train(curve_gan, f"{options} 20 --patience 3 --out run")
    assert run.epoch == 5
    assert run.kept == 2
    assert "epoch 5: no better for 3 epochs" in capsys.readouterr().out
    assert_same(read_checkpoint("run")["parts"]["best_G"], best)

    same = train(curve_gan, RESUME)
    assert same.epoch == 5
    assert "no better for 3 epochs; raise --patience" in capsys.readouterr().out

    more = train(curve_gan, f"{RESUME} --patience 6")
    assert more.epoch == 8
    assert more.kept == 2


def test_early_stop_of_numbers_gan(train, monkeypatch):
    """It looks each hundred epochs."""

    def variation(*args):
        return 0.5

    monkeypatch.setattr(numbers_gan, "variation", variation)
    assert train(numbers_gan, "--patience 1 --out run").epoch == 200
    assert train(numbers_gan, RESUME).epoch == 200
    assert train(numbers_gan, f"{RESUME} --patience 2").epoch == 300


def test_the_documents_stop_watches_one_number(train, monkeypatch):
    """--watch error saves the last net; --watch remainder looks each epoch."""

    def performance(*args):
        return torch.tensor(0.5)

    def distance(*args):
        return 0.5

    monkeypatch.setattr(curve_gan, "performance", performance)
    monkeypatch.setattr(numbers_gan, "distance", distance)
    run = train(curve_gan, "--batch-size 800 --watch error --patience 2")
    assert run.epoch == 3
    assert run.kept == 3
    last = run.parts["G"].state_dict()
    assert_same(run.parts["best_G"].state_dict(), last)
    assert train(numbers_gan, "--watch remainder --patience 4").epoch == 5


def test_resume_goes_on_in_the_file_that_it_is_given(train, copy_run, train_once):
    """Whatever its name."""
    copy_run(train_once(linear_gan).folder)
    Path("run/checkpoint.pt").rename("run/saved.new")
    train(linear_gan, "--resume run/saved.new --epochs 3")
    assert torch.load("run/saved.new")["epoch"] == 3
    assert not Path("run/checkpoint.pt").exists()


def test_a_net_of_another_shape_keeps_its_traceback(arguments, read_checkpoint):
    args = arguments(out=Path("run"))
    with common.Run(args, net=nn.Linear(2, 2)) as run:
        for _ in run.epochs():
            for _ in run.minibatches(torch.arange(3)):
                pass
    checkpoint = read_checkpoint("run")
    again = arguments(resume=Path("run/checkpoint.pt"), checkpoint=checkpoint)
    with pytest.raises(RuntimeError, match="size mismatch"):
        common.Run(again, net=nn.Linear(3, 3))
