"""Train the judge, the classifier behind fd: about a minute on two cores.

    python data/train_judge.py                  # writes data/judge.pt

It learns from the 60,000 training images, each minibatch shifted by up to two pixels.
It prints the share of the 10,000 test images that it reads right, and fd of the first
and of the last 10,000 training images.
"""

import sys
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where common.py is
import common

EPOCHS, BATCH_SIZE, LR = 10, 128, 0.003


def main():
    torch.manual_seed(0)
    images, labels = common.load_mnist()
    images = images.unsqueeze(1) / 127.5 - 1  # (60000, 1, 28, 28), in [-1, 1]
    net = common.make_judge()
    optimizer = torch.optim.AdamW(net.parameters(), LR, fused=True)
    steps = EPOCHS * -(-len(images) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for epoch in range(1, EPOCHS + 1):
        right = 0
        for rows in torch.randperm(len(images)).split(BATCH_SIZE):
            shifted = images[rows].roll(torch.randint(-2, 3, (2,)).tolist(), (2, 3))
            logits = net(shifted)
            loss = nn.functional.cross_entropy(logits, labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            right += (logits.argmax(1) == labels[rows]).sum()
        print(f"epoch {epoch}: reads {right / len(images):.2%}", flush=True)

    test_images, test_labels = common.load_mnist(train=False)
    test_images = test_images.unsqueeze(1) / 127.5 - 1
    state = net.half().state_dict()
    with torch.no_grad():  # by the rounded weights
        features = net.float()[:-1](test_images).double()
    state |= {"mean": features.mean(0).float(), "covariance": features.T.cov().float()}
    common.write(common.DATA / "judge.pt", torch.save, state)
    right = (common.judge(test_images)[1] == test_labels).float().mean()
    print(f"reads {right:.2%} of the test images")
    for part in (images[:10_000], images[-10_000:]):
        print(f"fd of 10,000 training images: {common.judge(part)[0]:.2f}")


if __name__ == "__main__":
    main()
