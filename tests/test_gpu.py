"""What needs a GPU. Without one, nothing here runs."""

import pytest
import torch


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_resumed_is_as_never_stopped(script, train):
    """As far as a GPU gives the same sums again. A CPU can go on and draw."""
    assert script.parse("").device == "cuda"
    train(script, "--batch-size 25 --epochs 2 --out once", "cuda")
    train(script, "--batch-size 25 --epochs 1 --out run", "cuda")
    train(script, "--resume run/checkpoint.pt --epochs 2", "cuda")
    once = torch.load("once/checkpoint.pt", "cpu")
    twice = torch.load("run/checkpoint.pt", "cpu")
    torch.testing.assert_close(twice["parts"], once["parts"], rtol=0.01, atol=0.001)
    train(script, "--resume run/checkpoint.pt --epochs 3", "cpu")
    script.main("--generate run/checkpoint.pt")
