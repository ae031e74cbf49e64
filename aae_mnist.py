"""An adversarial autoencoder: it reads a digit as ten numbers, and draws it from them.

Mirrors document 5, the program under its last heading (Makhzani et al., 2015). The
encoder turns images into codes, the decoder codes into images. D judges codes, not
images: they learn to look like N(0, I). So random codes, decoded, are new digits.

    python aae_mnist.py                                # train: 5 minutes on two cores
    python aae_mnist.py --max-steps 300                # a quick try
    python aae_mnist.py --resume runs/aae_mnist/1/checkpoint.pt --epochs 30
    python aae_mnist.py --generate runs/aae_mnist/1/checkpoint.pt --n 100
    python aae_mnist.py --document                     # the document's own recipe

Open reconstructions.png, walk.png, then training.gif, digits from random codes. The
run ends with error, of a pixel in [-1, 1] (good: 0.07), code_distance, of the codes
from N(0, I) (good: 0.2), and fd, of the samples from the test images (good: 14; holes
between the codes raise it). Try --adversarial 0.001 next.
"""

# 文档 5：看不懂我吃屎系列——GAN (it shows an adversarial autoencoder, not a plain GAN)

import argparse
import copy

import torch
from torch import nn, optim
from torchvision.transforms.functional import resize
from torchvision.utils import make_grid, save_image

import common

# What --document brings back. fd: of a run with only this brought back (seed 0).
DOCUMENT = {
    "epochs": 200,  # ten times as long; not measured
    "adversarial": 0.001,  # too small to fill the holes between the codes
    "lr": 0.0002,  # too slow
    "average": False,  # fd 16: nets circle around their goal
}  # all of them, but after 20 epochs: fd 40; none, the default: 14
ABOUT = {"error": "of a pixel in [-1, 1], of reconstructed test images; 0.07 is good"}
ABOUT["code_distance"] = "of the test images' codes from N(0, I); 0.2 is good"
ABOUT["fd"] = "distance of samples from the test images; 10,000 training images have 2"


# %% 实现一个简单的GAN: the options. --n_epochs is --epochs, as in all scripts here.
# --channels is always 1. --n_cpu loaded images; here they are all in memory.
def parse(argv):
    parser = common.make_parser("aae_mnist", __doc__, 20, 64, sizes=(2, 30_000))
    add, flag = parser.add_argument, argparse.BooleanOptionalAction
    add("--lr", type=common.rate, default=0.001, help="Adam's learning rate")
    add("--b1", type=common.fraction, default=0.5, help="Adam's first beta")
    add("--b2", type=common.fraction, default=0.999, help="Adam's second beta")
    add("--latent-dim", type=common.positive, default=10, help="numbers in a code")
    add("--img-size", type=common.positive, default=32, help="height and width")
    add("--sample-interval", type=common.positive, default=400, help="steps")
    add("--adversarial", type=common.fraction, default=0.05, help="that loss's weight")
    add("--average", action=flag, default=True, help="draw with average weights")
    add("--n", type=common.positive, default=100, help="images for --generate")
    return common.parse(parser, argv, DOCUMENT)


def load_images(img_size, device, train=True):
    """MNIST's images (n, 1, img_size, img_size), in [-1, 1], and their labels (n,)."""
    images, labels = common.load_mnist(train)
    images = resize(images.unsqueeze(1), [img_size, img_size])  # once, not every epoch
    return (images.to(device) / 255 - 0.5) / 0.5, labels


# %% The nets
def reparameterization(mu, logvar):
    """Draw codes from N(mu, exp(logvar)), all (batch, latent_dim); gradients pass."""
    std = torch.exp(logvar / 2)  # only D keeps it from 0: the pixels want no noise
    sampled_z = torch.randn_like(std)  # (a Variable was a tensor that has gradients)
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
        img_flat = img.flatten(1)
        x = self.model(img_flat)
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


# %% Pictures and score
# The decoder is in eval mode. In training mode, as in the document, batch norm would
# mix the codes z into its running mean and variance, which the saved decoder needs.
@torch.no_grad()
def sample_image(decoder, z, path, n_row=10):
    """Save a grid of what the decoder draws from codes z (n, latent_dim)."""
    save_image(decoder(z), path, nrow=n_row, normalize=True, value_range=(-1, 1))


@torch.no_grad()
def save_pictures(encoder, decoder, imgs, labels, folder):
    """Save test images over their reconstructions, and walks from digit to digit."""
    pairs = torch.stack((imgs[:50], decoder(encoder(imgs[:50])))).unflatten(1, (5, 10))
    rows = pairs.transpose(0, 1).flatten(0, 2)  # a row of images, a row of theirs, ...
    names = ["test images", "reconstructed"] * 5
    save_rows(rows, names, folder / "reconstructions.png")
    ends = [(labels == digit).nonzero()[0, 0].item() for digit in range(10)]
    codes = encoder(imgs[ends])  # of a 0, a 1, ..., a 9
    steps = torch.linspace(0, 1, 10, device=imgs.device).view(1, 10, 1)
    walks = torch.lerp(codes[:-1, None], codes[1:, None], steps)  # (9, 10, latent_dim)
    names = [f"from {digit} to {digit + 1}" for digit in range(9)]
    save_rows(decoder(walks.flatten(0, 1)), names, folder / "walk.png")


def save_rows(imgs, names, path):
    """Save images (n, 1, img_size, img_size), ten a row, with a name to each row."""
    grid = make_grid(imgs, nrow=10, normalize=True, value_range=(-1, 1)).cpu()
    axes = common.Figure((8, 0.68 * len(names))).subplots()
    axes.imshow(grid.permute(1, 2, 0))
    ticks = [grid.shape[1] / len(names) * (i + 0.5) for i in range(len(names))]
    axes.set(xticks=[], yticks=ticks, yticklabels=names)
    axes.figure.savefig(path, bbox_inches="tight")


@torch.no_grad()
def score(encoder, decoder, imgs):
    """Judge both by test images (n, 1, img_size, img_size). See ABOUT."""
    codes = encoder(imgs)  # (n, latent_dim)
    z = torch.randn_like(codes)
    normal = torch.zeros(z.shape[1]), torch.eye(z.shape[1])
    # The judge wants 28 x 28. Both are shrunk alike.
    small = [resize(x, [28, 28], antialias=True) for x in (decoder(z), imgs)]
    return {
        "error": nn.functional.l1_loss(decoder(codes), imgs).item(),
        "code_distance": common.frechet_distance(codes, *normal) ** 0.5,
        "fd": common.judge(*small)[0],
    }


def generate(args):
    """--generate: draw args.n images with a saved decoder."""
    decoder = Decoder(args.latent_dim, args.img_size).eval()
    decoder.load_state_dict(args.checkpoint["parts"]["average_decoder"])
    path = common.new_folder(args) / "samples" / "generated.png"
    z = torch.randn(args.n, args.latent_dim)
    sample_image(decoder, z, path, n_row=round(args.n**0.5))
    print(path)


# %% Training
def main(argv=None):
    opt = parse(argv)
    torch.manual_seed(opt.seed)
    if opt.generate:
        return generate(opt)
    if not opt.resume:  # else it would show the whole checkpoint
        print(opt)
    adversarial_loss, pixelwise_loss = nn.BCELoss(), nn.L1Loss()
    device, sizes = opt.device, (opt.latent_dim, opt.img_size)
    encoder, decoder = Encoder(*sizes).to(device), Decoder(*sizes).to(device)
    discriminator = Discriminator(opt.latent_dim).to(device)
    # In eval mode, batch norm uses its running mean and variance, not the batch's.
    average_encoder = copy.deepcopy(encoder).eval()
    average_decoder = copy.deepcopy(decoder).eval()
    images, _ = load_images(opt.img_size, device)  # (60000, 1, 32, 32)
    test_imgs, labels = load_images(opt.img_size, device, train=False)
    adam = {"lr": opt.lr, "betas": (opt.b1, opt.b2), "fused": True}
    optimizer_G = optim.Adam([*encoder.parameters(), *decoder.parameters()], **adam)
    optimizer_D = optim.Adam(discriminator.parameters(), **adam)
    fixed_z = torch.randn(100, opt.latent_dim).to(device)  # the same for all samples

    parts = {"encoder": encoder, "decoder": decoder, "discriminator": discriminator}
    parts |= {"average_encoder": average_encoder, "average_decoder": average_decoder}
    parts |= {"optimizer_G": optimizer_G, "optimizer_D": optimizer_D}
    with common.Run(opt, **parts) as run:
        for _ in run.epochs():
            for (real_imgs,) in run.minibatches(images):  # (64, 1, 32, 32)
                # Adversarial ground truths. (Tensor(n, 1).fill_(1.0) is ones(n, 1).)
                valid = torch.ones(len(real_imgs), 1, device=device)
                fake = torch.zeros(len(real_imgs), 1, device=device)
                # Train the generator, that is, encoder and decoder. (So the document's
                # program. Its text has D first, and document 3 insists on it.)
                optimizer_G.zero_grad()
                encoded_imgs = encoder(real_imgs)  # (64, latent_dim)
                decoded_imgs = decoder(encoded_imgs)
                # The codes should fool D, and the pixels come back as they were.
                a_loss = adversarial_loss(discriminator(encoded_imgs), valid)
                p_loss = pixelwise_loss(decoded_imgs, real_imgs)
                g_loss = opt.adversarial * a_loss + (1 - opt.adversarial) * p_loss
                g_loss.backward()  # D gets gradients, too; its zero_grad clears them
                optimizer_G.step()

                # Train the discriminator
                optimizer_D.zero_grad()
                z = torch.randn_like(encoded_imgs)  # what codes should look like
                real_loss = adversarial_loss(discriminator(z), valid)
                fake_loss = adversarial_loss(discriminator(encoded_imgs.detach()), fake)
                d_loss = 0.5 * (real_loss + fake_loss)
                d_loss.backward()
                optimizer_D.step()

                run.log(loss_D=d_loss, loss_G=g_loss)
                step = run.step if opt.average else 1
                common.update_average(average_encoder, encoder, step)
                common.update_average(average_decoder, decoder, step)
                if run.step % opt.sample_interval == 0:
                    sample_image(average_decoder, fixed_z, run.sample)
                    run.report()  # the document prints a line for each minibatch
            if run.epoch % 5 == 0:
                quality = score(average_encoder, average_decoder, test_imgs)
                run.log(error=quality["error"], fd=quality["fd"])
        sample_image(average_decoder, fixed_z, run.sample)
        run.export(average_decoder, fixed_z)
        save_pictures(average_encoder, average_decoder, test_imgs, labels, run.folder)
        quality = score(average_encoder, average_decoder, test_imgs)
        return run.finish(quality, ABOUT, {"loss_D": (0.693, "ln 2: D says 0.5")})


if __name__ == "__main__":
    main()
