"""A GAN that turns noise into handwritten digits.

DOCSTRING
"""

import math
import time
from collections import OrderedDict

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.tensorboard import SummaryWriter
from torchvision.utils import make_grid, save_image

import common

# The defaults under --document, in the order of the departures above.
DOCUMENT = {
    "unit_range": True,
    "beta1": 0.9,
    "real_label": 1.0,
    "lr": 0.0002,
    "dropout": 0.0,
    "average": 0.0,
}


# --- Data -----------------------------------------------------------------------------


def load_images(device, unit_range=False, train=True):
    """MNIST's images, (60000, 784), in [-1, 1] or [0, 1], and their labels, (60000,)."""
    images, labels = common.load_mnist(train)
    images = images.view(-1, 28 * 28).to(device) / 255  # [0, 1]
    return images if unit_range else images * 2 - 1, labels  # tanh gives [-1, 1]


# --- Generator and discriminator (section 2) --------------------------------------------


class Generator(nn.Module):
    """Noise (batch, input_dim) to flat images (batch, output_dim) in [-1, 1]."""

    def __init__(self, input_dim=100, hidden_dim=256, output_dim=28 * 28):
        super().__init__()
        self.model = nn.Sequential(
            nn.Linear(input_dim, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, output_dim),
            nn.Tanh(),
        )

    def forward(self, x):
        return self.model(x)


class Discriminator(nn.Module):
    """Flat images (batch, input_dim) to the probability that they are real (batch, 1)."""

    def __init__(self, input_dim=28 * 28, hidden_dim=256, dropout=0.0):
        super().__init__()
        self.model = nn.Sequential(
            nn.Linear(input_dim, hidden_dim),
            nn.LeakyReLU(0.1),
            nn.Dropout(dropout),
            nn.Linear(hidden_dim, hidden_dim),
            nn.LeakyReLU(0.1),
            nn.Dropout(dropout),
            nn.Linear(hidden_dim, 1),
            nn.Sigmoid(),
        )

    def forward(self, x):
        return self.model(x)


# --- One step of each (section 2) -----------------------------------------------------


def train_discriminator(
    real_images, D, G, loss_func, optim_D, input_dim, real_label=1.0
):
    """Update D on a minibatch of real images, (batch, 784), and as many fake ones.

    Returns the loss, a tensor without gradient: reading its value here would make a GPU
    wait at every step.
    """
    real_output = D(real_images)  # (batch, 1)
    real_loss = loss_func(real_output, torch.full_like(real_output, real_label))

    noise = torch.randn(len(real_images), input_dim, device=real_images.device)
    with torch.no_grad():  # as detach() would: G learns nothing here
        fake_images = G(noise)  # (batch, 784)
    fake_output = D(fake_images)
    fake_loss = loss_func(fake_output, torch.zeros_like(fake_output))

    loss_D = real_loss + fake_loss
    optim_D.zero_grad()
    loss_D.backward()
    optim_D.step()
    return loss_D.detach()


def train_generator(D, G, loss_func, optim_G, batch_size, input_dim, device):
    """Update G on fresh noise, so that D takes its images for real. Returns the loss."""
    noise = torch.randn(batch_size, input_dim, device=device)
    fake_output = D(G(noise))  # (batch, 1)
    loss_G = loss_func(fake_output, torch.ones_like(fake_output))

    optim_G.zero_grad()
    loss_G.backward(
        inputs=list(G.parameters())
    )  # D is not updated: no gradients for it
    optim_G.step()
    return loss_G.detach()


# --- How good is it? --------------------------------------------------------------------


@torch.no_grad()
def score(G, input_dim, device, unit_range=False):
    """Compare 10,000 generated images with MNIST's 10,000 test images, without a network.

    Returns the Frechet distance between the two sets as Gaussians in pixel space, and how
    often each digit appears: a generated image counts as what its nearest test image is.
    """
    test_images, labels = load_images(device, unit_range=True, train=False)
    images = G(torch.randn(10_000, input_dim, device=device))  # (10000, 784)
    images = images if unit_range else (images + 1) / 2  # both in [0, 1]
    nearest = torch.cat(
        [torch.cdist(x, test_images).argmin(1) for x in images.split(1000)]
    )
    shares = labels[nearest.cpu()].bincount(minlength=10) / len(images)
    return {
        "frechet_pixels": common.frechet_distance(images, test_images),
        "digit_shares": shares.tolist(),
        "digit_entropy": torch.special.entr(shares)
        .sum()
        .item(),  # at most log(10) = 2.303
    }


# --- Main -----------------------------------------------------------------------------


def parse(argv):
    parser = common.make_parser("mnist_gan", __doc__, epochs=30, batch_size=128)
    add = parser.add_argument
    add("--lr", type=common.positive_float, default=0.0006, help="Adam's learning rate")
    add("--beta1", type=common.fraction, default=0.5, help="Adam's first beta")
    add("--input-dim", type=common.positive_int, default=100, help="size of the noise")
    add("--hidden-dim", type=common.positive_int, default=256, help="hidden units")
    add("--real-label", type=common.fraction, default=0.9, help="label of real images")
    add("--dropout", type=common.fraction, default=0.3, help="between D's layers")
    add("--average", type=common.fraction, default=0.999, help="decay of G's average")
    add("--unit-range", action="store_true", help="images in [0, 1], not [-1, 1]")
    add("--verbose", action="store_true", help="a line every 100 steps, no bar")
    add("--n", type=common.positive_int, default=64, help="images for --generate")
    return common.parse_arguments(parser, argv, DOCUMENT)


