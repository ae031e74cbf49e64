"""An adversarial autoencoder: it reads a digit into ten numbers, and draws digits from ten.

Mirrors document 5, GAN: the program under 实现一个简单的GAN. The encoder learns to fill
the latent space like N(0, I), because a discriminator tells its codes from random ones,
and the decoder to draw the image again, so that it can draw new ones from random codes.

    python aae_mnist.py                              # train: 200 epochs, as in the document
    python aae_mnist.py --epochs 20                  # minutes on two CPU cores
    python aae_mnist.py --max-steps 300              # a quick try
    python aae_mnist.py --resume runs/aae_mnist/1/checkpoint.pt --epochs 300
    python aae_mnist.py --generate runs/aae_mnist/1/generator.pt2 --n 100
    python aae_mnist.py --reconstruct runs/aae_mnist/1/checkpoint.pt --n 50

Writes samples from always the same codes every 400 batches, their film, test images over
their reconstructions, walks in latent space from one digit's code to the next's, the
losses, metrics, a checkpoint, and the decoder to runs/aae_mnist/<n>/, a new folder each
time. Its scores, on the 10,000 test images: the mean absolute error of a reconstructed
pixel in [-1, 1], and how far the codes are from N(0, I).

Departures from the document: none in what is learned; --document only computes in
float32, as below. On seed 0, where FD is the Frechet distance of 10,000 samples from
the test images in the features of a digit classifier, which is not part of this script:

    weight of the adversarial loss, epochs     error   W2 to N(0, I)    FD
    0.001, 200: the defaults                   0.062            0.39   186
    0.001, as in the document, 20              0.072            0.51   213
    0.01, 20                                   0.075            0.41   167   --adversarial 0.01
    0.05, 20                                   0.080            0.59   155   --adversarial 0.05

Samples stay behind reconstructions, whose FD is 70 in the first line and 111 in the
last; 63 comes from the resizing alone. A larger weight helps the samples and costs some
of the reconstruction. On seeds 1 to 3, 20 epochs end with errors of 0.072, 0.071 and
0.069; two runs of the document's program ended with 0.070, distances of 0.45 and 0.46,
and FDs of 219 and 210.

Also: updates multiply matrices in bfloat16, half as wide as float32, where the
processor is made for it, which takes a third less time (--no-bfloat16 ends with 0.072,
0.071 and 0.070 on seeds 0 to 2); samples are drawn in eval mode (in training mode, as
in the document, batch norm would use the mean and variance of these hundred codes, and
mix them into its running ones, which the saved decoder needs); images are resized once,
not each time that they are seen; the discriminator takes both kinds of codes in one
pass; an update computes no gradients for nets that it leaves alone; Adam is fused; a
line a hundred batches, or a bar, stands for one a batch, with means over the epoch so
far; batches and epochs count from 1. The document's --n_cpu and --channels are
accepted: there is no DataLoader, and MNIST has one channel.
"""

import argparse
import itertools
import math
import time

import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from torchvision.transforms.functional import resize
from torchvision.utils import save_image

import common

DOCUMENT = {"bfloat16": False}  # all other defaults are the document's


# --- Data -----------------------------------------------------------------------------


def load_images(img_size, device, train=True):
    """MNIST's images, (60000, 1, img_size, img_size), in [-1, 1], and their labels."""
    images, labels = common.load_mnist(train)
    images = resize(images.unsqueeze(1), [img_size, img_size])  # once, not every epoch
    return images.to(device) / 127.5 - 1, labels


# --- Encoder, decoder and discriminator -----------------------------------------------


def reparameterization(mu, logvar):
    """Draw from N(mu, exp(logvar)), all (batch, latent_dim), so that gradients pass."""
    std = torch.exp(logvar / 2)
    sampled_z = torch.randn_like(std)
    return sampled_z * std + mu


class Encoder(nn.Module):
    """Images (batch, 1, img_size, img_size) to codes (batch, latent_dim).

    A code is drawn anew each time, in eval mode, too.
    """

    def __init__(self, latent_dim=10, img_size=32):
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

    def __init__(self, latent_dim=10, img_size=32):
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
        return self.model(z).unflatten(1, self.img_shape)


class Discriminator(nn.Module):
    """Codes (batch, latent_dim) to the probability that they are from N(0, I)."""

    def __init__(self, latent_dim=10):
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


