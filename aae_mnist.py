"""An adversarial autoencoder: it reads a digit as ten numbers, and draws it from them.

Mirrors document 5, GAN, the program under 实现一个简单的GAN. The document's text has D
judge data. In its program, and here, D judges codes. The encoder learns to make codes
that D cannot tell from N(0, I). They fill the latent space, so that the decoder draws
new digits from random codes.

    python aae_mnist.py                                # train
    python aae_mnist.py --max-steps 300                # a quick try
    python aae_mnist.py --document                     # the document's own recipe
    python aae_mnist.py --resume runs/aae_mnist/1/checkpoint.pt --epochs 30
    python aae_mnist.py --generate runs/aae_mnist/1/generator.pt2 --n 100

It ends with three numbers. Lower is better. reconstruction_error is the mean error of a
pixel in [-1, 1], of test images. wasserstein_2 is how far their codes are from N(0, I),
by mean and covariance. frechet_pixels is how far samples are from test images; holes
between the codes raise it. As many training images have 0.40.
"""

import math

import common  # first, so that Ctrl-C works while PyTorch loads

# isort: split
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torchvision.transforms.functional import resize
from torchvision.utils import save_image

# What --document brings back, and what a run ends with if only that is brought back:
# reconstruction_error, wasserstein_2, and FD, the Frechet distance of samples in a
# digit classifier's features. Seed 0; by default 0.070, 0.17, FD 30.
DOCUMENT = {
    "epochs": 200,  # ten times as long; not measured
    "adversarial": 0.001,  # 0.064, 0.32, FD 74: too small to fill holes between codes
    "lr": 0.0002,  # 0.072, 0.21, FD 43: too slow
    "average": 0.0,  # 0.080, 0.57, FD 36: nets circle around their goal
}  # all of them, but after 20 epochs: 0.072, 0.51, FD 86


def load_images(img_size, device, train=True):
    """MNIST's images (n, 1, img_size, img_size), in [-1, 1], and their labels (n,)."""
    images, labels = common.load_mnist(train)
    images = resize(images.unsqueeze(1), [img_size, img_size])  # once, not every epoch
    return (images.to(device) / 255 - 0.5) / 0.5, labels.to(device)


def reparameterization(mu, logvar):
    """Draw codes from N(mu, exp(logvar)), all (batch, latent_dim); gradients pass."""
    std = torch.exp(logvar / 2)
    sampled_z = torch.randn_like(std)
    return sampled_z * std + mu


class Encoder(nn.Module):
    """Images (batch, 1, img_size, img_size) to codes (batch, latent_dim), random."""

    def __init__(self, latent_dim, img_size):
        super().__init__()
        self.model = nn.Sequential(
            nn.Linear(img_size**2, 512),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Linear(512, 512),
            nn.BatchNorm1d(512),
            nn.LeakyReLU(0.2, inplace=True),
        )
        self.mu = nn.Linear(512, latent_dim)
        self.logvar = nn.Linear(512, latent_dim)

    def forward(self, img):
        x = self.model(img.flatten(1))
        return reparameterization(self.mu(x), self.logvar(x))


class Decoder(nn.Module):
    """Codes (batch, latent_dim) to images (batch, 1, img_size, img_size) in [-1, 1]."""

    def __init__(self, latent_dim, img_size):
        super().__init__()
        self.img_shape = (1, img_size, img_size)
        self.model = nn.Sequential(
            nn.Linear(latent_dim, 512),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Linear(512, 512),
            nn.BatchNorm1d(512),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Linear(512, img_size**2),
            nn.Tanh(),
        )

    def forward(self, z):
        img_flat = self.model(z)
        return img_flat.unflatten(1, self.img_shape)


class Discriminator(nn.Module):
    """Codes (batch, latent_dim) to the probability that they are from N(0, I)."""

    def __init__(self, latent_dim):
        super().__init__()
        self.model = nn.Sequential(
            nn.Linear(latent_dim, 512),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Linear(512, 256),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Linear(256, 1),
            nn.Sigmoid(),
        )

    def forward(self, z):
        return self.model(z)  # (batch, 1)


