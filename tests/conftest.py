"""What the tests share: a small MNIST, small figures, runs. Fixtures only."""

import contextlib
import importlib
import io
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

HERE = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HERE))

import common
import judge
from test_smoke import SCRIPTS


def do_nothing(*args):
    """Instead of add_graph, which takes a second."""


save_figure = Figure.savefig


def save_small(figure, path, **how):
    """Save what a figure shows of the data. Its words take long to draw."""
    figure.set_layout_engine("none")
    for axes in figure.axes:
        axes.set_axis_off()
    save_figure(figure, path, dpi=10)


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    """Each test starts in an empty folder, on one thread. Figures are small."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Figure, "savefig", save_small)
    monkeypatch.setattr(SummaryWriter, "add_graph", do_nothing)
    torch.set_num_threads(1)


@pytest.fixture(params=SCRIPTS)
def script(request):
    """Each script, as a module."""
    return importlib.import_module(request.param)


@pytest.fixture(scope="session")
def mnist():
    """All of MNIST: {is it for training?: (images, labels)}."""
    return {True: common.load_mnist(), False: common.load_mnist(train=False)}


@pytest.fixture(scope="session")
def train(mnist):
    """A function: it calls main for a small training. Returns the score.

    Of MNIST there are 300 images. The judge says fd 5, and that all are zeros.
    """

    def load_mnist(train=True):
        images, labels = mnist[train]
        return images[:300], labels[:300]

    def assess(images, test_images=None):
        return 5.0, torch.zeros(len(images), dtype=torch.int64)

    def call(script, options, device="cpu"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(common, "load_mnist", load_mnist)
            patch.setattr(judge, "assess", assess)
            return script.main(f"{options} --device {device}")

    return call


@pytest.fixture(scope="session")
def read_checkpoint():
    """A function: it reads the checkpoint of a run's folder."""

    def read(folder):
        return torch.load(Path(folder, "checkpoint.pt"), weights_only=True)

    return read


@pytest.fixture(scope="session")
def options():
    """Of most trainings here: twelve steps or more an epoch."""
    return "--batch-size 25"


@pytest.fixture(scope="session")
def train_once(tmp_path_factory, train, options, read_checkpoint):
    """A function: it gives a script's one whole run of two epochs. Leave it as it is.

    The run is made when it is first asked for.
    """
    finished = {}

    def get(script):
        name = script.__name__
        if name not in finished:
            folder = tmp_path_factory.mktemp("whole") / name
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                score = train(script, f"{options} --epochs 2 --out {folder}")
            run = SimpleNamespace(folder=folder, score=score)
            run.path = folder / "checkpoint.pt"
            run.checkpoint = read_checkpoint(folder)
            run.output = output.getvalue()
            finished[name] = run
        return finished[name]

    return get


@pytest.fixture
def whole_run(script, train_once):
    """A script's whole run of two epochs: folder, path, score, output, checkpoint."""
    return train_once(script)


@pytest.fixture
def refuse(capsys):
    """A function: it calls what has to end in one line. Returns status and line."""

    def call(function, *args):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            function(*args)
        code = stop.value.code
        if isinstance(code, str):  # Python prints it; the status is 1
            assert "\n" not in code
            return 1, code
        usage, line = capsys.readouterr().err.splitlines()
        assert usage.startswith("usage: ")
        return code, line

    return call


@pytest.fixture
def parse():
    """A function: it gives the arguments of a small script, x.py."""

    def call(options=""):
        parser = common.make_parser("x", "A small script.", epochs=1, batch_size=3)
        return common.parse(parser, f"{options} --device cpu", {})

    return call
