"""A conditional GAN: it draws the handwritten digit that a label asks for.

A generator G turns noise, random numbers, and a label into an image. A
discriminator D is given image and label, and says whether the image is real
and fits the label. It takes nine minutes. (The script follows document 3 of
README.md, its second example.)

    python mnist_cgan.py             # train
    python mnist_cgan.py --epochs 1  # a quick try
    python mnist_cgan.py --resume runs/mnist_cgan/1/checkpoint.pt --epochs 30
    python mnist_cgan.py --generate runs/mnist_cgan/1/checkpoint.pt --digits 7
    python mnist_cgan.py --document  # with the document's settings

Open training.gif, where each column has to become its digit, then losses.png.
The run ends with right, the share of 10,000 images that show the digit asked
for (good: above 0.98), worst, the same of the worst digit, and fd, how far
the images are from real ones (good: below 7). What next? Compare it with
mnist_bn_gan.py: lesson 9 of LESSONS.md.
"""

# 文档 3：GAN (the second example)

import argparse
import copy

import torch
from matplotlib.figure import Figure
from torch import nn, optim
from torchvision import datasets
from torchvision.utils import make_grid

import common
import judge
from common import fraction, positive_float, positive_int, yes_no  # options


# %% 加载数据: the data (in the document behind the nets)
def load_images(device):
    """MNIST's training images (60000, 1, 28, 28), in [-1, 1], and labels (60000,)."""
    train_dataset = datasets.MNIST(common.DATA, train=True, download=True)  # from data/
    images = train_dataset.data.unsqueeze(1).to(device) / 255  # ToTensor's: [0, 1]
    labels = train_dataset.targets.to(device)
    return (images - 0.5) / 0.5, labels  # Normalize's: [-1, 1]


# %% 定义生成器模型, 定义判别器模型: the nets
class Generator(nn.Module):
    """Noise (batch, noise_dim) and labels (batch,) to images in [-1, 1]."""

    def __init__(self, noise_dim, label_dim, img_channels, img_width, img_height):
        super().__init__()
        # 10 learned numbers for each label
        self.label_emb = nn.Embedding(label_dim, label_dim)
        # PyTorch's order: height, width. (The document's: width, height.)
        self.img_shape = (img_channels, img_height, img_width)
        self.model = nn.Sequential(
            nn.Linear(noise_dim + label_dim, 256),
            nn.LeakyReLU(0.2, inplace=True),
            nn.BatchNorm1d(256),
            nn.Linear(256, 512),
            nn.LeakyReLU(0.2, inplace=True),
            nn.BatchNorm1d(512),
            nn.Linear(512, 1024),
            nn.LeakyReLU(0.2, inplace=True),
            nn.BatchNorm1d(1024),
            nn.Linear(1024, img_channels * img_width * img_height),
            nn.Tanh(),
        )

    def forward(self, noise, labels):
        label_embedding = self.label_emb(labels)  # (batch, label_dim)
        gen_input = torch.cat((noise, label_embedding), -1)
        img = self.model(gen_input)
        return img.unflatten(1, self.img_shape)


class Discriminator(nn.Module):
    """Images, labels (batch,) to the probability (batch, 1) that the pair is real."""

    def __init__(self, img_channels, img_width, img_height, label_dim):
        super().__init__()
        self.label_emb = nn.Embedding(label_dim, label_dim)
        self.model = nn.Sequential(
            nn.Linear(img_channels * img_width * img_height + label_dim, 512),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Linear(512, 256),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Linear(256, 1),
            nn.Sigmoid(),
        )

    def forward(self, img, labels):
        label_embedding = self.label_emb(labels)  # (batch, label_dim)
        d_in = torch.cat((img.flatten(1), label_embedding), -1)
        return self.model(d_in)


# %% How good is it?
ABOUT = {
    "right": "share that shows the digit asked for; good: above 0.98",
    "worst": "the same, of the worst digit; good: above 0.95",
    "fd": "distance from the test images; good: below 7; training images: 2",
}