adversarial_loss = nn.BCELoss()
pixelwise_loss = nn.L1Loss()


@torch.no_grad()
def sample_image(decoder, z, path, n_row=10):
    """Save a grid of what the decoder draws from codes z (n, latent_dim).

    The decoder is in eval mode. In training mode, as in the document, batch norm would
    mix these codes into its running mean and variance, which the saved decoder needs.
    """
    gen_imgs = decoder(z)
    save_image(gen_imgs, path, nrow=n_row, normalize=True, value_range=(-1, 1))


def train_batch(
    real_imgs, encoder, decoder, discriminator, optimizer_G, optimizer_D, adversarial
):
    """Update encoder and decoder on images (batch, 1, img_size, img_size), then D.

    Returns D's loss, and that of the others. If D says 0.5 to all, its loss is ln 2.
    """
    valid = torch.ones(len(real_imgs), 1, device=real_imgs.device)
    fake = torch.zeros(len(real_imgs), 1, device=real_imgs.device)

    # Train the generator: encoder and decoder
    optimizer_G.zero_grad()
    encoded_imgs = encoder(real_imgs)  # (batch, latent_dim)
    decoded_imgs = decoder(encoded_imgs)
    g_loss = adversarial * adversarial_loss(discriminator(encoded_imgs), valid)
    g_loss = g_loss + (1 - adversarial) * pixelwise_loss(decoded_imgs, real_imgs)
    g_loss.backward()  # D gets gradients, too; its zero_grad clears them
    optimizer_G.step()

    # Train the discriminator
    optimizer_D.zero_grad()
    z = torch.randn_like(encoded_imgs)  # what the codes should look like
    real_loss = adversarial_loss(discriminator(z), valid)
    fake_loss = adversarial_loss(discriminator(encoded_imgs.detach()), fake)
    d_loss = 0.5 * (real_loss + fake_loss)
    d_loss.backward()
    optimizer_D.step()
    return d_loss, g_loss


@torch.no_grad()
def save_pictures(encoder, decoder, imgs, labels, folder):
    """Save test images over their reconstructions, and walks from digit to digit."""
    pairs = torch.stack((imgs[:50], decoder(encoder(imgs[:50])))).unflatten(1, (5, 10))
    pairs = pairs.transpose(0, 1).flatten(0, 2)  # a row of images, a row of theirs, ...
    save_image(pairs, folder / "reconstructions.png", nrow=10, normalize=True)

    ends = [(labels == digit).nonzero()[0, 0] for digit in range(10)]
    codes = encoder(imgs[torch.stack(ends)])  # of a 0, a 1, ..., a 9
    steps = torch.linspace(0, 1, 10, device=imgs.device).view(1, 10, 1)
    walks = torch.lerp(codes[:-1, None], codes[1:, None], steps)  # (9, 10, latent_dim)
    sample_image(decoder, walks.flatten(0, 1), folder / "walk.png")


@torch.no_grad()
def reconstruction_error(encoder, decoder, imgs):
    """The mean error of a pixel, in [-1, 1], of images (n, 1, img_size, img_size)."""
    return pixelwise_loss(decoder(encoder(imgs)), imgs).item()


@torch.no_grad()
def score(encoder, decoder, imgs):
    """Judge both by images (n, 1, img_size, img_size). See the top of this file."""
    codes = encoder(imgs)  # (n, latent_dim)
    z = torch.randn_like(codes)
    normal = torch.zeros(z.shape[1]), torch.eye(z.shape[1])
    # Halved: to the scale of pixels in [0, 1].
    real, generated = [common.gaussian(x.flatten(1) / 2) for x in (imgs, decoder(z))]
    return {
        "reconstruction_error": reconstruction_error(encoder, decoder, imgs),
        "wasserstein_2": common.frechet_distance(common.gaussian(codes), normal) ** 0.5,
        "frechet_pixels": common.frechet_distance(real, generated),
    }


