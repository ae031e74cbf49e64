"""A GAN that learns to draw handwritten digits from MNIST.

Mirrors document 2, 实验任务一：生成对抗网络（GAN）: section 2, the two networks and their
training, with the to-dos filled in, and section 3, TensorBoard (its question 3, the graph
of both networks, included). With --nets batchnorm, the first example of document 3, GAN:
its networks, its step in train_both, its hyper-parameters.

    python mnist_gan.py --epochs 30                    # train: minutes on two CPU cores
    python mnist_gan.py --max-steps 300                # a quick try
    python mnist_gan.py --nets batchnorm --epochs 20   # document 3
    python mnist_gan.py --resume runs/mnist_gan/1/checkpoint.pt --epochs 50
    python mnist_gan.py --generate runs/mnist_gan/1/generator.pt2 --n 100
    tensorboard --logdir runs

Writes samples, their film, the losses, metrics, a checkpoint, and the generator to
runs/mnist_gan/<n>/, a new folder each time. It ends with how often each digit appears, and
with the Frechet distance in pixel space to the test images: lower is better.

Departures from document 2, which --document undoes. "Pixels" is the Frechet distance that
the script prints; FD is the same in the features of a digit classifier with 99.2%
accuracy, which is not part of this script: 10,000 training images score 2. Seed 0, 30
epochs:

    without                                             pixels     FD
    nothing: the defaults                                  1.4     15
    images scaled to [-1, 1], which G's tanh gives         4.2    114   --unit-range
    beta1 0.5 in Adam, as document 3 has it, not 0.9       147   1020   --beta1 0.9
    learning rate 0.001, not 0.0002                         15    267   --lr 0.0002
    weight decay 0.3 in D's Adam (AdamW), not 0            3.0     50   --weight-decay 0
    samples from a moving average of G's weights           3.7     24   --average 0
    all of them: grey ghosts                                28    555   --document

The defaults have an FD of 15 to 17 on seeds 0 to 4, with all ten digits, and without the
average of 24 to 26. Images in [0, 1] leave half of tanh's range to noise, which D tells
apart at once. D and G are each other's moving target, so that old gradients mislead, and a
low beta1 forgets them faster; at this learning rate, 0.9 lets D win for good. Weight decay
is there to keep D from learning its images by heart. The average, over some 1,000 steps,
is nearer to the centre around which the game moves G's weights.

Also, with little or no effect on what is learned: updates multiply matrices in
bfloat16, half as wide as float32, where the processor is made for it, which takes a
quarter less time (--no-bfloat16 ends at FDs of 15 to 19 on the same seeds); the last
minibatch gets as many fake images as it has real ones, 96, not 128; D takes both in one
pass; G's update computes no gradients for D's weights; both updates return tensors,
read every 100 steps, and the first takes fewer arguments; the data are one tensor on
the device, and Adam is fused; the samples are always of the same noise; epochs count
from 1; in a terminal a bar takes the place of the lines; TensorBoard looks in runs,
where the document says once runs and once logs. Gradients are zeroed before backward(),
as in the document's code; its tip on optimizers has them zeroed between backward() and
step(), which would undo the former.

Departures from document 3, which --document undoes: samples from the average. After 20
epochs, on seeds 0 to 2, they have an FD of 12, and of 20 to 22 without it (20 to 24 in
float32, as with --document). Also, bfloat16 as above, images stay flat, D takes both
kinds in one pass, samples are drawn in eval mode, and the printed losses are means over
the epoch so far, not the last minibatch's.
"""

import argparse
import math
import time
import warnings
from collections import OrderedDict

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.tensorboard import SummaryWriter
from torchvision.utils import make_grid, save_image

import common

# The defaults under --document, in the order of the departures above.
DOCUMENT = {
    "unit_range": True,
    "beta1": 0.9,
    "lr": 0.0002,
    "weight_decay": 0.0,
    "average": 0.0,
    "bfloat16": False,
}
# Document 3's defaults with --nets batchnorm, and those under --document.
BATCHNORM = {"epochs": 100, "batch_size": 64, "lr": 0.0002, "weight_decay": 0.0}
BATCHNORM_DOCUMENT = {"average": 0.0, "bfloat16": False}


# --- Data -----------------------------------------------------------------------------


def load_images(device, unit_range=False, train=True):
    """MNIST's images, (60000, 784), in [-1, 1] or [0, 1], and their labels, (60000,)."""
    images, labels = common.load_mnist(train)
    images = images.view(-1, 28 * 28).to(device) / 255  # [0, 1]
    return images if unit_range else images * 2 - 1, labels  # tanh gives [-1, 1]


