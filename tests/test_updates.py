"""Each update moves one net, in the document's order, by the document's loss."""

import math

import pytest
import torch

import aae_mnist
import common

# What D says to what it sees first, second and third in a step.
FIRST, SECOND, THIRD = 0.9, 0.8, 0.7

# The updates of a step.
ORDER = {
    "linear_gan": ["D", "G"],
    "curve_gan": ["D", "D", "G"],
    "numbers_gan": ["D", "D", "G"],
    "mnist_gan": ["D", "G"],
    "mnist_bn_gan": ["D", "G"],
    "mnist_cgan": ["D", "G"],
    "aae_mnist": ["encoder decoder", "discriminator"],
}
HALVE_LOSS_D = ["linear_gan", "mnist_bn_gan"]
SAME_NOISE = ["linear_gan", "mnist_bn_gan"]  # for both updates


class Notes:
    """What happens in a step."""

    def __init__(self):
        self.seen = []  # what D sees: tensors, with or without a graph
        self.labels = []  # what else D sees
        self.made = []  # what G makes
        self.moved = []  # names of the nets that an update has moved
        self.events = []  # zero_grad, backward, step


@pytest.fixture
def notes(script, monkeypatch):
    """Watch the nets and the optimizers of the next run. D says what we want."""
    notes = Notes()
    names = set(" ".join(ORDER[script.__name__]).split())

    def answer(D, inputs, output):
        notes.seen.append(inputs[0])
        notes.labels.append(inputs[1:])
        wanted = [FIRST, SECOND, THIRD][len(notes.seen) - 1]
        if script.__name__ == "linear_gan":  # its D gives logits
            wanted = math.log(wanted / (1 - wanted))
        return output - output.detach() + wanted  # it still has gradients

    def keep(G, inputs, output):
        notes.made.append(output)

    def watch(run):
        nets = {}
        for name in sorted(names, reverse=True):
            nets[name] = run.parts[name]
        old = read_weights(nets)

        def look(optimizer, args, kwargs):
            moved = []
            for name, weights in read_weights(nets).items():
                if not weights.equal(old[name]):
                    moved.append(name)
                old[name] = weights
            notes.moved.append(" ".join(moved))
            notes.events.append("step")

        for part in run.parts.values():
            if isinstance(part, torch.optim.Optimizer):
                part.register_step_post_hook(look)
        D = nets.get("D") or nets["discriminator"]
        G = nets.get("G") or nets["encoder"]
        D.register_forward_hook(answer)
        G.register_forward_hook(keep)
        return run

    note_calls(monkeypatch, notes, torch.Tensor, "backward")
    note_calls(monkeypatch, notes, torch.optim.Optimizer, "zero_grad")
    monkeypatch.setattr(common.Run, "__enter__", watch)
    return notes


def note_calls(monkeypatch, notes, owner, name):
    original = getattr(owner, name)

    def call(*args, **kwargs):
        notes.events.append(name)
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, call)


def read_weights(nets):
    weights = {}
    for name, net in nets.items():
        vector = torch.nn.utils.parameters_to_vector(net.parameters())
        weights[name] = vector.detach().clone()
    return weights


def first_losses(run):
    loss_D = run.history["loss_D"][1]
    loss_G = run.history["loss_G"][1]
    return [loss_D, loss_G]


def test_updates(script, train, notes):
    run = train(script, "--max-steps 1")
    order = ORDER[script.__name__]
    for name, part in run.parts.items():
        if name.startswith(("average_", "best_")):  # what is drawn, judged, saved
            assert not part.training
    assert notes.moved == order
    assert notes.events == ["zero_grad", "backward", "step"] * len(order)
    assert len(notes.seen) == 3
    if script is aae_mnist:
        check_codes(notes)
        return
    loss_D = -math.log(FIRST) - math.log(1 - SECOND)  # real, fake
    if script.__name__ in HALVE_LOSS_D:
        loss_D /= 2
    loss_G = -math.log(THIRD)
    assert first_losses(run) == pytest.approx([loss_D, loss_G], rel=1e-4)
    check_samples(script, notes)


def check_samples(script, notes):
    """D sees real samples, then fakes without a graph, then fakes with one."""
    real, fake, fake_for_G = notes.seen
    assert not real.requires_grad
    assert not fake.requires_grad
    assert fake_for_G.requires_grad
    fakes = [made.detach() for made in notes.made]
    assert not contains(fakes, real)
    assert contains(fakes, fake)
    assert contains(fakes, fake_for_G)
    has_same_noise = fake.equal(fake_for_G)
    assert has_same_noise == (script.__name__ in SAME_NOISE)


def contains(tensors, wanted):
    for tensor in tensors:
        if tensor.equal(wanted):
            return True
    return False


def check_codes(notes):
    """D sees codes with a graph, then N(0, I), then the codes without a graph."""
    codes, normal, codes_again = notes.seen
    assert codes.requires_grad
    assert not normal.requires_grad
    assert not codes_again.requires_grad
    assert codes.equal(codes_again)
    assert normal.std().item() == pytest.approx(1, abs=0.2)
    assert normal.mean().item() == pytest.approx(0, abs=0.2)


@pytest.mark.parametrize("script", ["aae_mnist"], indirect=True)
def test_losses_of_aae_mnist(script, train, notes, monkeypatch):
    """Encoder and decoder share one loss, of D's verdict and of the pixels."""

    def always_2(loss, images, others):
        difference = (images - others).sum()
        return difference - difference.detach() + 2

    monkeypatch.setattr(torch.nn.L1Loss, "forward", always_2)
    run = train(script, "--max-steps 1 --adversarial 0.25")
    loss_G = 0.25 * -math.log(FIRST) + 0.75 * 2
    real_loss = -math.log(SECOND)
    fake_loss = -math.log(1 - THIRD)
    loss_D = (real_loss + fake_loss) / 2
    assert first_losses(run) == pytest.approx([loss_D, loss_G], rel=1e-4)


@pytest.mark.parametrize("script", ["mnist_cgan"], indirect=True)
def test_labels_of_mnist_cgan(script, train, notes, mnist):
    """D sees each real image with its own label, and each fake with G's."""
    asked = []

    def keep_labels(G, inputs, output):
        asked.append(inputs[1])

    enter = common.Run.__enter__  # that of notes

    def watch(run):
        run.parts["G"].register_forward_hook(keep_labels)
        return enter(run)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(common.Run, "__enter__", watch)
        train(script, "--max-steps 1")
    images, labels = mnist[True]
    images = images[:300].unsqueeze(1) / 255 * 2 - 1
    (real_labels,) = notes.labels[0]
    for image, label in zip(notes.seen[0], real_labels):
        distances = (images - image).abs().flatten(1).sum(1)
        assert labels[distances.argmin()] == label
    assert notes.labels[1][0].equal(asked[0])
    assert notes.labels[2][0].equal(asked[1])
