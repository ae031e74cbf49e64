"""What is saved is used again: by --generate, and in other programs."""

from pathlib import Path

import pytest
import torch
from torch import nn

import curve_gan
import linear_gan
import mnist_bn_gan
import mnist_cgan
import numbers_gan


@pytest.fixture
def generate(monkeypatch):
    """A function: it draws into a new folder. Returns what the generator makes."""
    made = []
    call = nn.Module.__call__

    def note(net, *inputs):
        assert not net.training  # batch norm would mix the samples
        made.append(call(net, *inputs))
        return made[-1]

    monkeypatch.setattr(nn.Module, "__call__", note)

    def draw(script, path, *words):
        script.main(["--generate", path, "--out", f"more{len(made)}", *words])
        return made[-1]

    return draw


def test_generate_uses_the_seed_and_the_saved_net(script, whole_run, generate):
    first = generate(script, whole_run.path, "--n", 1)
    assert not generate(script, whole_run.path, "--n", 1, "--seed", 4).equal(first)
    checkpoint = torch.load(whole_run.path, weights_only=True)
    saved = {}
    for name, state in checkpoint["parts"].items():
        if name.startswith(("average_", "best_")):
            saved[name] = state
    checkpoint["parts"] = saved or {"G": checkpoint["parts"]["G"]}
    torch.save(checkpoint, "less.pt")  # no other part is needed
    assert generate(script, "less.pt", "--n", 1).equal(first)
    for state in checkpoint["parts"].values():
        for weights in state.values():
            weights.zero_()
    torch.save(checkpoint, "other.pt")
    assert not generate(script, "other.pt", "--n", 1).equal(first)


def test_generate_writes_a_new_file_beside_the_checkpoint(train, options, capsys):
    train(linear_gan, f"{options} --epochs 1 --out run")
    before = set(Path("run").rglob("*"))
    for n in (1, 2):
        linear_gan.main("--generate run/checkpoint.pt")
        path = Path(f"run/generated-{n}.png")
        assert capsys.readouterr().out.endswith(f"{path}\n")
        before.add(path)
        assert set(Path("run").rglob("*")) == before


def test_digits_of_mnist_cgan(train_once, generate):
    path = train_once(mnist_cgan).path
    assert len(generate(mnist_cgan, path, "--digits", "2026", "--n", 2)) == 8
    assert mnist_cgan.list_digits("2026") == [2, 0, 2, 6]


EXPORTED = [
    (curve_gan, curve_gan.Generator(curve_gan.axes_of("sine"), 2, 0.2), "best_G"),
    (numbers_gan, numbers_gan.Generator(), "average_G"),
]


@pytest.mark.parametrize(("script", "G", "name"), EXPORTED)
def test_exported_generators(script, G, name, train_once):
    """They take any number of rows, and give what the saved net gives."""
    whole = train_once(script)
    G.load_state_dict(whole.checkpoint["parts"][name])
    program = torch.export.load(whole.folder / "generator.pt2").module()
    for n in (1, 2, 9):
        noise = torch.randn(n, G[0].in_features)
        torch.testing.assert_close(program(noise), G(noise))


def test_files_of_mnist_bn_gan(train_once):
    """generator.pth and discriminator.pth, as in the document."""
    whole = train_once(mnist_bn_gan)
    for name, part in (("generator", "average_G"), ("discriminator", "D")):
        state = torch.load(whole.folder / f"{name}.pth", weights_only=True)
        wanted = whole.checkpoint["parts"][part]
        torch.testing.assert_close(state, wanted, rtol=0, atol=0)