# --- One step of each -----------------------------------------------------------------


def train_generator(
    real_imgs, encoder, decoder, discriminator, optimizer_G, adversarial=0.001
):
    """Update encoder and decoder on images (batch, 1, img_size, img_size).

    adversarial is the weight of that loss; the reconstruction's is the rest. Returns the
    loss and the codes, (batch, latent_dim), as tensors.
    """
    encoded_imgs = encoder(real_imgs)
    decoded_imgs = decoder(encoded_imgs)
    validity = discriminator(encoded_imgs)  # (batch, 1)
    adversarial_loss = nn.functional.binary_cross_entropy(
        validity, torch.ones_like(validity)
    )
    pixelwise_loss = nn.functional.l1_loss(decoded_imgs, real_imgs)
    g_loss = adversarial * adversarial_loss + (1 - adversarial) * pixelwise_loss

    optimizer_G.zero_grad()
    # No gradients for the discriminator's weights.
    g_loss.backward(inputs=[*encoder.parameters(), *decoder.parameters()])
    optimizer_G.step()
    return g_loss.detach(), encoded_imgs.detach()


def train_discriminator(encoded_imgs, discriminator, optimizer_D):
    """Update the discriminator on codes (batch, latent_dim) and as many random ones."""
    z = torch.randn_like(encoded_imgs)  # what the codes should look like
    # One pass over both is the same as two (there is no batch norm), and faster.
    real, fake = discriminator(torch.cat((z, encoded_imgs))).chunk(2)
    real_loss = nn.functional.binary_cross_entropy(real, torch.ones_like(real))
    fake_loss = nn.functional.binary_cross_entropy(fake, torch.zeros_like(fake))
    d_loss = 0.5 * (real_loss + fake_loss)

    optimizer_D.zero_grad()
    d_loss.backward()
    optimizer_D.step()
    return d_loss.detach()


# --- Pictures -------------------------------------------------------------------------


@torch.no_grad()
def sample_image(decoder, z, path, n_row=10):
    """Save a grid of what the decoder draws from codes (n, latent_dim).

    In eval mode: in training mode batch norm would take the mean and variance of these
    codes, and keep them. The mode it was in comes back.
    """
    training = decoder.training
    gen_imgs = decoder.eval()(z)
    decoder.train(training)
    save_image(gen_imgs, path, nrow=n_row, normalize=True, value_range=(-1, 1))


@torch.no_grad()
def reconstruct_image(encoder, decoder, imgs, path, n_row=10):
    """Save a grid of images, each row of n_row above its reconstructions."""
    decoded = decoder.eval()(encoder.eval()(imgs))
    missing = -len(imgs) % n_row  # in the last row
    blanks = imgs.new_full((missing, *imgs.shape[1:]), -1)
    imgs, decoded = torch.cat((imgs, blanks)), torch.cat((decoded, blanks))
    rows = zip(imgs.split(n_row), decoded.split(n_row))
    pairs = torch.cat([part for row in rows for part in row])
    save_image(pairs, path, nrow=n_row, normalize=True, value_range=(-1, 1))


@torch.no_grad()
def walk_image(encoder, decoder, imgs, path, n_row=10):
    """Save a row for each image but the last: a straight walk from its code to the next's."""
    codes = encoder.eval()(imgs)
    weights = torch.linspace(0, 1, n_row, device=imgs.device).view(1, -1, 1)
    # (n - 1, n_row, latent_dim)
    walks = torch.lerp(codes[:-1, None], codes[1:, None], weights)
    sample_image(decoder.eval(), walks.flatten(0, 1), path, n_row)


# --- How good is it? ------------------------------------------------------------------


@torch.no_grad()
def score(encoder, decoder, img_size, device):
    """Judge both on MNIST's 10,000 test images, in eval mode.

    Returns the mean absolute error of a reconstructed pixel in [-1, 1], and how far the
    codes are from N(0, I): the norm of their mean, the smallest and largest standard
    deviation of a dimension, and the 2-Wasserstein distance between N(0, I) and the
    Gaussian with the codes' mean and covariance.
    """
    imgs, _ = load_images(img_size, device, train=False)
    codes = encoder.eval()(imgs)  # (10000, latent_dim)
    error = (decoder.eval()(codes) - imgs).abs().mean().item()
    codes = codes.cpu()
    mean, cov = codes.mean(0), torch.atleast_2d(torch.cov(codes.T))
    goal = torch.zeros_like(mean), torch.eye(len(mean))
    distance = common.gaussian_distance(mean, cov, *goal)
    return {
        "reconstruction_error": error,
        "mean_norm": mean.norm().item(),
        "least_deviation": codes.std(0).min().item(),
        "largest_deviation": codes.std(0).max().item(),
        "wasserstein_2": math.sqrt(max(distance, 0.0)),
    }


