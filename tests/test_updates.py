"""Each update moves one net, in the document's order, by the document's loss."""

import importlib
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import common

# The updates of a step.
ORDER = {
    "linear_gan": ["D", "G"],
    "curve_gan": ["D", "D", "G"],
    "numbers_gan": ["D", "D", "G"],
    "mnist_gan": ["D", "G"],
    "mnist_bn_gan": ["D", "G"],
    "mnist_cgan": ["D", "G"],
    "aae_mnist": ["G decoder", "D"],  # its G is the encoder: it makes codes
}
HALVE_LOSS_D = ["linear_gan", "mnist_bn_gan", "aae_mnist"]
SAME_NOISE = ["linear_gan", "mnist_bn_gan", "aae_mnist"]  # for both updates


def watch(parts, notes):
    """Note the calls of the nets, and which of them an update moves.

    After each update, gradients are spoilt: the next one has to clear them.
    """
    nets = {}
    weights = {}

    def note_call(net, inputs, output):
        if net.training:  # not to be drawn or judged
            notes.calls[net].append((inputs, output))

    def note_update(optimizer, args, kwargs):
        moved = []
        for name, net in nets.items():
            new = nn.utils.parameters_to_vector(net.parameters()).detach()
            if not new.equal(weights[name]):
                moved.append(name)
            weights[name] = new
            for weight in net.parameters():
                weight.grad = torch.full_like(weight, 1000)
        notes.moved.append(" ".join(moved))

    for name, part in parts.items():
        if isinstance(part, torch.optim.Optimizer):
            part.register_step_post_hook(note_update)
        elif name.startswith(("average_", "best_")):
            assert not part.training
        elif isinstance(part, nn.Module):
            name = {"encoder": "G", "discriminator": "D"}.get(name, name)
            nets[name] = part
            weights[name] = nn.utils.parameters_to_vector(part.parameters()).detach()
            notes.calls[part] = []
            setattr(notes, name, notes.calls[part])  # [(inputs, output), ...]
            part.register_forward_hook(note_call)


@pytest.fixture(scope="module")
def watch_once(train, tmp_path_factory, options):
    """A function: it trains a script for two epochs. Returns notes, and the folder."""
    known = {}

    def get(name):
        if name not in known:
            notes = SimpleNamespace(calls={}, moved=[])

            class WatchedRun(common.Run):
                def __init__(self, args, **parts):
                    super().__init__(args, **parts)
                    watch(parts, notes)

            folder = tmp_path_factory.mktemp("watched") / name
            script = importlib.import_module(name)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(common, "Run", WatchedRun)
                train(script, f"{options} --epochs 2 --out {folder}")
            known[name] = (notes, folder)
        return known[name]

    return get


def test_old_gradients_are_cleared(script, watch_once, whole_run, read_checkpoint):
    _, folder = watch_once(script.__name__)
    parts = read_checkpoint(folder)["parts"]
    torch.testing.assert_close(parts, whole_run.checkpoint["parts"], rtol=0, atol=0)


@pytest.mark.parametrize("name", ORDER)
def test_each_update_moves_one_net(name, watch_once, read_checkpoint):
    notes, folder = watch_once(name)
    steps = read_checkpoint(folder)["step"]
    assert notes.moved == ORDER[name] * steps


def calls_of_D(name, notes, step):
    """D's calls in a step, (inputs, output): of real samples, of fakes, for G."""
    first, second, third = notes.D[3 * step : 3 * step + 3]
    if name == "aae_mnist":  # its G comes first
        return second, third, first
    return first, second, third


@pytest.mark.parametrize("name", ORDER)
def test_losses(name, watch_once, read_checkpoint):
    notes, folder = watch_once(name)
    checkpoint = read_checkpoint(folder)
    steps = checkpoint["step"] // 2
    loss_D = 0
    loss_G = 0
    for step in range(steps):
        outputs = [output for _, output in calls_of_D(name, notes, step)]
        if name == "linear_gan":  # its D gives logits
            outputs = [output.sigmoid() for output in outputs]
        real, fake, fake_for_G = outputs
        loss_D += -real.log().mean() - (1 - fake).log().mean()
        verdict = -fake_for_G.log().mean()
        if name == "aae_mnist":
            pixels = notes.decoder[step][1] - notes.G[step][0][0]
            verdict = 0.05 * verdict + 0.95 * pixels.abs().mean()
        loss_G += verdict
    if name in HALVE_LOSS_D:
        loss_D /= 2
    history = checkpoint["history"]
    assert history["loss_D"][1] == pytest.approx(loss_D.item() / steps, rel=1e-4)
    assert history["loss_G"][1] == pytest.approx(loss_G.item() / steps, rel=1e-4)


@pytest.mark.parametrize("name", ORDER)
def test_samples(name, watch_once):
    """D sees real samples, fakes without a graph, and, for G, fakes with one."""
    notes, _ = watch_once(name)
    real, fake, fake_for_G = [inputs[0] for inputs, _ in calls_of_D(name, notes, 0)]
    assert not real.requires_grad
    assert not fake.requires_grad
    assert fake_for_G.requires_grad
    assert not real.equal(fake)
    assert fake.equal(notes.G[0][1])
    assert fake.equal(fake_for_G) == (name in SAME_NOISE)
    assert not notes.G[0][0][0].equal(notes.G[2][0][0])  # new noise in a later step
    if name == "aae_mnist":  # to D, N(0, I) is real
        assert real.std().item() == pytest.approx(1, abs=0.2)


def test_labels_of_mnist_cgan(watch_once, mnist):
    """D gets an image's own label; of a fake, the one that G was asked for."""
    notes, _ = watch_once("mnist_cgan")
    images, labels = mnist[True]
    images = images[:300].unsqueeze(1) / 255 * 2 - 1
    (seen, real_labels), _ = notes.D[0]
    for image, label in zip(seen, real_labels):
        distances = (images - image).abs().flatten(1).sum(1)
        assert distances.min() < 1e-3
        assert labels[distances.argmin()] == label
    for i in (0, 1):
        assert notes.G[i][0][1].equal(notes.D[1 + i][0][1])
