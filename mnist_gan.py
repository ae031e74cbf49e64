"""A GAN that draws handwritten digits: noise in, MNIST out.

Mirrors document 2, 实验任务一：生成对抗网络（GAN）, sections 2 and 3, with its to-dos
done and its questions answered.

    python mnist_gan.py --epochs 30                    # train
    python mnist_gan.py --max-steps 300                # a quick try
    python mnist_gan.py --document                     # the document's own recipe
    python mnist_gan.py --resume runs/mnist_gan/1/checkpoint.pt --epochs 50
    python mnist_gan.py --generate runs/mnist_gan/1/generator.pt2 --n 100
    tensorboard --logdir runs                          # (the document looks in logs)

It ends with frechet_pixels, the distance of 10,000 generated images from the test
images. Lower is better. As many training images have 0.46. And it ends with the share
of each digit, 0 to 9.
"""

import contextlib
import math
import warnings

import common  # first, so that Ctrl-C works while PyTorch loads

# isort: split
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

# The document calls torchvision.utils.make_grid, but does not import torchvision.
from torchvision.utils import make_grid, save_image

# What --document brings back, and what a run ends with if only that is brought back:
# FD, the Frechet distance in a digit classifier's features. Seed 0; by default FD 17.
DOCUMENT = {
    "unit_range": True,  # FD 432: images in [0, 1] use only half of tanh's range
    "beta1": 0.9,  # FD 1632: the other net has changed; old gradients mislead
    "lr_G": 0.0002,  # FD 263: too slow. With lr_D, one departure
    "lr_D": 0.0002,
    "weight_decay": 0.0,  # FD 38: D learns its images by heart
    "average": 0.0,  # FD 33: G circles around its goal; the average is closer
}  # all of them: FD 1204, grey ghosts

SHAPE = nn.Unflatten(1, (1, 28, 28))  # in generator.pt2: (n, 784) to (n, 1, 28, 28)


def load_images(device, unit_range=False, train=True):
    """MNIST's images (n, 784), in [-1, 1] or [0, 1], and their labels (n,)."""
    images, labels = common.load_mnist(train)
    images = images.view(-1, 28 * 28).to(device) / 255  # as ToTensor does: [0, 1]
    return images if unit_range else images * 2 - 1, labels.to(device)


# --- Section 2: the nets --------------------------------------------------------------


class Generator(nn.Module):
    """Noise (batch, input_dim) to flat images (batch, output_dim) in [-1, 1]."""

    def __init__(self, input_dim, hidden_dim, output_dim):
        super().__init__()
        self.model = nn.Sequential(
            nn.Linear(input_dim, hidden_dim),  # to-do 1: three linear layers
            nn.ReLU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, output_dim),
            nn.Tanh(),
        )

    def forward(self, x):
        return self.model(x)  # to-do 2


class Discriminator(nn.Module):
    """Flat images (batch, input_dim) to the probability of being real (batch, 1).

    Question 2: ReLU is 0 for half of its inputs, so G's features are sparse and cheap.
    In D such a unit would pass no gradient on to G; a LeakyReLU always passes some.
    """

    def __init__(self, input_dim, hidden_dim):
        super().__init__()
        self.model = nn.Sequential(  # to-do 3: all of these layers
            nn.Linear(input_dim, hidden_dim),
            nn.LeakyReLU(0.1),
            nn.Linear(hidden_dim, hidden_dim),
            nn.LeakyReLU(0.1),
            nn.Linear(hidden_dim, 1),
            nn.Sigmoid(),
        )

    def forward(self, x):
        return self.model(x)  # to-do 4


# --- Section 2: one update of D, one of G ---------------------------------------------
# Question 1: what one net gains, the other loses. D's gradient shows G how to make its
# fakes look more real. Then D must find a new difference, and so on.
# Balance: D says 0.5 to all. Then loss_D is 2 ln 2 = 1.39, and loss_G is ln 2 = 0.69.


def train_discriminator(real_images, D, G, loss_func, optim_D, input_dim):
    """Update D on real images (batch, 784) and as many fakes. Returns the loss."""
    batch_size, device = len(real_images), real_images.device
    real_output = D(real_images)  # (batch, 1)
    real_loss = loss_func(real_output, torch.ones_like(real_output))  # to-do 7

    noise = torch.randn(batch_size, input_dim, device=device)
    fake_images = G(noise).detach()  # (batch, 784); detach: G learns nothing here
    fake_output = D(fake_images)  # (batch, 1)
    fake_loss = loss_func(fake_output, torch.zeros_like(fake_output))  # to-do 8

    loss_D = real_loss + fake_loss
    # As in the document's code. Its tip says to do this after backward(): then the new
    # gradients would be lost, and D would never learn.
    optim_D.zero_grad()
    loss_D.backward()
    optim_D.step()
    return loss_D


