"""Runs every script for a few steps: trains, goes on, draws. The rest is in tests/."""

import runpy
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
SCRIPTS = ["linear_gan", "curve_gan", "numbers_gan", "mnist_gan"]
SCRIPTS += ["mnist_bn_gan", "mnist_cgan", "aae_mnist"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_few_steps(script, tmp_path, monkeypatch):
    program = str(HERE / f"{script}.py")

    def run(*options):
        words = [str(option) for option in options]
        monkeypatch.setattr(sys, "argv", [program, *words])
        runpy.run_path(program, run_name="__main__")

    folder = tmp_path / "a run"
    checkpoint = folder / "checkpoint.pt"
    run("--max-steps", 3, "--out", folder)
    run("--resume", checkpoint, "--max-steps", 3)
    run("--generate", checkpoint)
    for name in ("training.png", "training.gif", "losses.png", "generated-1.png"):
        assert (folder / name).stat().st_size > 0
