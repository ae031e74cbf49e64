"""A GAN that draws handwritten digits, with batch norm in the generator.

Mirrors document 3, GAN, its first example: both updates share one noise.

    python mnist_bn_gan.py                             # train
    python mnist_bn_gan.py --max-steps 300             # a quick try
    python mnist_bn_gan.py --document                  # the document's own recipe
    python mnist_bn_gan.py --resume runs/mnist_bn_gan/1/checkpoint.pt --epochs 50
    python mnist_bn_gan.py --generate runs/mnist_bn_gan/1/generator.pt2 --n 100

It ends with frechet_pixels, the distance of 10,000 generated images from the test
images. Lower is better. As many training images have 0.46. And it ends with the share
of each digit, 0 to 9.
"""

import math

import common  # first, so that Ctrl-C works while PyTorch loads

# isort: split
import torch
from torch import nn, optim
from torch.optim.swa_utils import AveragedModel
from torchvision.utils import save_image

# What --document brings back, and what a run ends with if only that is brought back:
# FD, the Frechet distance in a digit classifier's features. Seed 0; by default FD 9.
DOCUMENT = {
    "epochs": 100,  # five times as long; not measured
    "lr_G": 0.0002,  # FD 14: too slow
    "beta1": 0.5,  # FD 17: the other net has changed; old gradients mislead
    "average": 0.0,  # FD 25: G circles around its goal; the average is closer
}  # all of them, but after 20 epochs: FD 26


def load_images(device, train=True):
    """MNIST's images (n, 1, 28, 28), in [-1, 1], and their labels (n,)."""
    images, labels = common.load_mnist(train)
    images = images.unsqueeze(1).to(device) / 255  # as ToTensor does: [0, 1]
    return (images - 0.5) / 0.5, labels.to(device)  # as Normalize does: [-1, 1]


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

    No batch norm here: in one batch, D could tell fakes by their common mean.
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


def train_batch(
    real_imgs,
    generator,
    discriminator,
    adversarial_loss,
    optimizer_G,
    optimizer_D,
    noise_dim,
):
    """Update D, then G, on real images (batch, 1, 28, 28) and as many fakes.

    Returns both losses. If D says 0.5 to all, both are ln 2 = 0.69.
    """
    batch_size = len(real_imgs)
    device = real_imgs.device  # the document uses a device that it does not define
    real_targets = torch.ones(batch_size, 1, device=device)
    fake_targets = torch.zeros(batch_size, 1, device=device)

    # Random noise and fake images: the same for both updates.
    noise = torch.randn(batch_size, noise_dim, device=device)
    fake_imgs = generator(noise)

    # Train the discriminator
    optimizer_D.zero_grad()
    real_preds = discriminator(real_imgs)  # (batch, 1)
    real_loss = adversarial_loss(real_preds, real_targets)
    fake_preds = discriminator(fake_imgs.detach())  # detach: G learns nothing here
    fake_loss = adversarial_loss(fake_preds, fake_targets)
    d_loss = (real_loss + fake_loss) / 2
    d_loss.backward()
    optimizer_D.step()

    # Train the generator, by the D that has just been updated.
    optimizer_G.zero_grad()
    new_fake_preds = discriminator(fake_imgs)
    # G wants these close to 1, as its targets say. (The document's text says that G
    # minimises D's output. It maximises it.)
    g_loss = adversarial_loss(new_fake_preds, real_targets)
    g_loss.backward(inputs=list(generator.parameters()))  # none for D: 7% faster
    optimizer_G.step()
    return d_loss, g_loss


@torch.no_grad()
def score(generator, noise_dim, device):
    """Compare 10,000 generated images with MNIST's 10,000 test images.

    Returns their Frechet distance, and the share of each digit among them: a generated
    image counts as what its nearest test image shows.
    """
    test_imgs, labels = load_images(device, train=False)
    imgs = generator(torch.randn(10_000, noise_dim, device=device))
    both = [(x.flatten(1) + 1) / 2 for x in (imgs, test_imgs)]  # to [0, 1]
    distance, nearest = common.compare_images(*both)
    shares = labels[nearest].bincount(minlength=10) / len(imgs)
    return {"frechet_pixels": distance, "digit_shares": shares.tolist()}


def parse(argv):
    parser = common.make_parser(__file__, __doc__, 20, batch_size=64, sizes=(2, 30_000))
    add = parser.add_argument
    add("--lr-G", type=common.rate, default=0.0004, help="G's learning rate")
    add("--lr-D", type=common.rate, default=0.0002, help="D's learning rate")
    add("--beta1", type=common.fraction, default=0.0, help="Adam's first beta")
    add("--noise-dim", type=common.positive, default=100, help="size of the noise")
    add("--average", type=common.fraction, default=0.99, help="decay of G's average")
    add("--n", type=common.positive, default=64, help="images for --generate")
    return common.parse(parser, argv, DOCUMENT)


def generate(args):
    """--generate: draw args.n images from a saved generator."""
    generator = Generator(args.noise_dim, 28 * 28).eval()
    generator.load_state_dict(args.loaded["state"])
    imgs = generator(torch.randn(args.n, args.noise_dim))
    path = common.new_folder(args) / "samples" / "generated.png"
    save_image(imgs, path, nrow=math.ceil(args.n**0.5), normalize=True)
    print(path)


def main(argv=None):
    args = parse(argv)
    torch.manual_seed(args.seed)
    if args.generate:
        return generate(args)

    device, noise_dim = args.device, args.noise_dim
    images, _ = load_images(device)  # (60000, 1, 28, 28)
    generator = Generator(noise_dim, 28 * 28).to(device)
    discriminator = Discriminator(28 * 28).to(device)
    decay = common.moving_average(args.average)
    # In eval mode, batch norm uses its running mean and variance, not the batch's.
    average_G = AveragedModel(generator, avg_fn=decay, use_buffers=True).eval()
    if not args.document:
        common.use_bfloat16(generator, discriminator)  # a third less time
    adversarial_loss = nn.BCELoss()
    adam = {"betas": (args.beta1, 0.999), "fused": True}
    optimizer_G = optim.Adam(generator.parameters(), lr=args.lr_G, **adam)
    optimizer_D = optim.Adam(discriminator.parameters(), lr=args.lr_D, **adam)
    fixed_noise = torch.randn(64, noise_dim).to(device)  # the same for all samples

    nets = {"G": generator, "D": discriminator, "average_G": average_G}
    parts = {**nets, "optimizer_G": optimizer_G, "optimizer_D": optimizer_D}
    others = (generator, discriminator, adversarial_loss, optimizer_G, optimizer_D)
    with common.Run(args, **parts) as run:
        for _ in run.epochs():
            for real_imgs in run.minibatches(images):  # (64, 1, 28, 28), the last 32
                d_loss, g_loss = train_batch(real_imgs, *others, noise_dim)
                run.log(loss_D=d_loss, loss_G=g_loss)
                if run.step % 10 == 1 or not args.average:  # the decay is for 10 steps
                    average_G.update_parameters(generator)
            with torch.no_grad():
                save_image(average_G(fixed_noise), run.sample, normalize=True)

        torch.save(average_G.module.state_dict(), run.folder / "generator.pth")
        torch.save(discriminator.state_dict(), run.folder / "discriminator.pth")
        run.save_generator(average_G.module, fixed_noise)
        return run.finish(score(average_G, noise_dim, device))


if __name__ == "__main__":
    main()