@torch.no_grad()
def score(generator, noise_dim, device):
    """Judge 1,000 images of each digit, always of the same noise. See ABOUT.

    It compares with MNIST. For other data: judge.assess(images, your_test_images).
    """
    source = torch.Generator().manual_seed(0)  # of random numbers
    noise = torch.randn(10_000, noise_dim, generator=source).to(device)
    labels = torch.arange(10, device=device).repeat(100)  # of 1,000 images
    images = torch.cat([generator(part, labels) for part in noise.split(1000)])
    fd, seen = judge.assess(images)
    is_right = seen.view(1000, 10) == torch.arange(10)  # a column for each digit
    right = is_right.double().mean(0)
    return {"right": right.mean().item(), "worst": right.min().item(), "fd": fd}


@torch.no_grad()
def save_columns(images, digits, path, title):
    """Save images (n, 1, 28, 28), a column for each of digits. title may be empty."""
    columns = len(digits)
    rows = len(images) // columns
    grid = make_grid(images, nrow=columns, normalize=True).cpu()
    size = min(0.5, 40 / rows, 40 / columns)  # inches per image, 40 at most in all
    top = 0.6 if title else 0.3
    fig = Figure((columns * size, rows * size + top), dpi=100, layout="constrained")
    axes = fig.subplots()
    axes.imshow(grid.permute(1, 2, 0).numpy())
    axes.xaxis.tick_top()
    middles = torch.arange(columns) * 30 + 16  # 28 pixels, and 2 between
    axes.set_xticks(middles, digits)
    axes.set_yticks([])
    fig.suptitle(title, fontsize="medium")
    fig.savefig(path)


@torch.no_grad()
def draw(generator, noise, labels, epoch, run):
    """Save a picture of what the generator makes of noise (100, noise_dim)."""
    title = f"epoch {epoch}, step {run.step}; each row: one noise"
    save_columns(generator(noise, labels), range(10), run.frame, title)


# %% 超参数: the options
# The document's settings. Behind each: fd after five epochs with it alone. By default:
# about 20, and 5 after twenty.
DOCUMENT = {
    "epochs": 10,  # right is 0.97 by then, 0.99 after twenty
    "lr": 0.0002,  # fd over 200: lesson 3
    "average": False,  # fd 71: lesson 6
}  # all of them, after ten epochs: fd about 200


def list_digits(text):
    """An argparse type: digits such as 7 or 2026, to [7] or [2, 0, 2, 6]."""
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"must be digits, such as 2026, not {text!r}")
    return [int(digit) for digit in text]


def parse(argv):
    parser = common.make_parser("mnist_cgan", __doc__, epochs=20, batch=64, of=60000)
    add = parser.add_argument
    add("--lr", type=positive_float, default=0.0006, help="learning rate of both nets")
    add("--beta1", type=fraction, default=0.5, help="how much old gradients count")
    add("--noise-dim", type=positive_int, default=100, help="numbers of noise")
    add("--average", action=yes_no, default=True, help="draw with the average of G")
    add("--digits", type=list_digits, default=list(range(10)), help="what to generate")
    add("--n", type=positive_int, default=3, help="how many of each digit")
    return common.parse(parser, argv, DOCUMENT, generate=["--digits", "--n"])


@torch.no_grad()
def generate(args):
    """--generate: draw args.digits, args.n times, by a saved generator."""
    generator = Generator(args.noise_dim, 10, 1, 28, 28).eval()
    generator.load_state_dict(common.load(args.generate)["parts"]["average_G"])
    labels = torch.tensor(args.digits).repeat(args.n)
    images = generator(torch.randn(len(labels), args.noise_dim), labels)
    path = common.next_path(f"{common.make_folder(args)}/generated-{{}}.png")
    save_columns(images, args.digits, path, "")
    common.show(path)


