"""A GAN that draws handwritten digits, with batch norm in the generator.

Mirrors document 3, its first example. Both updates of a step share one noise.
It takes eight minutes. Noise becomes strokes in the first epoch, then digits.

    python mnist_bn_gan.py                  # train
    python mnist_bn_gan.py --max-steps 300  # a quick try
    python mnist_bn_gan.py --generate runs/mnist_bn_gan/1/checkpoint.pt --n 9
    python mnist_bn_gan.py --document       # the document's settings

Open training.gif, then losses.png. The document takes steady losses for
success. They are no sign of it (lesson 1). The run ends with fd, how far
10,000 generated images are from the test images (good: below 7), and rarest,
how often the rarest digit comes (1 is fair). What next? --no-average shows G
as the last step left it.
"""

# 文档 3：GAN, the first example

import argparse
import copy

import torch
from torch import nn, optim
from torchvision.utils import make_grid

import common
import judge
from common import rate, share, size  # types of options

# What --document brings back, with fd after five epochs if only this is brought back. By
# default it is 17 to 19 then, and 5 to 6 after twenty.
DOCUMENT = {
    "epochs": 100,  # five times as long; not measured
    "lr_G": 0.0002,  # fd 33: lesson 3
    "beta1": 0.5,  # fd 40: lesson 2
    "average": False,  # fd 45: lesson 6
}

ABOUT = {
    "fd": "distance from the test images; good: below 7; training images: 2",
    "rarest": "frequency of the rarest digit; 1 is fair; good: above 0.5",
}


def load_images(device):
    """MNIST's training images (60000, 1, 28, 28) in [-1, 1]."""
    images, _ = common.load_mnist()
    images = images.unsqueeze(1).to(device) / 255  # as ToTensor does: [0, 1]
    return (images - 0.5) / 0.5  # as Normalize does: [-1, 1]


# %% 定义生成器和判别器模型
class Generator(nn.Module):
    """Noise (batch, noise_dim) to images (batch, 1, 28, 28) in [-1, 1]."""

    def __init__(self, noise_dim, output_dim):
        super().__init__()
        self.model = nn.Sequential(
            nn.Linear(noise_dim, 256),
            nn.LeakyReLU(0.2, inplace=True),
            nn.BatchNorm1d(256),
            nn.Linear(256, 512),
            nn.LeakyReLU(0.2, inplace=True),
            nn.BatchNorm1d(512),
            nn.Linear(512, 1024),
            nn.LeakyReLU(0.2, inplace=True),
            nn.BatchNorm1d(1024),
            nn.Linear(1024, output_dim),
            nn.Tanh(),
        )

    def forward(self, noise):
        img = self.model(noise)
        return img.view(-1, 1, 28, 28)


class Discriminator(nn.Module):
    """Images (batch, 1, 28, 28) to the probability of being real (batch, 1).

    No batch norm here: with it, D's verdict on an image would depend on its batch.
    """

    def __init__(self, input_dim):
        super().__init__()
        self.model = nn.Sequential(
            nn.Linear(input_dim, 512),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Linear(512, 256),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Linear(256, 1),
            nn.Sigmoid(),
        )

    def forward(self, img):
        img_flat = img.flatten(1)  # (batch, 784)
        return self.model(img_flat)


# %% Score, options
@torch.no_grad()
def score(generator, noise_dim, device):
    """Judge 10,000 images, always of the same noise. See ABOUT."""
    same = torch.Generator().manual_seed(0)  # PyTorch's word for random numbers
    noise = torch.randn(10_000, noise_dim, generator=same).to(device)
    fd, digits = judge.assess(generator(noise))
    shares = digits.bincount(minlength=10) / 10_000
    return {"fd": fd, "rarest": 10 * shares.min().item()}


@torch.no_grad()
def draw(generator, noise, epoch, run):
    """Save a picture of what the generator makes of noise (64, noise_dim)."""
    grid = make_grid(generator(noise), normalize=True)  # 8 rows of 8
    common.save_grid(grid, run.frame, f"epoch {epoch}, step {run.step}")


def parse(argv):
    parser = common.make_parser("mnist_bn_gan", __doc__, epochs=20, batch_size=64)
    add = parser.add_argument
    flag = argparse.BooleanOptionalAction
    add("--lr-G", type=rate, default=0.0004, metavar="X", help="G's learning rate")
    add("--lr-D", type=rate, default=0.0002, metavar="X", help="D's learning rate")
    add("--beta1", type=share, default=0.0, metavar="X", help="Adam's momentum")
    add("--noise-dim", type=size, default=100, metavar="N", help="numbers of noise")
    add("--average", action=flag, default=True, help="draw with the average of G")
    add("--n", type=size, default=64, metavar="N", help="images to --generate")
    return common.parse(parser, argv, DOCUMENT)


