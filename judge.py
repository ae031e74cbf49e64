"""The judge behind fd, a classifier of digits: what FID is to photographs.

    python judge.py  # train it again, and replace data/judge.pt: a minute

It learns from the 60,000 training images, each minibatch shifted by up to two
pixels. It prints the share of the 10,000 test images that it reads right, and
fd of the first and of the last 10,000 training images. No generator sees it
in training.
"""

import argparse

import torch
from torch import nn
from torchvision import datasets

import common

PATH = common.DATA / "judge.pt"


def make_judge():
    """A classifier of images (n, 1, 28, 28) in [-1, 1]. net[:-1] makes its features."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def load():
    """The judge, and mean (64,), covariance (64, 64) of its features of test images.

    Raises SystemExit if data/judge.pt is missing or damaged.
    """
    try:
        state = common.load(PATH)
        mean = state.pop("mean")
        covariance = state.pop("covariance")
    except Exception as error:  # noqa: BLE001 (one of several, if it is damaged)
        kind = type(error).__name__
        raise SystemExit(f"error: {PATH}: {kind}. Make it: python judge.py") from None
    with torch.random.fork_rng(devices=[]):  # training goes on with its own
        net = make_judge()
    net.load_state_dict(state)
    return net, mean, covariance


@torch.no_grad()
def assess(images, test_images=None):
    """Images (n, 1, 28, 28) in [-1, 1] to fd, and to the digits (n,) that they show.

    fd is the Frechet distance (Heusel et al., 2017, but by the judge's features) from
    MNIST's test images or, if given, from test_images.
    """
    net, mean, covariance = load()
    if test_images is not None:
        mean, covariance = moments(net[:-1](test_images.cpu()))
    features = net[:-1](images.cpu())
    digits = net[-1](features).argmax(1)
    return frechet_distance(features, mean, covariance), digits


def moments(points):
    """Points (n, d) to their mean (d,) and covariance (d, d), in float64."""
    points = points.cpu().double()
    return points.mean(0), torch.atleast_2d(points.T.cov())


def frechet_distance(points, mean, covariance):
    """Squared 2-Wasserstein distance of points (n, d) from N(mean, covariance).

    The points count as a Gaussian: nothing but their mean and covariance matter.
    Raises SystemExit if they are not finite.
    """
    our_mean, our_covariance = moments(points)
    if not our_covariance.isfinite().all():
        raise SystemExit("error: G's output is not finite: try a lower learning rate")
    covariance = covariance.double()
    eigenvalues = torch.linalg.eigvals(our_covariance @ covariance).real
    roots = eigenvalues.clamp(min=0).sqrt()
    spread = (our_covariance + covariance).trace() - 2 * roots.sum()
    distance = (our_mean - mean).square().sum() + spread
    return max(distance.item(), 0.0)


def load_images(train):
    """MNIST's images (n, 1, 28, 28), in [-1, 1], and their labels (n,)."""
    dataset = datasets.MNIST(common.DATA, train=train, download=True)
    return dataset.data.unsqueeze(1) / 127.5 - 1, dataset.targets


def main(epochs=10, batch_size=128, lr=0.003):
    torch.manual_seed(0)
    images, labels = load_images(train=True)
    net = make_judge()
    optimizer = torch.optim.AdamW(net.parameters(), lr, fused=True)
    steps = epochs * -(-len(images) // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for epoch in range(1, epochs + 1):
        right = 0
        for rows in torch.randperm(len(images)).split(batch_size):
            shift = torch.randint(-2, 3, (2,)).tolist()
            logits = net(images[rows].roll(shift, (2, 3)))
            loss = nn.functional.cross_entropy(logits, labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            right += (logits.argmax(1) == labels[rows]).sum().item()
        print(f"epoch {epoch}: reads {right / len(images):.2%}", flush=True)

    test_images, test_labels = load_images(train=False)
    state = net.half().state_dict()  # a small file
    with torch.no_grad():  # by the rounded weights
        mean, covariance = moments(net.float()[:-1](test_images))
    state["mean"] = mean.float()
    state["covariance"] = covariance.float()
    torch.save(state, PATH)
    _, digits = assess(test_images)
    print(f"reads {(digits == test_labels).float().mean():.2%} of the test images")
    for part in (images[:10_000], images[-10_000:]):
        print(f"fd of 10,000 training images: {assess(part)[0]:.2f}")


if __name__ == "__main__":
    common.use_one_thread()
    what = argparse.RawDescriptionHelpFormatter
    argparse.ArgumentParser(description=__doc__, formatter_class=what).parse_args()
    main()
