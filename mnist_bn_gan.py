"""A GAN that draws handwritten digits, with batch norm in the generator.

A generator G turns noise, random numbers, into images; a discriminator D
tells them from the digits of MNIST. Batch norm gives each unit of G mean 0
and deviation 1 over a minibatch: lesson 11 of LESSONS.md shows what that is
good for. It takes eight minutes. (The script follows document 3 of README.md,
its first example: both updates of a step share one noise.)

    python mnist_bn_gan.py                  # train
    python mnist_bn_gan.py --max-steps 300  # a quick try
    python mnist_bn_gan.py --generate runs/mnist_bn_gan/1/checkpoint.pt --n 9
    python mnist_bn_gan.py --document       # with the document's settings

Open training.gif, then losses.png. The document takes steady losses for
success. They are no sign of it (lesson 1). So the run ends with fd, how far
10,000 generated images are from real ones (good: below 7), and rarest, how
often the rarest digit comes (1 is fair). What next? --no-average draws with G
as the last step left it (lesson 6).
"""

# 文档 3：GAN (the first example)

import copy

import torch
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


# %% 定义生成器和判别器模型: the nets
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


# %% How good is it?
ABOUT = {
    "fd": "distance from the test images; good: below 7; training images: 2",
    "rarest": "frequency of the rarest digit; 1 is fair; good: above 0.5",
}


@torch.no_grad()
def score(generator, noise_dim, device):
    """Judge 10,000 images, always of the same noise. See ABOUT.

    It compares with MNIST. For other data: judge.assess(images, your_test_images).
    """
    source = torch.Generator().manual_seed(0)  # of random numbers
    noise = torch.randn(10_000, noise_dim, generator=source).to(device)
    images = torch.cat([generator(part) for part in noise.split(1000)])
    fd, digits = judge.assess(images)
    shares = digits.bincount(minlength=10) / 10_000
    return {"fd": fd, "rarest": 10 * shares.min().item()}


@torch.no_grad()
def draw(generator, noise, epoch, run):
    """Save a picture of what the generator makes of noise (64, noise_dim)."""
    grid = make_grid(generator(noise), normalize=True)  # 8 rows of 8
    common.save_grid(grid, run.frame, f"epoch {epoch}, step {run.step}")


# %% 超参数: the options
# The document's settings. Behind each: fd after five epochs with it alone. By default: 17
# to 20, and 5 to 6 after twenty.
DOCUMENT = {
    "epochs": 100,  # five times as long; not measured
    "lr_G": 0.0002,  # fd 33: lesson 3
    "beta1": 0.5,  # fd 40: lesson 2
    "average": False,  # fd 45: lesson 6
}


def parse(argv):
    parser = common.make_parser("mnist_bn_gan", __doc__, epochs=20, batch=64, of=60000)
    add = parser.add_argument
    add("--lr-G", type=positive_float, default=0.0004, help="G's learning rate")
    add("--lr-D", type=positive_float, default=0.0002, help="D's learning rate")
    add("--beta1", type=fraction, default=0.0, help="how much old gradients count")
    add("--noise-dim", type=positive_int, default=100, help="numbers of noise")
    add("--average", action=yes_no, default=True, help="draw with the average of G")
    add("--n", type=positive_int, default=64, help="images to --generate")
    return common.parse(parser, argv, DOCUMENT, generate=["--n"])


@torch.no_grad()
def generate(args):
    """--generate: draw args.n images by a saved generator."""
    generator = Generator(args.noise_dim, 28 * 28).eval()
    generator.load_state_dict(common.load(args.generate)["parts"]["average_G"])
    imgs = generator(torch.randn(args.n, args.noise_dim))
    path = common.next_path(f"{common.make_folder(args)}/generated-{{}}.png")
    grid = make_grid(imgs, nrow=round(args.n**0.5), normalize=True)
    common.save_grid(grid, path, f"{args.n} images, seed {args.seed}")
    common.show(path)


# %% 训练过程: the training
# train_GAN is main. Its one learning rate became two: see DOCUMENT.
# 为什么先训练判别器, why D first? An untrained D teaches G nothing. But the updates take
# turns: the order matters for one step only (lesson 8).
def main(argv=None):
    args = parse(argv)
    torch.manual_seed(args.seed)
    if args.generate:
        return generate(args)

    device = args.device
    judge.load()  # needed at the end: stop now if it is missing
    noise_dim = args.noise_dim
    images, labels = load_images(device)
    generator = Generator(noise_dim, 28 * 28).to(device)
    discriminator = Discriminator(28 * 28).to(device)
    average_G = copy.deepcopy(generator).eval()  # drawn, judged, saved (lesson 6)
    adversarial_loss = nn.BCELoss()
    adam = {"betas": (args.beta1, 0.999), "fused": True}  # fused: the same Adam, faster
    optimizer_G = optim.Adam(generator.parameters(), lr=args.lr_G, **adam)
    optimizer_D = optim.Adam(discriminator.parameters(), lr=args.lr_D, **adam)
    fixed_noise = torch.randn(64, noise_dim).to(device)  # the same for all samples

    parts = {"G": generator, "D": discriminator, "average_G": average_G}
    parts |= {"optimizer_G": optimizer_G, "optimizer_D": optimizer_D}
    with common.Run(args, **parts) as run:
        run.levels["loss_D"] = {"balance: D undecided, ln 2 (half the sum)": 0.693}
        run.levels["loss_G"] = {"balance: D undecided, ln 2": 0.693}
        run.levels["fd"] = {"good: below 7 (distance from real images)": 7}
        real = make_grid(images[:64], normalize=True)
        common.save_grid(real, run.folder / "real.png", "real images")
        for epoch in range(run.epoch + 1, args.epochs + 1):
            # Your own DataLoader works, too: for imgs, _ in train_loader.
            for imgs, _ in common.minibatches(args, images, labels):
                run.step += 1
                real_imgs = imgs.to(device)  # (64, 1, 28, 28)
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
        scores = score(average_G, noise_dim, device)
    return run.finish(scores, ABOUT, "training.png", "real.png")


# %% For readers of the document: its slips, which change nothing here
# 训练生成器: G is said to minimise D's output; it has to maximise it. device is never
# defined, and the nets never moved to it. 稳定性: if G learned first, D would find it easy.
# But fakes are easy at first whoever begins. 许可证: a line that a chat program has left.

if __name__ == "__main__":
    common.use_one_thread()
    main()