# --- Main -----------------------------------------------------------------------------


def parse(argv):
    parser = common.make_parser("aae_mnist", __doc__, epochs=200, batch_size=64)
    add = parser.add_argument
    positive = common.positive_int
    add("--lr", type=common.positive_float, default=0.0002, help="Adam's learning rate")
    add("--b1", type=common.fraction, default=0.5, help="Adam's first beta")
    add("--b2", type=common.fraction, default=0.999, help="Adam's second beta")
    weight = "weight of the adversarial loss"
    add("--adversarial", type=common.fraction, default=0.001, help=weight)
    add("--latent-dim", type=positive, default=10, help="numbers in a code")
    add("--img-size", type=positive, default=32, help="height and width of the images")
    add("--sample-interval", type=positive, default=400, help="batches between samples")
    read = "only encode and decode test images, with a checkpoint.pt"
    add("--reconstruct", metavar="CHECKPOINT", help=read)
    common.add_bfloat16(parser)
    add("--verbose", action="store_true", help="a line every 100 steps, no bar")
    add("--n", type=positive, default=100, help="images for --generate, --reconstruct")
    # The document's spellings. There is no DataLoader for n_cpu workers to feed.
    hidden = {"type": positive, "default": argparse.SUPPRESS, "help": argparse.SUPPRESS}
    add("--n_epochs", dest="epochs", **hidden)
    for name in ("batch_size", "latent_dim", "img_size", "sample_interval"):
        add(f"--{name}", **hidden)
    add("--n_cpu", **hidden | {"type": common.natural})
    add("--channels", choices=[1], **hidden)
    args, checkpoint = common.parse_arguments(parser, argv, DOCUMENT)
    if args.reconstruct and (args.resume or args.generate):
        parser.error("--reconstruct does only that: no --resume, no --generate")
    return args, checkpoint


def generate(args):
    """--generate: draw args.n images from a saved decoder into a new run folder."""
    decoder, (z,), _ = common.load_generator(args.generate, "aae_mnist")
    run = common.run_folder("aae_mnist", args)
    path = run / "samples" / "generated.png"
    with common.one_line_errors(run):
        images = decoder(torch.randn(args.n, z.shape[1]))
        columns = math.ceil(args.n**0.5)
        save_image(images, path, nrow=columns, normalize=True, value_range=(-1, 1))
    print(f"{args.n} images in {path}")


def reconstruct(args):
    """--reconstruct: args.n random test images over what becomes of them."""
    checkpoint = common.load_checkpoint(args.reconstruct, "aae_mnist")
    trained = checkpoint["arguments"]
    sizes = (trained["latent_dim"], trained["img_size"])
    encoder, decoder = Encoder(*sizes), Decoder(*sizes)
    common.restore(checkpoint, {"encoder": encoder, "decoder": decoder}, "cpu")
    run = common.run_folder("aae_mnist", args)
    path = run / "samples" / "reconstructions.png"
    with common.one_line_errors(run):
        torch.manual_seed(args.seed)
        imgs, _ = load_images(trained["img_size"], "cpu", train=False)
        some = imgs[torch.randperm(len(imgs))[: args.n]]
        reconstruct_image(encoder, decoder, some, path)
    print(f"{len(some)} images and their reconstructions in {path}")