# --- Generator and discriminator (section 2) ------------------------------------------


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

    def __init__(self, input_dim=28 * 28, hidden_dim=256):
        super().__init__()
        self.model = nn.Sequential(
            nn.Linear(input_dim, hidden_dim),
            nn.LeakyReLU(0.1),
            nn.Linear(hidden_dim, hidden_dim),
            nn.LeakyReLU(0.1),
            nn.Linear(hidden_dim, 1),
            nn.Sigmoid(),
        )

    def forward(self, x):
        return self.model(x)


# --- The same with batch norm (document 3, first example) -----------------------------


class BatchNormGenerator(nn.Module):
    """Noise (batch, noise_dim) to flat images (batch, output_dim) in [-1, 1]."""

    def __init__(self, noise_dim=100, output_dim=28 * 28):
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
        return self.model(noise)


class BatchNormDiscriminator(nn.Module):
    """For BatchNormGenerator. It has no batch norm: real and fake images must not mix.

    Flat images (batch, input_dim) to the probability that they are real, (batch, 1).
    """

    def __init__(self, input_dim=28 * 28):
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
        return self.model(img)


# --- One step of each (section 2) -----------------------------------------------------


def train_discriminator(real_images, D, G, loss_func, optim_D, input_dim):
    """Update D on a minibatch of real images, (batch, 784), and as many generated ones.

    input_dim is the size of the noise. Returns the loss as a tensor: to read its value
    every step would keep a GPU waiting.
    """
    noise = torch.randn(len(real_images), input_dim, device=real_images.device)
    fake_images = G(noise).detach()  # (batch, 784); G learns nothing here
    # One pass over both is the same as two (D has no batch norm), and 5% faster.
    real_output, fake_output = D(torch.cat([real_images, fake_images])).chunk(2)
    real_loss = loss_func(real_output, torch.ones_like(real_output))
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
    # -log D(G(z)), as in the document's code: the log(1 - D(G(z))) of its formula has
    # hardly any gradient while D wins (Goodfellow et al., 2014, section 3).
    loss_G = loss_func(fake_output, torch.ones_like(fake_output))

    optim_G.zero_grad()
    loss_G.backward(inputs=list(G.parameters()))  # no gradients for D's weights
    optim_G.step()
    return loss_G.detach()


def train_both(real_imgs, D, G, loss_func, optim_D, optim_G, noise_dim):
    """Document 3's step: G's update reuses the images that D has just seen.

    real_imgs: (batch, 784). Returns both losses as tensors; D's is half the sum.
    """
    noise = torch.randn(len(real_imgs), noise_dim, device=real_imgs.device)
    fake_imgs = G(noise)  # (batch, 784)

    real_preds, fake_preds = D(torch.cat([real_imgs, fake_imgs.detach()])).chunk(2)
    real_loss = loss_func(real_preds, torch.ones_like(real_preds))
    fake_loss = loss_func(fake_preds, torch.zeros_like(fake_preds))
    d_loss = (real_loss + fake_loss) / 2
    optim_D.zero_grad()
    d_loss.backward()
    optim_D.step()

    new_fake_preds = D(fake_imgs)  # by the D that has just been updated
    g_loss = loss_func(new_fake_preds, torch.ones_like(new_fake_preds))
    optim_G.zero_grad()
    g_loss.backward(inputs=list(G.parameters()))  # no gradients for D's weights
    optim_G.step()
    return d_loss.detach(), g_loss.detach()


# --- The average of G's weights -------------------------------------------------------


def moving_average(decay):
    """The rule for AveragedModel: a new average is mostly the one before.

    The first ones forget faster, so that the untrained weights, which draw nothing, soon
    count no more, in a short run, too.
    """

    def average(averaged, new, n):
        if not new.is_floating_point():  # batch norm's count of minibatches
            return new
        return torch.lerp(new, averaged, min(decay, (1 + n.item()) / (10 + n.item())))

    return average


# --- How good is it? ------------------------------------------------------------------