def parse(argv):
    parser = common.make_parser(__file__, __doc__, 20, batch_size=64, sizes=(2, 30_000))
    add = parser.add_argument
    add("--lr", type=common.rate, default=0.001, help="Adam's learning rate")
    add("--b1", type=common.fraction, default=0.5, help="Adam's first beta")
    add("--b2", type=common.fraction, default=0.999, help="Adam's second beta")
    add("--adversarial", type=common.fraction, default=0.05, help="that loss's weight")
    add("--average", type=common.fraction, default=0.99, help="decay of the averages")
    add("--latent-dim", type=common.positive, default=10, help="numbers in a code")
    add("--img-size", type=common.positive, default=32, help="height and width")
    add("--sample-interval", type=common.positive, default=400, help="of the samples")
    add("--n", type=common.positive, default=100, help="images for --generate")
    return common.parse(parser, argv, DOCUMENT)


def generate(args):
    """--generate: draw args.n images with a saved decoder."""
    decoder = Decoder(args.latent_dim, args.img_size).eval()
    decoder.load_state_dict(args.loaded["state"])
    path = common.new_folder(args) / "samples" / "generated.png"
    z = torch.randn(args.n, args.latent_dim)
    sample_image(decoder, z, path, n_row=math.ceil(args.n**0.5))
    print(path)


def main(argv=None):
    args = parse(argv)
    torch.manual_seed(args.seed)
    if args.generate:
        return generate(args)

    device, sizes = args.device, (args.latent_dim, args.img_size)
    encoder, decoder = Encoder(*sizes).to(device), Decoder(*sizes).to(device)
    discriminator = Discriminator(args.latent_dim).to(device)
    # In eval mode, batch norm uses its running mean and variance, not the batch's.
    average = {"avg_fn": common.moving_average(args.average), "use_buffers": True}
    average_E = AveragedModel(encoder, **average).eval()
    average_D = AveragedModel(decoder, **average).eval()
    if not args.document:
        common.use_bfloat16(encoder, decoder, discriminator)  # a third less time
    images, _ = load_images(args.img_size, device)  # (60000, 1, 32, 32)
    test_imgs, labels = load_images(args.img_size, device, train=False)
    adam = {"lr": args.lr, "betas": (args.b1, args.b2), "fused": True}
    both = [*encoder.parameters(), *decoder.parameters()]
    optimizer_G = torch.optim.Adam(both, **adam)
    optimizer_D = torch.optim.Adam(discriminator.parameters(), **adam)
    fixed_z = torch.randn(100, args.latent_dim).to(device)  # the same for all samples

    nets = {"encoder": encoder, "decoder": decoder, "D": discriminator}
    averages = {"average_E": average_E, "average_D": average_D}
    optimizers = {"optimizer_G": optimizer_G, "optimizer_D": optimizer_D}
    others = (encoder, decoder, discriminator, optimizer_G, optimizer_D)
    with common.Run(args, **nets, **averages, **optimizers) as run:
        for _ in run.epochs():
            for real_imgs in run.minibatches(images):  # (64, 1, 32, 32), the last 32
                d_loss, g_loss = train_batch(real_imgs, *others, args.adversarial)
                run.log(loss_D=d_loss, loss_G=g_loss)
                if run.step % 10 == 1 or not args.average:  # the decay is for 10 steps
                    average_E.update_parameters(encoder)
                    average_D.update_parameters(decoder)
                if run.step % args.sample_interval == 0:
                    sample_image(average_D, fixed_z, run.sample)
            error = reconstruction_error(average_E, average_D, test_imgs[:1000])
            run.measure(reconstruction_error=error)

        sample_image(average_D, fixed_z, run.sample)
        run.save_generator(average_D.module, fixed_z)
        save_pictures(average_E, average_D, test_imgs, labels, run.folder)
        return run.finish(score(average_E, average_D, test_imgs))


if __name__ == "__main__":
    main()
