"""What the tests share: a small MNIST, short runs, refusals. Fixtures only."""

import contextlib
import importlib
import io
import shutil
import sys
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

HERE = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HERE))

import common
import judge
from test_smoke import SCRIPTS

# Options for three steps an epoch. (An epoch of numbers_gan.py is one step.)
THREE_STEPS = {
    "linear_gan": "--batch-size 400",
    "curve_gan": "--batch-size 800",
    "numbers_gan": "--batch-size 10",
}
THREE_STEPS_OF_300_IMAGES = "--batch-size 128"


class Trained(Exception):
    """Ends main after the training: nothing is exported and judged."""


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """Each test starts in an empty folder, on one thread."""
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)


@pytest.fixture(params=SCRIPTS)
def script(request):
    """Each script, as a module."""
    return importlib.import_module(request.param)


@pytest.fixture
def source(script):
    """The text of a script."""
    return Path(script.__file__).read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def mnist():
    """All of MNIST: {is it for training?: (images, labels)}."""
    return {True: common.load_mnist(), False: common.load_mnist(train=False)}


def shrink(patch, mnist):
    """Leave 300 training images and 200 test images. The judge says fd 5, all 0s."""

    def load_mnist(train=True):
        images, labels = mnist[train]
        n = 300 if train else 200
        return images[:n], labels[:n]

    def assess(images, test_images=None):
        return 5.0, torch.zeros(len(images), dtype=torch.int64)

    patch.setattr(common, "load_mnist", load_mnist)
    patch.setattr(judge, "assess", assess)


@pytest.fixture
def small_mnist(monkeypatch, mnist):
    shrink(monkeypatch, mnist)


def options_of(script):
    return THREE_STEPS.get(script.__name__, THREE_STEPS_OF_300_IMAGES)


@pytest.fixture
def three_steps(script):
    """Options for three steps an epoch."""
    return options_of(script)


def do_nothing(*args):
    """Instead of add_graph, which takes a second."""


def save_dot(figure, path, **how):
    """Instead of a figure, which takes a third of a second to draw."""
    Image.new("RGB", (8, 8)).save(path, format="PNG")


@pytest.fixture
def train(small_mnist):
    """A function: it trains by main, but ends before the export. Returns the Run.

    Figures are drawn only if it is told so, and no graph for TensorBoard.
    """
    leave = common.Run.__exit__

    def call(script, options, device="cpu", figures=False):
        runs = []

        def leave_and_end(run, kind, error, traceback):
            runs.append(run)
            leave(run, kind, error, traceback)
            if error is None:
                raise Trained

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(common.Run, "__exit__", leave_and_end)
            patch.setattr(common.SummaryWriter, "add_graph", do_nothing)
            if not figures:
                patch.setattr(Figure, "savefig", save_dot)
            with contextlib.suppress(Trained):
                script.main(f"{options} --device {device}")
        return runs[0]

    return call


@pytest.fixture(scope="session")
def train_once(tmp_path_factory, mnist):
    """A function: it gives a script's one whole run of two epochs. Leave it as it is.

    The run is made when it is first asked for. Figures are of linear_gan.py only.
    """
    finished = {}

    def get(script):
        name = script.__name__
        if name not in finished:
            folder = tmp_path_factory.mktemp("whole") / name
            output = io.StringIO()
            options = f"{options_of(script)} --epochs 2 --device cpu"
            with pytest.MonkeyPatch.context() as patch:
                shrink(patch, mnist)
                if name != "linear_gan":
                    patch.setattr(Figure, "savefig", save_dot)
                with contextlib.redirect_stdout(output):
                    score = script.main(f"{options} --out {folder}")
            finished[name] = SimpleNamespace(
                folder=folder,
                score=score,
                output=output.getvalue(),
                checkpoint=torch.load(folder / "checkpoint.pt", weights_only=True),
            )
        return finished[name]

    return get


@pytest.fixture
def whole_run(script, train_once):
    """A script's one whole run of two epochs: folder, score, output, checkpoint."""
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
def arguments():
    """A function: it gives what parse returns, of a script named x."""

    def make(**given):
        args = Namespace(
            script="x",
            command="python x.py",
            epochs=1,
            batch_size=3,
            smallest_batch=1,
            seed=0,
            device="cpu",
            max_steps=None,
            out=None,
            resume=None,
            generate=None,
            checkpoint=None,
        )
        for name, value in given.items():
            setattr(args, name, value)
        return args

    return make


@pytest.fixture
def read_checkpoint():
    """A function: it reads the checkpoint of a run's folder."""

    def read(folder):
        return torch.load(Path(folder, "checkpoint.pt"), weights_only=True)

    return read


@pytest.fixture
def copy_run(tmp_path):
    """A function: it copies a run's folder to run/, where a test may change it."""

    def copy(folder):
        shutil.copytree(folder, tmp_path / "run")

    return copy