def train_generator(D, G, loss_func, optim_G, batch_size, input_dim, device):
    """Update G so that D takes its images for real. Returns the loss."""
    noise = torch.randn(batch_size, input_dim, device=device)
    fake_images = G(noise)  # (batch, 784)
    fake_output = D(fake_images)  # (batch, 1)
    # -log D(G(z)). The document's formula, log(1 - D(G(z))), has hardly any gradient
    # while D wins (Goodfellow et al., 2014, section 3).
    loss_G = loss_func(fake_output, torch.ones_like(fake_output))  # to-do 9

    optim_G.zero_grad()
    loss_G.backward(inputs=list(G.parameters()))  # no gradients for D: 10% faster
    optim_G.step()
    return loss_G


@torch.no_grad()
def score(G, input_dim, device, unit_range):
    """Compare 10,000 generated images with MNIST's 10,000 test images.

    Returns their Frechet distance, and the share of each digit among them: a generated
    image counts as what its nearest test image shows.
    """
    test_images, labels = load_images(device, unit_range=True, train=False)
    images = G(torch.randn(10_000, input_dim, device=device))  # (10000, 784)
    images = images if unit_range else (images + 1) / 2  # to [0, 1]
    distance, nearest = common.compare_images(images, test_images)
    shares = labels[nearest].bincount(minlength=10) / len(images)
    return {"frechet_pixels": distance, "digit_shares": shares.tolist()}


def parse(argv):
    parser = common.make_parser(__file__, __doc__, epochs=30, batch_size=128)
    add = parser.add_argument
    add("--lr-G", type=common.rate, default=0.0015, help="G's learning rate")
    add("--lr-D", type=common.rate, default=0.0008, help="D's learning rate")
    add("--beta1", type=common.fraction, default=0.0, help="Adam's first beta")
    add("--input-dim", type=common.positive, default=100, help="size of the noise")
    add("--hidden-dim", type=common.positive, default=256, help="hidden units")
    add("--weight-decay", type=common.fraction, default=0.5, help="of D's weights")
    add("--average", type=common.fraction, default=0.995, help="decay of G's average")
    add("--unit-range", action="store_true", help="images in [0, 1], not [-1, 1]")
    add("--n", type=common.positive, default=64, help="images for --generate")
    return common.parse(parser, argv, DOCUMENT)


def generate(args):
    """--generate: draw args.n images from a saved generator."""
    G = nn.Sequential(Generator(args.input_dim, args.hidden_dim, 28 * 28), SHAPE)
    G.load_state_dict(args.loaded["state"])
    images = G(torch.randn(args.n, args.input_dim))
    path = common.new_folder(args) / "samples" / "generated.png"
    save_image(images, path, nrow=math.ceil(args.n**0.5), normalize=True)
    print(path)


def main(argv=None):
    args = parse(argv)
    torch.manual_seed(args.seed)
    if args.generate:
        return generate(args)

    device, input_dim = args.device, args.input_dim
    images, _ = load_images(device, args.unit_range)  # (60000, 784)
    G = Generator(input_dim, args.hidden_dim, 28 * 28).to(device)  # to-do 5
    D = Discriminator(28 * 28, args.hidden_dim).to(device)
    average_G = AveragedModel(G, avg_fn=common.moving_average(args.average))
    if not args.document:
        common.use_bfloat16(G, D)  # a quarter less time, the same quality
    adam = {"betas": (args.beta1, 0.999), "fused": True}
    optim_G = torch.optim.Adam(G.parameters(), lr=args.lr_G, **adam)  # to-do 6
    # AdamW shrinks D's weights directly. With weight decay 0 it is the document's Adam.
    adam |= {"lr": args.lr_D, "weight_decay": args.weight_decay}
    optim_D = torch.optim.AdamW(D.parameters(), **adam)
    loss_func = nn.BCELoss()
    fixed_noise = torch.randn(64, input_dim).to(device)  # the same for all samples
    parts = {"G": G, "D": D, "average_G": average_G}
    with common.Run(args, **parts, optim_G=optim_G, optim_D=optim_D) as run:
        for _ in run.epochs():
            for real_images in run.minibatches(images):  # (128, 784)
                n = len(real_images)  # at last 96; the document draws 128 fakes then
                loss_D = train_discriminator(
                    real_images, D, G, loss_func, optim_D, input_dim
                )
                loss_G = train_generator(D, G, loss_func, optim_G, n, input_dim, device)
                run.log(loss_D=loss_D, loss_G=loss_G)
                if run.step % 10 == 1 or not args.average:  # the decay is for 10 steps
                    average_G.update_parameters(G)

            with torch.no_grad():
                fake_images = average_G(fixed_noise).view(-1, 1, 28, 28)
            img_grid = make_grid(fake_images, normalize=True)  # 8 rows of 8
            run.writer.add_image("Generated Images", img_grid, run.step)
            save_image(img_grid, run.sample)

        run.save_generator(nn.Sequential(average_G.module, SHAPE), fixed_noise)
        metrics = run.finish(score(average_G, input_dim, device, args.unit_range))
        warnings.simplefilter("ignore", FutureWarning)  # add_graph's tracing is old
        with contextlib.suppress(Exception):  # it must not spoil a run that has ended
            run.writer.add_graph(nn.Sequential(G, D).eval(), fixed_noise)  # question 3
        return metrics


if __name__ == "__main__":
    main()