@torch.no_grad()
def score(G, input_dim, device, unit_range=False):
    """Compare 10,000 generated images with MNIST's 10,000 test images, without a network.

    Returns the Frechet distance between both sets as Gaussians in pixel space (10,000
    training images: 0.46; the document's recipe: 27.5; the defaults, on seeds 0 to 4: 1.4
    to 1.5), and how often each digit appears, where a generated image counts as what its
    nearest test image shows, with the entropy of these shares (at most log 10 = 2.303).
    """
    test_images, labels = load_images(device, unit_range=True, train=False)
    images = G(torch.randn(10_000, input_dim, device=device))  # (10000, 784)
    images = images if unit_range else (images + 1) / 2  # both in [0, 1]
    parts = [torch.cdist(part, test_images).argmin(1) for part in images.split(1000)]
    nearest = torch.cat(parts)  # (10000,): the index of each one's nearest test image
    shares = labels[nearest.cpu()].bincount(minlength=10).double() / len(images)
    return {
        "frechet_pixels": common.frechet_distance(images, test_images),
        "digit_shares": shares.tolist(),
        "digit_entropy": torch.special.entr(shares).sum().item(),
    }


# --- Main -----------------------------------------------------------------------------


def parse(argv):
    parser = common.make_parser("mnist_gan", __doc__, epochs=30, batch_size=128)
    add = parser.add_argument
    nets = "of document 2, or of 3: then 100 epochs, minibatches of 64, learning\n"
    nets += "rate 0.0002 and no weight decay, unless you say otherwise"
    add("--nets", choices=["mlp", "batchnorm"], default="mlp", help=nets)
    add("--lr", type=common.positive_float, default=0.001, help="Adam's learning rate")
    add("--beta1", type=common.fraction, default=0.5, help="Adam's first beta")
    add("--input-dim", type=common.positive_int, default=100, help="size of the noise")
    units = "hidden units of mlp"
    add("--hidden-dim", type=common.positive_int, default=256, help=units)
    add("--weight-decay", type=common.fraction, default=0.3, help="of D's weights")
    decay = "decay of G's moving average, every ten steps; 0: none"
    add("--average", type=common.fraction, default=0.99, help=decay)
    flag = argparse.BooleanOptionalAction
    add("--unit-range", action=flag, default=False, help="images in [0, 1]")
    common.add_bfloat16(parser)
    add("--verbose", action="store_true", help="a line every 100 steps, no bar")
    add("--n", type=common.positive_int, default=64, help="images for --generate")
    if parser.parse_known_args(argv)[0].nets == "mlp":
        return common.parse_arguments(parser, argv, DOCUMENT)
    parser.set_defaults(**BATCHNORM)
    return common.parse_arguments(parser, argv, BATCHNORM_DOCUMENT)


def generate(args):
    """--generate: draw args.n images from a saved generator into a new run folder."""
    G, (noise,), _ = common.load_generator(args.generate, "mnist_gan")
    run = common.run_folder("mnist_gan", args)
    path = run / "samples" / "generated.png"
    with common.one_line_errors(run):
        images = G(torch.randn(args.n, noise.shape[1]))  # (n, 1, 28, 28)
        save_image(images, path, nrow=math.ceil(args.n**0.5), normalize=True)
    print(f"{args.n} images in {path}")


