"""A GAN that draws handwritten digits, with batch norm in the generator.

Mirrors document 3, its first example. Both updates of a step share one noise. It takes
five minutes on two cores. Noise becomes strokes in the first epoch, then digits.

    python mnist_bn_gan.py                             # train
    python mnist_bn_gan.py --max-steps 300             # a quick try
    python mnist_bn_gan.py --resume runs/mnist_bn_gan/1/checkpoint.pt --epochs 50
    python mnist_bn_gan.py --generate runs/mnist_bn_gan/1/checkpoint.pt --n 100
    python mnist_bn_gan.py --document                  # the document's own recipe

Open training.gif, then losses.png. The document takes steady losses for success. They
are no sign of it. Look at fd, with which the run ends: how far 10,000 generated images
are from the test images (good: below 6). Then comes the share of each digit. What next?
--no-average shows G as the last step left it.
"""

# 文档 3：GAN, the first example

import argparse
import copy

import torch
from torch import nn, optim
from torchvision.utils import save_image

import common

# What --document brings back. fd: of a run with only this brought back (seed 0).
DOCUMENT = {
    "epochs": 100,  # five times as long; not measured
    "lr_G": 0.0002,  # too slow
    "beta1": 0.5,  # the other net has changed; old gradients mislead
    "average": False,  # fd 16: G circles around its goal; the average is closer
}  # none, the default: fd 5.3

ABOUT = {"fd": "distance from the test images; 10,000 training images have 2"}
ABOUT["shares"] = "of the digits 0 to 9; 0.1 each is fair"


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
    """Judge 10,000 generated images. See ABOUT."""
    fd, digits = common.judge(generator(torch.randn(10_000, noise_dim, device=device)))
    return {"fd": fd, "shares": (digits.bincount(minlength=10) / len(digits)).tolist()}


def parse(argv):
    parser = common.make_parser("mnist_bn_gan", __doc__, 20, 64, sizes=(2, 30_000))
    add = parser.add_argument
    add("--lr-G", type=common.rate, default=0.0004, help="G's learning rate")
    add("--lr-D", type=common.rate, default=0.0002, help="D's learning rate")
    add("--beta1", type=common.fraction, default=0.0, help="Adam's first beta")
    add("--noise-dim", type=common.positive, default=100, help="size of the noise")
    flag = argparse.BooleanOptionalAction
    add("--average", action=flag, default=True, help="draw with the average of G")
    add("--n", type=common.positive, default=64, help="images for --generate")
    return common.parse(parser, argv, DOCUMENT)


def generate(args):
    """--generate: draw args.n images by a saved generator."""
    generator = Generator(args.noise_dim, 28 * 28).eval()
    generator.load_state_dict(args.checkpoint["parts"]["average_G"])
    imgs = generator(torch.randn(args.n, args.noise_dim))
    path = common.new_folder(args) / "samples" / "generated.png"
    save_image(imgs, path, nrow=round(args.n**0.5), normalize=True)
    print(path)


# %% 训练过程
# 为什么先训练判别器: G learns from D's gradient; an untrained D teaches nothing.
# (Stability, the document's first reason, is doubtful: the updates alternate anyway.)
def main(argv=None):
    args = parse(argv)
    torch.manual_seed(args.seed)
    if args.generate:
        return generate(args)

    device, noise_dim = args.device, args.noise_dim  # device: undefined in the document
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
        for _ in run.epochs():
            for (real_imgs,) in run.minibatches(images):  # (64, 1, 28, 28), the last 32
                batch_size = len(real_imgs)
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

                # Train the generator by the D just updated. D should say 1 to fakes.
                # (The document's text has G minimise D's output: it has to maximise.)
                optimizer_G.zero_grad()
                new_fake_preds = discriminator(fake_imgs)
                g_loss = adversarial_loss(new_fake_preds, real_targets)
                g_loss.backward(inputs=list(generator.parameters()))  # none for D
                optimizer_G.step()

                step = run.step if args.average else 1  # 1 makes average_G a copy
                common.update_average(average_G, generator, step)
                run.log(loss_D=d_loss, loss_G=g_loss)
                if run.step % 100 == 0:
                    run.report()  # print the means (the document: this step's losses)
            with torch.no_grad():
                save_image(average_G(fixed_noise), run.sample, normalize=True)
            if run.epoch % 5 == 0:  # for losses.png; the document has no score
                run.log(fd=score(average_G, noise_dim, device)["fd"])

        # generator.pth holds the average of G.
        for name, net in (("generator", average_G), ("discriminator", discriminator)):
            state = {key: x.cpu() for key, x in net.state_dict().items()}
            common.write(run.folder / f"{name}.pth", torch.save, state)
        run.export(average_G, fixed_noise)
        lines = {"loss_D": (0.693, "ln 2: D says 0.5"), "loss_G": (0.693, "ln 2")}
        return run.finish(score(average_G, noise_dim, device), ABOUT, lines)


if __name__ == "__main__":
    main()