# %% 训练 cGAN: the training (训练顺序: D first. See lesson 8)
def main(argv=None):
    args = parse(argv)
    torch.manual_seed(args.seed)
    if args.generate:
        return generate(args)

    device = args.device
    judge.load()  # needed at the end: stop now if it is missing
    noise_dim = args.noise_dim
    label_dim = 10
    img_channels = 1
    img_width = 28
    img_height = 28
    generator = Generator(noise_dim, label_dim, img_channels, img_width, img_height)
    discriminator = Discriminator(img_channels, img_width, img_height, label_dim)
    generator.to(device)
    discriminator.to(device)
    average_G = copy.deepcopy(generator).eval()  # drawn, judged, saved (lesson 6)
    criterion = nn.BCELoss()
    adam = {"lr": args.lr, "betas": (args.beta1, 0.999), "fused": True}  # fused: faster
    optimizer_G = optim.Adam(generator.parameters(), **adam)
    optimizer_D = optim.Adam(discriminator.parameters(), **adam)
    train_images, train_labels = load_images(device)  # (60000, 1, 28, 28), (60000,)
    # Samples: a row for each of ten noises, a column for each digit.
    fixed_noise = torch.randn(10, noise_dim).repeat_interleave(10, 0).to(device)
    fixed_labels = torch.arange(10, device=device).repeat(10)

    parts = {"G": generator, "D": discriminator, "average_G": average_G}
    parts |= {"optimizer_G": optimizer_G, "optimizer_D": optimizer_D}
    with common.Run(args, **parts) as run:
        run.levels["loss_D"] = {"balance: D undecided, 2 ln 2": 1.386}
        run.levels["loss_G"] = {"balance: D undecided, ln 2": 0.693}
        run.levels["fd"] = {"good: below 7 (distance from real images)": 7}
        run.levels["right"] = {"good: above 0.98 (share that shows its digit)": 0.98}
        real = make_grid(train_images[:64], normalize=True)
        common.save_grid(real, run.folder / "real.png", "real images")
        for epoch in range(run.epoch + 1, args.epochs + 1):
            # Your own DataLoader works, too: for images, labels in train_loader.
            for images, labels in common.minibatches(args, train_images, train_labels):
                run.step += 1
                images = images.to(device)  # (64, 1, 28, 28)
                labels = labels.to(device)  # (64,)
                batch_size = len(images)
                # What D should say. (labels is something else: the digits.)
                real_labels = torch.ones(batch_size, 1, device=device)
                fake_labels = torch.zeros(batch_size, 1, device=device)

                # Train the discriminator
                optimizer_D.zero_grad()
                outputs = discriminator(images, labels)  # (batch, 1)
                real_loss = criterion(outputs, real_labels)
                noise = torch.randn(batch_size, noise_dim, device=device)
                gen_labels = torch.randint(0, label_dim, (batch_size,), device=device)
                # The document has no detach. That is harmless: optimizer_G.zero_grad()
                # clears what G gets here. But backward() would run through G, too.
                gen_images = generator(noise, gen_labels).detach()
                outputs = discriminator(gen_images, gen_labels)
                fake_loss = criterion(outputs, fake_labels)
                d_loss = real_loss + fake_loss
                d_loss.backward()
                optimizer_D.step()

                # Train the generator, on new noise and labels
                optimizer_G.zero_grad()
                noise = torch.randn(batch_size, noise_dim, device=device)
                gen_labels = torch.randint(0, label_dim, (batch_size,), device=device)
                gen_images = generator(noise, gen_labels)
                outputs = discriminator(gen_images, gen_labels)
                g_loss = criterion(outputs, real_labels)
                g_loss.backward()  # D gets gradients, too; its zero_grad clears them
                optimizer_G.step()

                run.log(loss_D=d_loss, loss_G=g_loss)
                if not args.average:
                    average_G.load_state_dict(generator.state_dict())
                elif run.step % 10 == 0:
                    common.update_average(average_G, generator, run.step)
                if run.step in common.EARLY:  # (the document has no pictures)
                    draw(average_G, fixed_noise, fixed_labels, epoch, run)

            draw(average_G, fixed_noise, fixed_labels, epoch, run)
            if epoch % 5 == 0:  # (the document has no score)
                scores = score(average_G, noise_dim, device)
                run.log(fd=scores["fd"], right=scores["right"])
            run.end_epoch(epoch)  # it prints (document: every 100th step)
        scores = score(average_G, noise_dim, device)
    return run.finish(scores, ABOUT, "training.png", "real.png")


# %% For readers of the document: its slips, which change nothing here
# img_width and img_height are swapped: 28 x 28 hides it. The nets stay on the CPU.

if __name__ == "__main__":
    common.use_one_thread()
    main()