def main(argv=None):
    args, checkpoint = parse(argv)
    torch.manual_seed(args.seed)
    if args.generate:
        return generate(args)

    device, input_dim = args.device, args.input_dim
    images, _ = load_images(device, args.unit_range)  # (60000, 784)
    if args.nets == "mlp":
        G = Generator(input_dim, args.hidden_dim).to(device)
        D = Discriminator(28 * 28, args.hidden_dim).to(device)
    else:
        G = BatchNormGenerator(input_dim).to(device)
        D = BatchNormDiscriminator().to(device)
    adam = {"lr": args.lr, "betas": (args.beta1, 0.999), "fused": True}
    optim_G = torch.optim.Adam(G.parameters(), **adam)
    # AdamW is Adam, but for a weight decay that does not pass through the moments.
    decay = args.weight_decay
    optim_D = torch.optim.AdamW(D.parameters(), weight_decay=decay, **adam)
    rule = moving_average(args.average)
    average_G = AveragedModel(G, avg_fn=rule, use_buffers=True).eval()
    loss_func = nn.BCELoss()

    # The same noise every epoch, so that the sample grids make a film.
    fixed_noise = torch.randn(64, input_dim).to(device)
    least = 1 if args.nets == "mlp" else 2  # in a minibatch: batch norm needs 2
    # In an epoch: 469, or 938 with document 3's nets.
    steps = common.count_steps(images, args.batch_size, least)
    history = {"loss_D": [], "loss_G": []}
    done, seconds = 0, 0.0  # epochs so far, and the time that they took
    parts = {"G": G, "D": D, "average_G": average_G}
    parts |= {"optim_G": optim_G, "optim_D": optim_D}
    if checkpoint:
        common.restore(checkpoint, parts, device)
        history, done = checkpoint["history"], checkpoint["epoch"]
        seconds = checkpoint["seconds"]

    last_step = done * steps + (args.max_steps or math.inf)
    epoch, i = done, steps
    run = common.run_folder("mnist_gan", args)
    writer = SummaryWriter(run, purge_step=done * steps + 1)
    start = time.perf_counter() - seconds

    with common.one_line_errors(run), writer:
        if not checkpoint:
            both = nn.Sequential(OrderedDict(generator=G, discriminator=D))
            # TensorBoard's own use of torch.jit.trace, which PyTorch complains about.
            warnings.filterwarnings("ignore", "`torch.jit.trace")
            writer.add_graph(both.eval(), fixed_noise)  # batch norm learns nothing here
            both.train()
        for epoch in range(done + 1, args.epochs + 1):
            total_loss_D, total_loss_G = 0, 0
            batches = common.minibatches(images, args.batch_size)
            bar = common.progress(batches, steps, epoch, args.verbose)
            for i, real_images in enumerate(bar, start=1):  # (128, 784), the last fewer
                with common.mixed_precision(args):
                    if args.nets == "mlp":
                        loss_D = train_discriminator(
                            real_images, D, G, loss_func, optim_D, input_dim
                        )
                        n = len(real_images)
                        loss_G = train_generator(
                            D, G, loss_func, optim_G, n, input_dim, device
                        )
                    else:
                        loss_D, loss_G = train_both(
                            real_images, D, G, loss_func, optim_D, optim_G, input_dim
                        )
                total_loss_D += loss_D
                total_loss_G += loss_G
                step = (epoch - 1) * steps + i
                last = i == steps or step == last_step
                if step % 10 == 0 or last:  # as good as every step, and cheaper
                    average_G.update_parameters(G)
                if i % 100 == 0 or last:
                    loss_D, loss_G = total_loss_D.item() / i, total_loss_G.item() / i
                    common.check_finite(loss_D=loss_D, loss_G=loss_G)
                    writer.add_scalar("Loss/D", loss_D, step)
                    writer.add_scalar("Loss/G", loss_G, step)
                    losses = f"Loss_D {loss_D:.4f} | Loss_G {loss_G:.4f}"
                    bar.set_postfix_str(losses)
                    if bar.disable and (args.verbose or last):
                        print(f"Epoch {epoch:02d} | Step {i:04d} / {steps} | {losses}")
                if step == last_step:
                    break

            history["loss_D"].append(loss_D)
            history["loss_G"].append(loss_G)
            with torch.no_grad():
                fake_images = average_G(fixed_noise).view(-1, 1, 28, 28)
            img_grid = make_grid(fake_images, normalize=True)  # 8 rows of 8
            writer.add_image("Generated Images", img_grid, step)
            name = f"epoch_{epoch:04d}"
            if i < steps:  # --max-steps: so many steps after the epoch before
                name = f"epoch_{epoch - 1:04d}_step_{i:04d}"
            save_image(img_grid, run / "samples" / f"{name}.png")
            seconds = time.perf_counter() - start
            if i == steps:
                numbers = {"epoch": epoch, "history": history, "seconds": seconds}
                common.save_checkpoint(run, "mnist_gan", args, parts, **numbers)
            if step == last_step:
                break

        # As document 3 saves them, too; torch.load and load_state_dict read them.
        common.save(average_G.module.state_dict(), run / "generator.pth")
        common.save(D.state_dict(), run / "discriminator.pth")
        shaped_G = nn.Sequential(average_G.module, nn.Unflatten(1, (1, 28, 28)))
        common.save_generator(shaped_G, (fixed_noise,), run, "mnist_gan", args)
        result = score(average_G, input_dim, device, args.unit_range)
        shares = " ".join(f"{100 * share:.1f}" for share in result["digit_shares"])
        distance = f"{result['frechet_pixels']:.2f} (10,000 training images: 0.46)"
        print(f"Frechet distance in pixel space to the test images: {distance}")
        print(f"Share of the digits 0 to 9, in percent: {shares}")
        examples = (epoch - 1) * len(images) + min(i * args.batch_size, len(images))
        return common.finish(run, args, history, result, seconds, examples)


if __name__ == "__main__":
    main()