def main(argv=None):
    args, checkpoint = parse(argv)
    torch.manual_seed(args.seed)
    if args.generate:
        return generate(args)
    if args.reconstruct:
        return reconstruct(args)

    device, sizes = args.device, (args.latent_dim, args.img_size)
    images, _ = load_images(args.img_size, device)  # (60000, 1, 32, 32)
    encoder, decoder = Encoder(*sizes).to(device), Decoder(*sizes).to(device)
    discriminator = Discriminator(args.latent_dim).to(device)
    adam = {"lr": args.lr, "betas": (args.b1, args.b2), "fused": True}
    both = itertools.chain(encoder.parameters(), decoder.parameters())
    optimizer_G = torch.optim.Adam(both, **adam)
    optimizer_D = torch.optim.Adam(discriminator.parameters(), **adam)

    # The same codes every time, so that the sample grids make a film.
    fixed_z = torch.randn(100, args.latent_dim).to(device)
    steps = common.count_steps(images, args.batch_size, least=2)  # in an epoch: 938
    history = {"loss_D": [], "loss_G": []}
    done, seconds = 0, 0.0  # epochs so far, and the time that they took
    parts = {"encoder": encoder, "decoder": decoder, "discriminator": discriminator}
    parts |= {"optimizer_G": optimizer_G, "optimizer_D": optimizer_D}
    if checkpoint:
        common.restore(checkpoint, parts, device)
        history, done = checkpoint["history"], checkpoint["epoch"]
        seconds = checkpoint["seconds"]

    last_step = done * steps + (args.max_steps or math.inf)
    epoch, i = done, steps
    run = common.run_folder("aae_mnist", args)
    writer = SummaryWriter(run, purge_step=done * steps + 1)
    start = time.perf_counter() - seconds

    with common.one_line_errors(run), writer:
        for epoch in range(done + 1, args.epochs + 1):
            total_d_loss, total_g_loss = 0, 0
            batches = common.minibatches(images, args.batch_size)
            bar = common.progress(batches, steps, epoch, args.verbose)
            for i, real_imgs in enumerate(bar, start=1):  # (64, 1, 32, 32)
                with common.mixed_precision(args):
                    g_loss, encoded_imgs = train_generator(
                        real_imgs,
                        encoder,
                        decoder,
                        discriminator,
                        optimizer_G,
                        args.adversarial,
                    )
                    d_loss = train_discriminator(
                        encoded_imgs, discriminator, optimizer_D
                    )
                total_g_loss += g_loss
                total_d_loss += d_loss
                step = (epoch - 1) * steps + i
                last = i == steps or step == last_step
                if i % 100 == 0 or last:
                    d_loss, g_loss = total_d_loss.item() / i, total_g_loss.item() / i
                    common.check_finite(loss_D=d_loss, loss_G=g_loss)
                    writer.add_scalar("Loss/D", d_loss, step)
                    writer.add_scalar("Loss/G", g_loss, step)
                    losses = f"[D loss: {d_loss:.4f}] [G loss: {g_loss:.4f}]"
                    bar.set_postfix_str(losses)
                    if bar.disable and (args.verbose or last):
                        where = f"[Epoch {epoch}/{args.epochs}] [Batch {i}/{steps}]"
                        print(f"{where} {losses}")
                end = step == last_step or (epoch == args.epochs and i == steps)
                if step % args.sample_interval == 0 or end:
                    path = run / "samples" / f"batch_{step:07d}.png"
                    sample_image(decoder, fixed_z, path)
                if step == last_step:
                    break

            history["loss_D"].append(d_loss)
            history["loss_G"].append(g_loss)
            seconds = time.perf_counter() - start
            if i == steps:
                numbers = {"epoch": epoch, "history": history, "seconds": seconds}
                common.save_checkpoint(run, "aae_mnist", args, parts, **numbers)
            if step == last_step:
                break

        common.save_generator(decoder, (fixed_z,), run, "aae_mnist", args)
        test_imgs, labels = load_images(args.img_size, device, train=False)
        reconstruct_image(encoder, decoder, test_imgs[:50], run / "reconstructions.png")
        ends = [(labels == digit).nonzero()[0, 0] for digit in range(10)]
        walk_image(encoder, decoder, test_imgs[torch.stack(ends)], run / "walk.png")
        result = score(encoder, decoder, args.img_size, device)
        print(f"Mean absolute error of a pixel: {result['reconstruction_error']:.3f}")
        spread = f"{result['least_deviation']:.2f} to {result['largest_deviation']:.2f}"
        print(
            f"Codes: norm of the mean {result['mean_norm']:.2f}, deviations {spread},"
        )
        print(f"2-Wasserstein distance from N(0, I) {result['wasserstein_2']:.2f}")
        examples = (epoch - 1) * len(images) + min(i * args.batch_size, len(images))
        return common.finish(run, args, history, result, seconds, examples)


if __name__ == "__main__":
    main()
