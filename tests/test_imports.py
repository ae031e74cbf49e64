"""Importing changes nothing: what a program set stays as it was."""

import subprocess
import sys

from test_smoke import HERE

PROGRAM = """
import sys, warnings
import numpy, torch, PIL.Image, torch.utils.tensorboard

def look():
    return [
        sys.stdout,
        sys.stderr,
        sys.excepthook,
        sys.path.copy(),
        warnings.filters.copy(),
        warnings.showwarning,
        torch.get_num_threads(),
        torch.initial_seed(),
        torch.get_rng_state().tolist(),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
    ]

before = look()
import linear_gan, curve_gan, numbers_gan
assert look() == before
assert "torchvision" not in sys.modules  # it takes seconds

import torchvision.transforms.functional
before = look()
import mnist_gan, mnist_bn_gan, mnist_cgan, aae_mnist, judge
assert look() == before
assert "matplotlib.pyplot" not in sys.modules  # it may open windows
"""


def test_importing_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []
