"""What learners write: their own loops and logs simply work, or fail at their line."""

import importlib
import math
import sys
from pathlib import Path

import numpy
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset
from torchvision import datasets, transforms

import common

DATA = torch.arange(11)  # four steps of three, the last of two


# %% A copy, with loaders as the documents have them
NORMALIZE = [transforms.ToTensor(), transforms.Normalize((0.5,), (0.5,))]
TRANSFORMS = {
    "mnist_gan": transforms.ToTensor(),
    "mnist_bn_gan": transforms.Compose(NORMALIZE),
    "mnist_cgan": transforms.Compose(NORMALIZE),
    "aae_mnist": transforms.Compose([transforms.Resize(32), *NORMALIZE]),
}
STEPS = {"linear_gan": 10, "curve_gan": 21, "numbers_gan": 1}  # of 100 examples; else 3


@pytest.fixture
def my_gan(script, tmp_path, monkeypatch):
    """A copy of the script, my_gan.py, with DataLoader for common.minibatches."""
    name = script.__name__

    def make_loader(args, *tensors):
        dataset = TensorDataset(*tensors)
        if name == "curve_gan":
            dataset = tensors[0]
        if name in TRANSFORMS:
            how = {"transform": TRANSFORMS[name], "download": True}
            dataset = datasets.MNIST(root="./data/", train=True, **how)
        return DataLoader(dataset=dataset, batch_size=100, shuffle=True)

    source = Path(script.__file__).read_text(encoding="utf-8")
    source = source.replace("for (real_samples,) in", "for real_samples in")
    Path("my_gan.py").write_text(source, encoding="utf-8")
    monkeypatch.setattr(common, "minibatches", make_loader)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_gan", raising=False)
    return importlib.import_module("my_gan")


def test_a_copy_with_an_own_loader(script, my_gan, train, refuse):
    """It has its own name and folder. Without --average, the net itself is kept."""
    path = "runs/my_gan/1/checkpoint.pt"
    option = "--no-average" * ("average" in script.parse(""))
    score = train(my_gan, f"--epochs 1 {option}")
    content = common.load(path)
    assert content["step"] == STEPS.get(script.__name__, 3)
    for name, state in content["parts"].items():
        net = name.removeprefix("average_")
        torch.testing.assert_close(state, content["parts"][net], rtol=0, atol=0)
    Path("runs/my_gan/1/losses.png").unlink()
    assert train(my_gan, f"--resume {path}") == score  # nothing is left to train
    my_gan.main(f"--generate {path}")
    for name in ("losses.png", "generated-1.png"):
        assert Path("runs/my_gan/1", name).exists()
    line = refuse(script.main, f"--generate {path}")
    assert f"{path} is of my_gan.py, not of {script.__name__}.py" in line
    line = refuse(my_gan.main, "--n 1")
    assert line.startswith("my_gan.py: error: --n goes with --generate")


# %% Own options
def test_own_options(parse, refuse):
    run = common.Run(parse("--out run --data my/images"))
    run.end_epoch(1)
    resume = "--resume run/checkpoint.pt"
    assert parse(resume).data == Path("my/images")
    line = refuse(parse, f"{resume} --n-critic 5")
    assert line.endswith("a resumed run keeps its options: leave out --n-critic")
    assert refuse(parse, "--help") == 0  # --note has no type


# %% Own loops
def test_minibatches_are_shuffled_rows(parse):
    order = []
    for a, b in common.minibatches(parse(), DATA, -DATA):
        assert len(a) == (2 if len(order) == 9 else 3)
        assert a.equal(-b)
        order += a.tolist()
    assert order != sorted(order) == DATA.tolist()
    assert len(list(common.minibatches(parse("--max-steps 2"), DATA))) == 2


def test_means_are_since_the_last_end_epoch(parse, capsys):
    """Whether every epoch is ended, or only some. Time left is guessed after a 20th."""
    run = common.Run(parse("--epochs 60"))
    for epoch in (1, 2, 3, 60):
        run.log(loss=epoch)
        run.log(loss=torch.tensor(epoch + 1))
        if epoch != 2:
            means = run.end_epoch(epoch)
        is_guessed = " left\n" in capsys.readouterr().out
        assert is_guessed == (epoch == 3)
    assert run.history == {"loss": {1: 1.5, 3: 3, 60: 60.5}}
    assert means == {"loss": 60.5}


def test_log_of_all_kinds_of_numbers(parse):
    run = common.Run(parse())
    weight = torch.tensor(2.0, requires_grad=True)
    total = torch.zeros(())
    for _ in range(4):
        total += 1  # and changed later
        run.log(a=1, b=numpy.float32(2), c=weight * 2, d=torch.ones(1, 1), e=total)
    run.log(e=10)  # by its own count
    assert not run.logged["c"][0].requires_grad  # no graph is kept
    assert run.end_epoch(1) == {"a": 1, "b": 2, "c": 4, "d": 1, "e": 4}
    with pytest.raises(RuntimeError):
        run.log(D_x=torch.zeros(3, 1))  # a whole batch


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number(value, parse, refuse):
    """The last good checkpoint stays."""
    run = common.Run(parse("--epochs 3 --out run"))
    run.end_epoch(1)
    run.log(loss_D=value)
    line = refuse(run.end_epoch, 2)
    assert f"loss_D is {value}: try a lower learning rate" in line
    assert common.load(Path("run/checkpoint.pt"))["epoch"] == 1