def generate(args):
    """--generate: draw args.n images from a saved generator into a new run folder."""
    G = common.load_generator(args.generate, "mnist_gan")
    run = common.run_folder("mnist_gan", args)
    images = G(torch.randn(args.n, args.input_dim))  # (n, 1, 28, 28)
    path = run / "samples" / "generated.png"
    save_image(images, path, nrow=math.ceil(args.n**0.5), normalize=True)
    print(f"{args.n} images in {path}")


def main(argv=None):
    args, checkpoint = parse(argv)
    torch.manual_seed(args.seed)
    if args.generate:
        return generate(args)

    device = args.device
    images, _ = load_images(device, args.unit_range)  # (60000, 784)
    G = Generator(args.input_dim, args.hidden_dim).to(device)
    D = Discriminator(28 * 28, args.hidden_dim, args.dropout).to(device)
    average_G = AveragedModel(G, multi_avg_fn=get_ema_multi_avg_fn(args.average))
    adam = {"lr": args.lr, "betas": (args.beta1, 0.999), "fused": True}
    optim_G = torch.optim.Adam(G.parameters(), **adam)
    optim_D = torch.optim.Adam(D.parameters(), **adam)
    loss_func = nn.BCELoss()

    # The same noise every epoch, so that the sample grids make a film.
    fixed_noise = torch.randn(64, args.input_dim, device=device)
    steps = math.ceil(len(images) / args.batch_size)  # in an epoch
    history = {"loss_D": [], "loss_G": []}
    done, seconds = 0, 0.0  # epochs so far, and the time that they took
    parts = {"G": G, "D": D, "average_G": average_G}
    parts |= {"optim_G": optim_G, "optim_D": optim_D}
    if checkpoint:
        common.restore(checkpoint, parts, device)
        history, done = checkpoint["history"], checkpoint["epoch"]
        seconds = checkpoint["seconds"]

    run = common.run_folder("mnist_gan", args)
    writer = SummaryWriter(run, purge_step=done * steps + 1)
    if not checkpoint:
        both = nn.Sequential(OrderedDict(generator=G, discriminator=D))
        common.add_graph(writer, both, fixed_noise)
    last_step = done * steps + (args.max_steps or math.inf)
    epoch, i = done, steps
    start = time.perf_counter() - seconds

    with common.one_line_errors(run):
        for epoch in range(done + 1, args.epochs + 1):
            total_loss_D, total_loss_G = 0, 0
            batches = common.minibatches(images, args.batch_size)
            bar = common.progress(batches, steps, f"Epoch {epoch:02d}", args.verbose)
            for i, real_images in enumerate(bar, start=1):  # (128, 784), last (96, 784)
                total_loss_D += train_discriminator(
                    real_images,
                    D,
                    G,
                    loss_func,
                    optim_D,
                    args.input_dim,
                    args.real_label,
                )
                total_loss_G += train_generator(
                    D, G, loss_func, optim_G, len(real_images), args.input_dim, device
                )
                average_G.update_parameters(G)

                step = (epoch - 1) * steps + i
                last = i == steps or step == last_step
                if i % 100 == 0 or last:
                    loss_D, loss_G = total_loss_D.item() / i, total_loss_G.item() / i
                    common.check_finite(run, loss_D=loss_D, loss_G=loss_G)
                    writer.add_scalar("Loss/D", loss_D, step)
                    writer.add_scalar("Loss/G", loss_G, step)
                    losses = f"Loss_D {loss_D:.4f} | Loss_G {loss_G:.4f}"
                    bar.set_postfix_str(losses)
                    if bar.disable and (args.verbose or last):
                        print(f"Epoch {epoch:02d} | Step {i:04d} / {steps} | {losses}")
                if last:
                    break

            history["loss_D"].append(loss_D)
            history["loss_G"].append(loss_G)
            with torch.no_grad():
                fake_images = average_G(fixed_noise).view(-1, 1, 28, 28)
            img_grid = make_grid(fake_images, normalize=True)  # 8 rows of 8
            writer.add_image("Generated Images", img_grid, epoch)
            name = f"epoch_{epoch:03d}" + ("" if i == steps else f"_step_{i:04d}")
            save_image(img_grid, run / "samples" / f"{name}.png")
            seconds = time.perf_counter() - start
            if i == steps:
                numbers = {"epoch": epoch, "history": history, "seconds": seconds}
                common.save_checkpoint(run, "mnist_gan", args, parts, **numbers)
            if step == last_step:
                break
        writer.close()

        average_G = average_G.module
        shaped_G = nn.Sequential(average_G, nn.Unflatten(1, (1, 28, 28)))
        common.save_generator(shaped_G, (fixed_noise,), run, "mnist_gan")
        result = score(average_G, args.input_dim, device, args.unit_range)
        shares = " ".join(f"{100 * share:.1f}" for share in result["digit_shares"])
        print(f"Frechet distance in pixel space: {result['frechet_pixels']:.2f}")
        print(f"Share of the digits 0 to 9, in percent: {shares}")
        examples = (epoch - 1) * len(images) + min(i * args.batch_size, len(images))
        return common.finish(run, args, history, result, seconds, examples)


if __name__ == "__main__":
    main()
