"""What needs a GPU. Without one, nothing here runs."""

import pytest
import torch

has_gpu = torch.cuda.is_available()
pytestmark = pytest.mark.skipif(not has_gpu, reason="needs a GPU")

RESUME = "--resume run/checkpoint.pt"


def test_resumed_is_as_never_stopped(script, options, train, read_checkpoint):
    """As far as a GPU gives the same sums again. A CPU can go on and draw."""
    assert script.parse("").device == "cuda"
    gpu = "cuda"
    train(script, f"{options} --epochs 2 --out once", gpu)
    train(script, f"{options} --epochs 1 --out run", gpu)
    train(script, f"{RESUME} --epochs 2", gpu)
    once = read_checkpoint("once")
    twice = read_checkpoint("run")
    for device in ("cpu", gpu):
        assert once["random"][device].equal(twice["random"][device])
    parts = twice["parts"]
    torch.testing.assert_close(parts, once["parts"], rtol=0.01, atol=0.001)
    train(script, f"{RESUME} --epochs 3", "cpu")
    script.main("--generate run/checkpoint.pt")
