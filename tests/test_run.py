"""The books of a run, and what a learner's edits do to them."""

import importlib
import io
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import common
import mnist_bn_gan
import mnist_gan

NO_STEP = pytest.raises(RuntimeError, match="loop over run.epochs")
DATA = torch.arange(11)  # four steps of three, the last of two


@pytest.fixture
def make_run(arguments):
    """A function: it makes a Run in run/, with these options."""

    def make(parts=None, **options):
        options.setdefault("out", Path("run"))
        return common.Run(arguments(**options), **(parts or {}))

    return make


# %% Counts and means
def test_minibatches_are_shuffled_rows(make_run):
    seen = []
    with make_run(epochs=2) as run:
        for _ in run.epochs():
            for a, b in run.minibatches(DATA, -DATA):
                is_last = run.step % 4 == 0
                assert len(a) == (2 if is_last else 3)
                assert a.equal(-b)
                seen += a.tolist()
    first = seen[:11]
    second = seen[11:]
    assert sorted(first) == sorted(second) == DATA.tolist()
    assert first != DATA.tolist()
    assert first != second


def test_means_are_of_an_epoch(make_run):
    """Or, where not every one is due, of the epochs since the last that was."""
    with make_run(epochs=6) as run:
        for _ in run.epochs(every=4):
            for _ in run.minibatches(DATA):
                run.log(loss=torch.tensor(float(run.step)))
            run.log(epoch=run.epoch)
    first = (1 + 2 + 3 + 4) / 4
    second = (5 + 16) / 2
    third = (17 + 24) / 2
    assert run.history["loss"] == {1: first, 4: second, 6: third}
    assert run.history["epoch"] == {1: 1, 4: 3, 6: 5.5}


def test_due(make_run):
    """After steps 1, 10, 30, 100, 300, and at the end of an epoch that is due."""
    due = []
    with make_run(epochs=100) as run:
        for _ in run.epochs(every=40):
            for _ in run.minibatches(DATA):
                if run.due:
                    due.append(run.step)
    assert due == [1, 4, 10, 30, 100, 160, 300, 320, 400]


def test_a_line_for_each_epoch_that_is_due(make_run, capsys):
    with make_run(epochs=5) as run:
        for _ in run.epochs(every=3):
            for _ in run.minibatches(DATA):
                run.log(loss=2)
    said = capsys.readouterr().out
    for epoch in (1, 3, 5):
        assert f"epoch {epoch}/5: loss 2\n" in said
    for epoch in (2, 4):
        assert f"epoch {epoch}/5" not in said
    assert "Stopped after epoch 5: --epochs 5; to go on, raise it" in said


def test_max_steps(make_run, capsys):
    with make_run(epochs=9, max_steps=6) as run:
        for _ in run.epochs():
            for _ in run.minibatches(DATA):
                last_is_due = run.due
    assert run.step == 6
    assert run.epoch == 2
    assert last_is_due
    assert "Stopped in epoch 2: --max-steps 6" in capsys.readouterr().out


def test_stop(make_run, capsys, read_checkpoint):
    with make_run(epochs=9) as run:
        for epoch in run.epochs(every=4):
            for _ in run.minibatches(DATA):
                run.log(loss=epoch)
            if epoch == 2:
                run.stop = "it is good enough"
                assert run.is_last_epoch
    assert run.epoch == 2
    assert run.history["loss"] == {1: 1, 2: 2}
    assert "Stopped after epoch 2: it is good enough" in capsys.readouterr().out
    assert read_checkpoint("run")["epoch"] == 2


def test_a_last_minibatch_of_one_row(make_run):
    """It is left out where batch norm needs two rows, and only there."""
    sizes = []
    for smallest in (1, 2):
        folder = Path(str(smallest))
        with make_run(out=folder, batch_size=5, smallest_batch=smallest) as run:
            for _ in run.epochs():
                for (rows,) in run.minibatches(DATA):
                    sizes.append(len(rows))
    assert sizes == [5, 5, 1, 5, 5]


def test_a_last_minibatch_of_one_image(train, monkeypatch):
    images, labels = common.load_mnist()

    def load_mnist(train=True):
        return images[:41], labels[:41]

    monkeypatch.setattr(common, "load_mnist", load_mnist)
    run = train(mnist_bn_gan, "--batch-size 8 --epochs 1")
    assert run.step == 5
    run = train(mnist_gan, "--batch-size 8 --epochs 1")
    assert run.step == 6


# %% A learner's loops
def test_own_loader(make_run):
    """Its steps are not counted. So no average and no picture would be right."""
    loader = DataLoader(TensorDataset(DATA), batch_size=3)
    with NO_STEP, make_run() as run:
        for _ in run.epochs():
            for _ in loader:
                run.log(loss=1)


def test_own_loader_without_a_log(make_run):
    loader = DataLoader(TensorDataset(DATA), batch_size=3)
    with NO_STEP, make_run() as run:
        for _ in run.epochs():
            for _ in loader:
                pass


def test_own_loader_in_a_later_epoch(make_run):
    with NO_STEP, make_run(epochs=2) as run:
        for epoch in run.epochs():
            if epoch == 1:
                for _ in run.minibatches(DATA):
                    run.log(loss=1)
            else:
                run.log(loss=1)


def test_own_epochs(make_run):
    with NO_STEP, make_run() as run:
        for _ in range(3):
            for _ in run.minibatches(DATA):
                run.log(loss=1)


def test_no_loop(make_run):
    with NO_STEP, make_run():
        pass


def test_the_average_of_an_uncounted_step():
    net = nn.Linear(1, 1)
    with pytest.raises(RuntimeError, match="no step was counted"):
        common.update_average(net, net, step=0)


def test_break_in_the_loop_of_epochs(make_run, read_checkpoint):
    net = nn.Linear(1, 1)
    with make_run({"net": net}, epochs=9) as run:
        for epoch in run.epochs(every=5):
            for _ in run.minibatches(DATA):
                run.log(loss=epoch)
            nn.init.constant_(net.weight, epoch)
            if epoch == 3:
                break
    checkpoint = read_checkpoint("run")
    assert checkpoint["epoch"] == 3
    assert checkpoint["step"] == 12
    assert checkpoint["parts"]["net"]["weight"].item() == 3
    assert run.history["loss"] == {1: 1, 3: 2.5}
    assert Path("run/losses.png").exists()


def test_break_in_the_loop_of_minibatches(make_run, read_checkpoint):
    """It does not jump over --max-steps."""
    with make_run(epochs=9, max_steps=5) as run:
        for _ in run.epochs():
            for _ in run.minibatches(DATA):
                run.log(loss=run.step)
                if run.step % 2 == 0:
                    break
    assert run.step == 5
    assert run.epoch == 3
    assert run.history["loss"] == {1: 1.5, 2: 3.5, 3: 5}
    assert read_checkpoint("run")["step"] == 5


def test_more_data_than_one_loop(make_run):
    """Steps of a second loop in an epoch count, too."""
    with make_run(epochs=1) as run:
        for _ in run.epochs():
            for _ in run.minibatches(DATA):
                run.log(loss=1)
            for _ in run.minibatches(DATA):
                run.log(loss=2)
    assert run.step == 8
    assert run.history["loss"] == {1: 1.5}


# %% A learner's log
def test_log_of_a_whole_batch(make_run):
    """It fails at its line, and names the culprit."""
    wanted = pytest.raises(ValueError, match=r"D_x has to be one number.*\(3, 1\)")
    with wanted, make_run() as run:
        for _ in run.epochs():
            for _ in run.minibatches(DATA):
                run.log(D_x=torch.zeros(3, 1))
    assert run.step == 1


def test_log_of_a_tensor_that_is_changed_later(make_run):
    total = torch.zeros(())
    with make_run() as run:
        for _ in run.epochs():
            for _ in run.minibatches(DATA):
                total += 1
                run.log(total=total)
    assert run.history["total"] == {1: 2.5}  # of 1, 2, 3, 4
    assert total.item() == 4


def test_log_of_all_kinds_of_numbers(make_run):
    weight = torch.tensor(2.0, requires_grad=True)
    with make_run() as run:
        for _ in run.epochs():
            for _ in run.minibatches(DATA):
                run.log(a=1, b=numpy.float32(2), c=weight * 2, d=torch.ones(1, 1))
                run.log(e=torch.tensor(True), f=numpy.int64(5))
    means = {}
    for name, values in run.history.items():
        means[name] = values[1]
    assert means == {"a": 1, "b": 2, "c": 4, "d": 1, "e": 1, "f": 5}


def test_no_log_at_all(make_run):
    with make_run() as run:
        for _ in run.epochs():
            for _ in run.minibatches(DATA):
                pass
    run.finish({"a": 1.0}, {"a": "one"})
    assert not Path("run/losses.png").exists()
    assert Path("run/metrics.json").exists()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number(value, make_run, refuse):
    def train():
        with make_run(epochs=3) as run:
            for epoch in run.epochs():
                for _ in run.minibatches(DATA):
                    run.log(loss_D=1 if epoch == 1 else value)

    status, message = refuse(train)
    assert status == 1
    assert f"loss_D is {value} in epoch 2" in message
    assert "lower learning rate" in message
    assert f"last good weights are in {Path('run/checkpoint.pt')}" in message


def test_an_infinite_number_that_is_no_loss(make_run, refuse):
    """It has nothing to do with the learning rate."""

    def train():
        with make_run() as run:
            for _ in run.epochs():
                for _ in run.minibatches(DATA):
                    run.log(ratio=math.inf)

    _, message = refuse(train)
    assert "ratio is inf in epoch 1" in message
    assert "learning rate" not in message
    assert not Path("run/checkpoint.pt").exists()


# %% Errors
def fail(make_run, error, net=None, at_epoch=1):
    parts = {"net": net or nn.Linear(1, 1)}
    with make_run(parts, epochs=2) as run:
        for epoch in run.epochs():
            for _ in run.minibatches(DATA):
                run.log(loss=1)
                if epoch == at_epoch:
                    raise error


def test_an_error_keeps_its_traceback(make_run, capsys):
    with pytest.raises(NameError, match="a slip"):
        fail(make_run, NameError("a slip"))
    hint = capsys.readouterr().err
    assert hint == "In epoch 1, step 1: nothing is saved\n"


def test_an_error_after_a_checkpoint(make_run, capsys):
    with pytest.raises(OSError, match="a slip"):
        fail(make_run, OSError("a slip"), at_epoch=2)
    hint = capsys.readouterr().err
    path = Path("run/checkpoint.pt")
    assert f"In epoch 2, step 5: go on by python x.py --resume {path}\n" == hint


@pytest.mark.parametrize("value", [math.nan, math.inf, -1e5])
def test_weights_that_are_nan_or_huge(value, make_run, capsys):
    """The hint stands beside the traceback."""
    net = nn.Linear(1, 1)
    nn.init.constant_(net.bias, value)
    with pytest.raises(NameError, match="a slip"):
        fail(make_run, NameError("a slip"), net)
    hint = capsys.readouterr().err
    assert f"The largest weight is {abs(value):.3g}: try a lower" in hint


def test_a_learning_rate_that_is_much_too_high(train, capsys):
    with pytest.raises(RuntimeError, match="between 0 and 1"):
        train(mnist_gan, "--batch-size 128 --lr-G 30 --lr-D 1e30")
    assert "try a lower learning rate" in capsys.readouterr().err


def test_ctrl_c(make_run, refuse):
    """The pictures come all the same."""
    status, message = refuse(fail, make_run, KeyboardInterrupt(), None, 1)
    assert status == 1
    assert message == "stopped in epoch 1: nothing is saved"
    assert not Path("run/losses.png").exists()
    again = refuse(fail_elsewhere, make_run)
    assert again[1].startswith("stopped in epoch 2: go on by python x.py --resume")
    assert Path("elsewhere/losses.png").exists()


def fail_elsewhere(make_run):
    with make_run(out=Path("elsewhere"), epochs=2) as run:
        for epoch in run.epochs():
            for _ in run.minibatches(DATA):
                run.log(loss=1)
                if epoch == 2:
                    raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["curve_gan", "numbers_gan"])
def test_pictures_come_before_the_export(name, small_mnist, monkeypatch):
    """Whatever an edited net breaks there."""
    script = importlib.import_module(name)

    def export(*args, **options):
        raise NameError("a slip")

    monkeypatch.setattr(torch.export, "export", export)
    with pytest.raises(NameError, match="a slip"):
        script.main("--max-steps 1 --out run")
    for file in ("losses.png", "training.gif", "training.png", "checkpoint.pt"):
        assert Path("run", file).exists()


# %% What a checkpoint and the last lines can hold
def test_an_option_of_type_path(make_run):
    """torch.load would refuse it. It is named when the first one is written."""
    wanted = pytest.raises(TypeError, match="--data does not fit into a checkpoint")
    with wanted, make_run(data=Path("images")) as run:
        for _ in run.epochs():
            for _ in run.minibatches(DATA):
                pass
    assert not Path("run/checkpoint.pt").exists()


def test_a_numpy_number_in_a_part(make_run):
    class Schedule:
        def state_dict(self):
            return {"best": numpy.float64(0.5)}

    wanted = pytest.raises(TypeError, match="part schedule does not fit")
    with wanted, make_run({"schedule": Schedule()}) as run:
        for _ in run.epochs():
            for _ in run.minibatches(DATA):
                pass


@pytest.fixture
def finished(make_run):
    """A run that has trained, but has no score yet."""
    with make_run() as run:
        for _ in run.epochs():
            for _ in run.minibatches(DATA):
                run.log(loss=1)
    return run


def test_a_score_without_an_entry_in_about(finished, capsys):
    assert finished.finish({"new": 0.5}, {}) == {"new": 0.5}
    assert "new: 0.5 (see the script)" in capsys.readouterr().out


def test_numbers_of_numpy_and_tensors_in_a_score(finished):
    score = {"a": numpy.float32(0.5), "b": torch.tensor(2), "c": [numpy.int64(3)]}
    finished.finish(score, {})
    metrics = json.loads(Path("run/metrics.json").read_text())
    assert metrics["score"] == {"a": 0.5, "b": 2, "c": [3]}


def test_finish_names_the_picture_to_look_at_first(finished, capsys):
    Path("run/best.png").touch()
    finished.finish({}, {}, "best.png")
    _, _, end = capsys.readouterr().out.partition("Look at:\n")
    assert end.splitlines()[0].strip() == str(Path("run/best.png"))


def test_the_picture_is_shown_below_a_cell(finished, monkeypatch):
    shown = []

    def get_ipython():
        return SimpleNamespace()

    def picture(filename):
        return filename

    display = SimpleNamespace(display=shown.append, Image=picture)
    shell = SimpleNamespace(get_ipython=get_ipython)
    monkeypatch.setitem(sys.modules, "IPython", shell)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    Path("run/best.png").touch()
    finished.finish({}, {}, "best.png")
    assert shown == [str(Path("run/best.png"))]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_bar(make_run, monkeypatch):
    """It is drawn in a terminal, and shows the means so far."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with make_run(epochs=2) as run:
        for _ in run.epochs():
            for _ in run.minibatches(DATA):
                run.log(loss=0.5)
                run.shown = 0  # as if it had been drawn long ago
    text = terminal.getvalue()
    assert "epoch 1/2" in text
    assert "epoch 2/2" in text
    assert "left, loss 0.5" in text
    assert run.bar.n == 1


def test_no_bar_where_there_is_no_terminal(make_run, capsys):
    with make_run() as run:
        for _ in run.epochs():
            for _ in run.minibatches(DATA):
                run.shown = 0
    assert capsys.readouterr().err == ""
