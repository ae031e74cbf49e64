"""Runs every script for a few steps: trains, goes on, draws. The rest is in tests/."""

import json
import os
import runpy
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import common
import judge

HERE = Path(__file__).resolve().parent
SCRIPTS = [
    "linear_gan",
    "curve_gan",
    "numbers_gan",
    "mnist_gan",
    "mnist_bn_gan",
    "mnist_cgan",
    "aae_mnist",
]


@pytest.fixture(params=SCRIPTS, scope="module")
def script(request):
    return HERE / f"{request.param}.py"


@pytest.fixture(scope="module")
def programs(request, tmp_path_factory):
    """The scripts that pytest has selected, as programs: two at a time."""
    parent = tmp_path_factory.mktemp("runs")
    pool = ThreadPoolExecutor(max_workers=2)
    programs = {}
    for test in request.session.items:
        if "programs" in test.fixturenames:
            programs[test.callspec.params["script"]] = None
    for name in programs:
        programs[name] = pool.submit(train, name, parent / name)
    yield programs
    pool.shutdown(cancel_futures=True)


def train(name, folder):
    """Train for three steps, on all data, on one thread. Returns the folder."""
    command = [sys.executable, HERE / f"{name}.py", "--max-steps", "3", "--out", folder]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env=env)
    return folder


@pytest.fixture(scope="module")
def folder(script, programs):
    return programs[script.stem].result()


@pytest.fixture
def run_here(script, monkeypatch):
    """Run the script in this process, on 300 images. Nothing is judged."""
    images, labels = common.load_mnist(train=False)

    def load_mnist(train=True):
        return images[:300], labels[:300]

    def assess(images, test_images=None):
        return 5.0, torch.zeros(len(images), dtype=torch.int64)

    def run(*options):
        words = [str(option) for option in options]
        monkeypatch.setattr(sys, "argv", [str(script), *words])
        monkeypatch.setattr(common, "load_mnist", load_mnist)
        monkeypatch.setattr(judge, "assess", assess)
        runpy.run_path(str(script), run_name="__main__")

    return run


def test_it_trains(folder):
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["score"]
    for name in ("loss_D", "loss_G"):
        for mean in metrics["history"][name].values():
            assert 0 < mean < 20
    for name in ("checkpoint.pt", "losses.png", "training.gif", "training.png"):
        assert (folder / name).stat().st_size > 0
    assert list(folder.glob("samples/step_0000000*.png"))


def test_it_goes_on(folder, run_here, capsys):
    checkpoint = folder / "checkpoint.pt"
    run_here("--resume", checkpoint, "--max-steps", 3)
    assert "Going on after epoch" in capsys.readouterr().out
    assert torch.load(checkpoint)["step"] == 6


def test_it_draws(folder, run_here, tmp_path):
    run_here("--generate", folder / "checkpoint.pt", "--out", tmp_path / "more")
    picture = tmp_path / "more" / "generated-1.png"
    assert picture.stat().st_size > 0