@torch.no_grad()
def generate(args):
    """--generate: draw args.n images by a saved generator."""
    generator = Generator(args.noise_dim, 28 * 28).eval()
    generator.load_state_dict(args.checkpoint["parts"]["average_G"])
    imgs = generator(torch.randn(args.n, args.noise_dim))
    path = common.next_path(common.make_folder(args), "generated-{}.png")
    grid = make_grid(imgs, nrow=round(args.n**0.5), normalize=True)
    common.save_grid(grid, path, f"{args.n} images, seed {args.seed}")
    print(path)


# %% 训练过程: train_GAN is main. Its one learning rate became two: see DOCUMENT.
# 为什么先训练判别器: G learns from D's gradient; an untrained D teaches nothing. But
# the updates alternate, so the order matters for one step only: see lesson 8.
def main(argv=None):
    args = parse(argv)
    torch.manual_seed(args.seed)
    if args.generate:
        return generate(args)

    device = args.device  # (undefined in the document)
    judge.load()  # it scores the end: is it there?
    noise_dim = args.noise_dim
    images = load_images(device)  # (60000, 1, 28, 28)
    generator = Generator(noise_dim, 28 * 28).to(device)  # the document forgets .to
    discriminator = Discriminator(28 * 28).to(device)
    average_G = copy.deepcopy(generator).eval()  # batch norm by its running means
    adversarial_loss = nn.BCELoss()
    adam = {"betas": (args.beta1, 0.999), "fused": True}  # fused: the same Adam, faster
    optimizer_G = optim.Adam(generator.parameters(), lr=args.lr_G, **adam)
    optimizer_D = optim.Adam(discriminator.parameters(), lr=args.lr_D, **adam)
    fixed_noise = torch.randn(64, noise_dim).to(device)  # the same for all samples

    parts = {"G": generator, "D": discriminator, "average_G": average_G}
    parts |= {"optimizer_G": optimizer_G, "optimizer_D": optimizer_D}
    with common.Run(args, **parts) as run:
        run.levels = {
            "loss_D": {"balance: D undecided, ln 2 (half the sum)": 0.693},
            "loss_G": {"balance: D undecided, ln 2": 0.693},
            "fd": {"good": 7},
        }
        for epoch in range(run.epoch + 1, args.epochs + 1):
            for (real_imgs,) in common.minibatches(args, images):  # (64, 1, 28, 28)
                run.step += 1
                batch_size = len(real_imgs)  # the last: 32
                real_targets = torch.ones(batch_size, 1, device=device)
                fake_targets = torch.zeros(batch_size, 1, device=device)

                # Random noise and fake images, the same for both updates
                noise = torch.randn(batch_size, noise_dim, device=device)
                fake_imgs = generator(noise)

                # Train the discriminator
                optimizer_D.zero_grad()
                real_preds = discriminator(real_imgs)  # (batch, 1)
                real_loss = adversarial_loss(real_preds, real_targets)
                fake_preds = discriminator(fake_imgs.detach())  # G learns nothing here
                fake_loss = adversarial_loss(fake_preds, fake_targets)
                d_loss = (real_loss + fake_loss) / 2  # in balance ln 2, as g_loss
                d_loss.backward()
                optimizer_D.step()

                # Train the generator by the D just updated: it wants D to say 1.
                # (The document's text has G minimise D's output: it has to maximise.)
                optimizer_G.zero_grad()
                new_fake_preds = discriminator(fake_imgs)
                g_loss = adversarial_loss(new_fake_preds, real_targets)
                g_loss.backward()  # D gets gradients, too; its zero_grad clears them
                optimizer_G.step()

                run.log(loss_D=d_loss, loss_G=g_loss)
                if not args.average:
                    average_G.load_state_dict(generator.state_dict())
                elif run.step % 10 == 0:
                    common.update_average(average_G, generator, run.step)
                if run.step in common.EARLY:  # (the document has no pictures)
                    draw(average_G, fixed_noise, epoch, run)

            draw(average_G, fixed_noise, epoch, run)
            if epoch % 5 == 0:  # (the document has no score)
                run.log(fd=score(average_G, noise_dim, device)["fd"])
            run.end_epoch(epoch)  # it prints (document: every 100th step)

        # generator.pth holds the average of G.
        torch.save(average_G.state_dict(), run.folder / "generator.pth")
        torch.save(discriminator.state_dict(), run.folder / "discriminator.pth")
        quality = score(average_G, noise_dim, device)
    return run.finish(quality, ABOUT)


if __name__ == "__main__":
    common.use_one_thread()
    main()
