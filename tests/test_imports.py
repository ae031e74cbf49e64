"""Importing changes nothing: what a program set stays as it was."""

import subprocess
import sys

from test_smoke import HERE

PROGRAM = """
import sys, warnings
import numpy, torch, PIL.Image, torch.utils.tensorboard, torchvision.utils

def look():
    python = [sys.stdout, sys.excepthook, sys.path.copy(), warnings.filters.copy()]
    numbers = torch.get_rng_state().tolist()
    return [python, numbers, torch.get_num_threads(), torch.get_default_dtype()]

before = look()
import linear_gan, curve_gan, numbers_gan, judge
import mnist_gan, mnist_bn_gan, mnist_cgan, aae_mnist
assert look() == before
assert "matplotlib.pyplot" not in sys.modules  # it may open windows
"""


def test_importing_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []
