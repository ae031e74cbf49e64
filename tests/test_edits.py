"""What learners write: their own loops and logs simply work, or fail at their line."""

import math
from pathlib import Path

import numpy
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import common

DATA = torch.arange(11)  # four steps of three, the last of two


def test_minibatches_are_shuffled_rows(parse):
    orders = []
    for _ in range(2):
        order = []
        for a, b in common.minibatches(parse(), DATA, -DATA):
            assert len(a) == (2 if len(order) == 9 else 3)
            assert a.equal(-b)
            order += a.tolist()
        assert sorted(order) == DATA.tolist()
        orders.append(order)
    assert orders[0] != orders[1]
    assert DATA.tolist() not in orders
    assert len(list(common.minibatches(parse("--max-steps 2"), DATA))) == 2
    with pytest.raises(AssertionError, match="[Ss]ize mismatch"):
        next(common.minibatches(parse(), DATA, DATA[:5]))


def test_means_are_since_the_last_end_epoch(parse, capsys):
    """Whether every epoch is ended, or only some."""
    run = common.Run(parse("--epochs 4"))
    for epoch in range(1, 5):
        run.log(loss=epoch)
        run.log(loss=torch.tensor(epoch + 1))
        if epoch != 2:
            means = run.end_epoch(epoch)
    assert run.history == {"loss": {1: 1.5, 3: 3, 4: 4.5}}
    assert means == {"loss": 4.5}
    assert "epoch 3/4: loss 3 (00:00 left)\n" in capsys.readouterr().out


@pytest.mark.parametrize("loader", [None, DataLoader(TensorDataset(DATA), 3)])
def test_break_in_both_loops(loader, parse, read_checkpoint):
    """Of common.minibatches, or of one's own loader."""
    net = nn.Linear(1, 1)
    args = parse("--epochs 9 --out run")
    with common.Run(args, net=net) as run:
        for epoch in range(run.epoch + 1, args.epochs + 1):
            for _ in loader or common.minibatches(args, DATA):
                run.step += 1
                run.log(loss=run.step)
                if run.step % 2 == 0:
                    break
            nn.init.constant_(net.weight, epoch)
            run.end_epoch(epoch)
            if epoch == 3:
                break
    checkpoint = read_checkpoint("run")
    assert checkpoint["step"] == 6
    assert checkpoint["parts"]["net"]["weight"].item() == 3
    assert checkpoint["history"]["loss"] == {1: 1.5, 2: 3.5, 3: 5.5}
    assert Path("run/losses.png").exists()


def test_five_updates_of_d_for_one_of_g(parse):
    """Each is logged by its own count."""
    run = common.Run(parse())
    for i in range(1, 101):
        run.log(loss_D=i)
        if i % 5 == 0:
            run.log(loss_G=i)
    assert run.end_epoch(1) == {"loss_D": 50.5, "loss_G": 52.5}


def test_log_of_a_whole_batch(parse):
    """It fails at its line."""
    with pytest.raises(RuntimeError), common.Run(parse()) as run:
        run.log(D_x=torch.zeros(3, 1))


def test_log_of_all_kinds_of_numbers(parse):
    run = common.Run(parse())
    weight = torch.tensor(2.0, requires_grad=True)
    total = torch.zeros(())
    for _ in range(4):
        total += 1  # and changed later
        run.log(a=1, b=numpy.float32(2), c=weight * 2, d=torch.ones(1, 1), e=total)
    assert run.end_epoch(1) == {"a": 1, "b": 2, "c": 4, "d": 1, "e": 2.5}


def test_no_log_at_all(parse):
    with common.Run(parse("--out run")) as run:
        assert run.end_epoch(1) == {}
    assert not Path("run/losses.png").exists()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number(value, parse, refuse, read_checkpoint):
    """The last good checkpoint stays."""
    net = nn.Linear(1, 1)
    run = common.Run(parse("--epochs 3 --out run"), net=net)
    nn.init.constant_(net.weight, 1)
    run.log(loss_D=1)
    run.end_epoch(1)
    nn.init.constant_(net.weight, value)
    run.log(loss_D=value)
    status, line = refuse(run.end_epoch, 2)
    assert status == 1
    assert f"loss_D is {value} in epoch 2: try a lower learning rate" in line
    checkpoint = read_checkpoint("run")
    assert checkpoint["epoch"] == 1
    assert checkpoint["parts"]["net"]["weight"].item() == 1
