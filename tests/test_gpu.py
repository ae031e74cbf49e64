"""What needs a GPU. Without one, nothing here runs."""

import pytest
import torch

import judge

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@needs_gpu
def test_three_steps_on_a_gpu(script, three_steps, small_mnist, read_checkpoint):
    """Trained there, gone on there and here, drawn here."""
    options = f"{three_steps} --max-steps 3 --out run"
    score = script.main(f"{options} --device cuda")
    assert score
    checkpoint = read_checkpoint("run")
    assert checkpoint["step"] == 3
    assert set(checkpoint["random"]) == {"cpu", "cuda"}
    resume = "--resume run/checkpoint.pt --max-steps 3"
    script.main(f"{resume} --device cuda")
    assert read_checkpoint("run")["step"] == 6
    script.main(f"{resume} --device cpu")
    assert read_checkpoint("run")["step"] == 9
    script.main("--generate run/checkpoint.pt --out more")


@needs_gpu
def test_nets_are_on_the_gpu(script, train):
    run = train(script, "--max-steps 1", device="cuda")
    for part in run.parts.values():
        if isinstance(part, torch.nn.Module):
            for weight in part.parameters():
                assert weight.is_cuda


@needs_gpu
def test_resumed_is_as_never_stopped_on_a_gpu(script, train, read_checkpoint):
    """As far as a GPU gives the same sums again."""
    train(script, "--epochs 2 --batch-size 128 --out once", device="cuda")
    train(script, "--epochs 1 --batch-size 128 --out run", device="cuda")
    resume = "--resume run/checkpoint.pt --epochs 2"
    train(script, resume, device="cuda")
    once = read_checkpoint("once")
    twice = read_checkpoint("run")
    assert once["random"]["cuda"].equal(twice["random"]["cuda"])
    assert once["random"]["cpu"].equal(twice["random"]["cpu"])
    torch.testing.assert_close(once["parts"], twice["parts"], rtol=1e-2, atol=1e-3)


@needs_gpu
def test_a_gpu_is_the_default(script):
    assert script.parse("").device == "cuda"


@needs_gpu
def test_the_judge_takes_images_of_a_gpu():
    images = torch.zeros((9, 1, 28, 28), device="cuda")
    fd, digits = judge.assess(images)
    assert fd > 0
    assert not digits.is_cuda
