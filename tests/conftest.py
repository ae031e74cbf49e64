"""What the tests share: a small MNIST, small figures, watched runs. Fixtures only."""

import contextlib
import copy
import functools
import importlib
import io
import sys
from collections import defaultdict
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.nn.utils import parameters_to_vector
from torch.utils.tensorboard import SummaryWriter
from torchvision import datasets

HERE = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HERE))

import common
import judge
from test_smoke import SCRIPTS

# Options of the whole runs: no value is the default.
WHOLE = {
    "linear_gan": "--batch-size 250 --lr-D 0.002 --lr-G 0.004 --weight-decay 0.2",
    "curve_gan": "--batch-size 500 --lr-D 0.002 --lr-G 0.004 --weight-decay 0.2"
    " --curve sine --no-scale --dropout 0.25 --negative-slope 0.3 --latent-dim 3"
    " --patience 40",
    "numbers_gan": "--epochs 100 --batch-size 12 --lr 0.002 --multiple 7 --remainder 1"
    " --patience 40",
    "mnist_gan": "--batch-size 70 --lr-D 0.002 --lr-G 0.004 --weight-decay 0.2"
    " --unit-range --input-dim 30 --hidden-dim 40",
    "mnist_bn_gan": "--batch-size 70 --lr-D 0.002 --lr-G 0.004 --noise-dim 30",
    "mnist_cgan": "--batch-size 70 --lr 0.002 --noise-dim 30",
    "aae_mnist": "--batch-size 70 --lr 0.002 --b2 0.9 --latent-dim 6 --img-size 20"
    " --sample-interval 7 --adversarial 0.2",
}


class WatchedRun(common.Run):
    """It notes the calls of the nets, and which of them an update moves.

    After each update, gradients are spoilt: the next one has to clear them.
    """

    def __init__(self, args, **parts):
        super().__init__(args, **parts)
        WatchedRun.latest = self
        self.inputs = defaultdict(list)  # {net: what it was given, to be trained}
        self.labels = defaultdict(list)  # the same, the last of what it was given
        self.outputs = defaultdict(list)  # the same, what it made
        self.drawn = defaultdict(list)  # {net: what it was given, to be looked at}
        self.first = {}  # {net: its state before training}
        self.last = {}  # {net: its weights after the last update}
        self.moved = []  # for each update: names of nets
        self.averages = []  # (average, net, step) of each call of update_average
        self.nets = {}
        self.hooks = []
        for name, part in parts.items():
            if isinstance(part, torch.optim.Optimizer):
                self.hooks.append(part.register_step_post_hook(self.note_update))
            elif isinstance(part, nn.Module):
                self.nets[name] = part
                self.first[name] = copy.deepcopy(part.state_dict())
                self.last[name] = parameters_to_vector(part.parameters())
                note = functools.partial(self.note_call, name)
                self.hooks.append(part.register_forward_hook(note))

    def __exit__(self, *error):
        for hook in self.hooks:
            hook.remove()
        return super().__exit__(*error)

    def note_call(self, name, net, inputs, output):
        if net.training and torch.is_grad_enabled():
            self.inputs[name].append(inputs[0])
            self.labels[name].append(inputs[-1])
            self.outputs[name].append(output)
        else:
            self.drawn[name].append(inputs[0])

    def note_update(self, optimizer, args, kwargs):
        moved = []
        for name, net in self.nets.items():
            if name.startswith(("average_", "best_")):
                continue
            weights = parameters_to_vector(net.parameters()).detach()
            if not weights.equal(self.last[name]):
                moved.append(name)
            self.last[name] = weights
            for weight in net.parameters():
                weight.grad = torch.full_like(weight, 1000)
        self.moved.append(" ".join(moved))


@functools.cache
def read_mnist(train):
    dataset = SmallMNIST.__base__(common.DATA, train=train)
    return dataset.data, dataset.targets


class SmallMNIST(datasets.MNIST):
    """The first 300 images."""

    def __init__(self, root, train=True, transform=None, download=False):
        images, labels = read_mnist(train)
        self.data = images[:300]
        self.targets = labels[:300]
        self.transform = transform
        self.target_transform = None


save_figure = Figure.savefig


def save_small(figure, path, **how):
    """Save what a figure shows of the data. Its words take long to draw."""
    figure.set_layout_engine("none")
    for axes in figure.axes:
        axes.set_axis_off()
    save_figure(figure, path, dpi=10)


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    """Each test starts in an empty folder, on one thread. Data and figures are small."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "MNIST", SmallMNIST)
    monkeypatch.setattr(Figure, "savefig", save_small)
    monkeypatch.setattr(SummaryWriter, "add_graph", Mock())  # it takes a second
    torch.set_num_threads(1)


@pytest.fixture(params=SCRIPTS)
def script(request):
    """Each script, as a module."""
    return importlib.import_module(request.param)


@pytest.fixture(scope="session")
def mnist():
    """A function: it gives images and labels of all of MNIST, as its files have them."""
    return read_mnist


@pytest.fixture(scope="session")
def train():
    """A function: it calls main for a small training. Returns the score.

    The judge says that all digits are zeros, and as fd something of the images.
    """

    def assess(images, test_images=None):
        return images.std().item(), torch.zeros(len(images), dtype=torch.int64)

    def call(script, options, device="cpu"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(judge, "assess", assess)
            return script.main(f"{options} --device {device}")

    return call


@pytest.fixture(scope="session")
def train_once(tmp_path_factory, train):
    """A function: it gives a script's one whole run. Leave it as it is.

    The run is made when it is first asked for. It is a WatchedRun that also has
    options, score, output and content, what its checkpoint holds.
    """
    runs = {}
    update_average = common.update_average

    def get(script):
        name = script.__name__

        def note_average(average, net, step):
            WatchedRun.latest.averages.append((average, net, step))
            update_average(average, net, step)

        if name not in runs:
            beta1 = "--b1" if name == "aae_mnist" else "--beta1"
            options = f"--seed 3 --epochs 5 {beta1} 0.3 {WHOLE[name]}"
            folder = tmp_path_factory.mktemp("whole") / "run 图"
            output = io.StringIO()
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(common, "Run", WatchedRun)
                patch.setattr(common, "update_average", note_average)
                with contextlib.redirect_stdout(output):
                    score = train(script, f'{options} --out "{folder}"')
            run = WatchedRun.latest
            run.options = options
            run.score = score
            run.output = output.getvalue()
            run.content = common.load(run.checkpoint)
            runs[name] = run
        return runs[name]

    return get


@pytest.fixture
def whole(script, train_once):
    """A script's whole run: see train_once."""
    return train_once(script)


@pytest.fixture
def refuse(capsys):
    """A function: it calls what has to end in one line, and returns that."""

    def call(function, *args):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            function(*args)
        if stop.value.code == 2:  # argparse has printed it
            _, line = capsys.readouterr().err.splitlines()
            return line
        return stop.value.code  # Python prints it

    return call


@pytest.fixture
def parse():
    """A function: it gives the arguments of a small script with two own options."""

    def call(options=""):
        parser = common.make_parser("x", "A small script.", epochs=1, batch=3)
        parser.add_argument("--n-critic", type=int, default=1)
        parser.add_argument("--data", type=Path, default="images")
        parser.add_argument("--note")
        return common.parse(parser, f"{options} --device cpu", {})

    return call
