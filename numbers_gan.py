"""A GAN that names numbers with a pattern: multiples of 5, odd numbers, ...

A generator G turns random numbers into vectors of 100 entries, one for each
number from 0 to 99. The largest entry names the number; if all are 0, none. A
discriminator D tells them from the data. After a thousand epochs, of one step
each, G names multiples of 5 only; each equally often after thousands more:
half a minute. (The script follows document 4 of README.md, 3.5.)

    python numbers_gan.py                             # multiples of 5
    python numbers_gan.py --multiple 2 --remainder 1  # odd numbers
    python numbers_gan.py --generate runs/numbers_gan/1/checkpoint.pt --n 20
    python numbers_gan.py --document      # with the document's settings

Open new_data.png and training.gif: how often each number comes. The run ends
with silent, the share of vectors that name no number (usual: 0.01). Of the
others, fit is the share of right numbers, appear the share of the possible
ones that come up (best: 1 and 1); rarest and commonest compare the extremes
with a fair share. What next? --no-average: lesson 6 of LESSONS.md.
"""

# 文档 4：第三章：生成对抗网络：形状和数量生成

import copy

import torch
from matplotlib.figure import Figure
from torch import nn

import common
from common import fraction, positive_float, positive_int, yes_no  # options


# %% 3.5.1 什么是独热变量？: one-hot vectors
def onehot_encoder(position, depth):
    """Indices (n,), or one, to one-hot vectors (n, depth), or (depth,)."""
    return nn.functional.one_hot(torch.as_tensor(position), depth).float()


def int_to_onehot(number):
    return onehot_encoder(number, 100)  # numbers are from 0 to 99


def onehot_to_int(onehot):
    return torch.argmax(onehot).item()  # of one vector (100,)


# %% 3.5.2 使用 GAN 生成具有模式的数字: the data and the nets
# The document calls ten numbers a sequence (序列). They are a minibatch: D sees one number
# at a time, never the ten together.
def gen_sequence(multiple, remainder, n=10):
    """n random numbers (n,) from 0 to 99 that leave this remainder."""
    how_many = len(range(remainder, 100, multiple))  # 20, if they are multiples of 5
    indices = torch.randint(0, how_many, (n,))
    return indices * multiple + remainder


def gen_batch(multiple, remainder, n=10):
    return int_to_onehot(gen_sequence(multiple, remainder, n))  # (n, 100)


def data_to_num(data):
    """Vectors (n, 100) to numbers (n,), where each is largest; -1: it is all zeros."""
    num = torch.argmax(data, dim=-1)  # all zeros give 0, which the document counts
    return torch.where(data.amax(dim=-1) > 0, num, -1)


def make_D():
    """Vectors (n, 100) to the probability of being real (n, 1)."""
    # D adds up its inputs, each times a weight: near balance it compares only means. So G's
    # mean vector becomes that of the data, but its single vectors stay mixtures: three of
    # four have three or more entries above 0.05, and the largest is 0.34 (median).
    return nn.Sequential(nn.Linear(100, 1), nn.Sigmoid())


def make_G():
    """Noise (n, 100) to vectors (n, 100), none of them negative."""
    return nn.Sequential(nn.Linear(100, 100), nn.ReLU())


# %% 3.5.3 训练 GAN 生成具有模式的数字: the update, and when to stop
def train_D_G(true_data, D, G, loss_fn, optimD, optimG):
    """Update D on real vectors (n, 100), D on fakes, then G.

    Returns the fakes, D's loss, G's loss. (The document only describes it; there it
    makes its own batch.)
    """
    n = len(true_data)
    device = true_data.device
    real_labels = torch.ones((n, 1), device=device)
    fake_labels = torch.zeros_like(real_labels)
    optimD.zero_grad()
    real_loss = loss_fn(D(true_data), real_labels)
    real_loss.backward()
    optimD.step()

    optimD.zero_grad()
    noise = torch.randn((n, 100), device=device)
    generated_data = G(noise).detach()  # G learns nothing here
    fake_loss = loss_fn(D(generated_data), fake_labels)
    fake_loss.backward()
    optimD.step()

    optimG.zero_grad()
    noise = torch.randn((n, 100), device=device)
    generated_data = G(noise)
    loss_G = loss_fn(D(generated_data), real_labels)
    loss_G.backward()  # D gets gradients, too; its next update clears them
    optimG.step()
    return generated_data.detach(), (real_loss + fake_loss).detach(), loss_G.detach()


class EarlyStop:
    """The same class as in 3.3.3: stop says True after `patience` calls in vain."""

    def __init__(self, patience=1000):
        self.patience = patience
        self.steps = 0  # calls since the smallest gdif
        self.min_gdif = float("inf")

    def stop(self, gdif):
        if gdif < self.min_gdif:
            self.min_gdif = gdif
            self.steps = 0
        else:
            self.steps += 1
        return self.steps >= self.patience

    def state_dict(self):  # for --resume, which may raise patience
        return {"steps": self.steps, "min_gdif": self.min_gdif}

    def load_state_dict(self, state):
        self.steps = state["steps"]
        self.min_gdif = state["min_gdif"]


# The trap of the document's gdif: ten lucky numbers make 0, which can never improve. So
# the stop comes 800 epochs later. And a G that only says 0 is perfect.
def distance(generated_data, multiple, remainder):
    """Listing 3.11: the mean square of what is left over, 0 if all numbers fit."""
    nums = data_to_num(generated_data)
    remainders = (nums - remainder) % multiple  # (n,)
    remainders[nums < 0] = multiple  # no number: worse than all others
    return remainders.float().square().mean().item()


def count(generated_data, multiple, remainder):
    """Vectors (n, 100) to the number of those that name a number, and their shares.

    shares: of each number of the pattern, among those that are named.
    """
    nums = data_to_num(generated_data).cpu()
    said = nums[nums >= 0]
    counts = said.bincount(minlength=100)[remainder::multiple]
    return len(said), counts / max(len(said), 1)


def variation(generated_data, multiple, remainder):
    """Our gdif: the share of vectors (n, 100) to change for a perfect result."""
    said, shares = count(generated_data, multiple, remainder)
    fair = 1 / len(shares)
    lacks = fair - shares * said / len(generated_data)
    return lacks.clamp(min=0).sum().item()


# %% How good is it?
ABOUT = {
    "silent": "share of vectors that name no number; usual: 0.01",
    "fit": "share of right numbers among the others; good: 1",
    "appear": "share of the possible numbers that came up; good: 1",
    "rarest": "frequency of the rarest of them, 1 is fair; good: above 0.3",
    "commonest": "frequency of the commonest, 1 is fair; good: below 2",
}


def score(generated_data, multiple, remainder):
    """Judge vectors (n, 100), n in the thousands. See ABOUT."""
    said, shares = count(generated_data, multiple, remainder)
    return {
        "silent": 1 - said / len(generated_data),
        "fit": shares.sum().item(),
        "appear": (shares > 0).float().mean().item(),
        "rarest": shares.min().item() * len(shares),
        "commonest": shares.max().item() * len(shares),
    }


@torch.no_grad()
def draw(title, generated_data, path, multiple, remainder):
    """Show how often each number comes in vectors (n, 100)."""
    nums = data_to_num(generated_data).cpu()
    shares = nums[nums >= 0].bincount(minlength=100).numpy() / len(nums)
    possible = range(remainder, 100, multiple)
    fair = 1 / len(possible)
    fig = Figure(figsize=(5, 3.2), dpi=100, layout="constrained")
    axes = fig.subplots()
    axes.bar(range(100), shares, width=1, color="tab:orange", label="wrong")
    axes.bar(possible, shares[possible], width=1, color="tab:blue", label="right")
    axes.axhline(fair, color="grey", ls=":", label="fair share")
    axes.set(xlim=(-1, 100), ylim=(0, max(4 * fair, 1.05 * shares.max())))
    first = ", ".join(str(number) for number in possible[:3])
    axes.set(title=title, ylabel="share", xlabel=f"number; to learn: {first}, ...")
    axes.legend(loc="upper right", ncols=3, fontsize="small")
    fig.savefig(path)


# %% The options
# The document's settings. Behind each: rarest with it alone. By default: about 0.5.
DOCUMENT = {
    "beta1": 0.9,  # rarest 0.3 to 0.4: lesson 2
    "average": False,  # rarest 0.02 to 0.1: lesson 6
    "watch": "remainder",  # rarest below 0.01: see distance, and lesson 7
    "patience": 800,
}  # all of them: rarest below 0.01


def parse(argv):
    parser = common.make_parser("numbers_gan", __doc__, epochs=10_000, batch=10)
    add = parser.add_argument
    multiple = common.limited(int, 1, 99)
    remainder = common.limited(int, 0, 98)
    add("--multiple", type=multiple, default=5, help="learn its multiples")  # 练习 3.4
    add("--remainder", type=remainder, default=0, help="add this: 1, to odd numbers")
    add("--lr", type=positive_float, default=0.0005, help="learning rate of both")
    add("--beta1", type=fraction, default=0.5, help="how much old gradients count")
    add("--average", action=yes_no, default=True, help="draw with the average of G")
    watch = {"choices": ["variation", "remainder"], "default": "variation"}
    add("--watch", **watch, help="what stops the training")
    add("--patience", type=positive_int, default=60, help="looks without progress")
    add("--n", type=positive_int, default=10, help="numbers to --generate")
    args = common.parse(parser, argv, DOCUMENT, resume=["--patience"], generate=["--n"])
    if args.remainder >= args.multiple:
        parser.error(f"--remainder {args.remainder} must be below --multiple")
    return args


@torch.no_grad()
def generate(args):
    """--generate: print args.n numbers of a saved generator; draw their shares."""
    G = make_G().eval()
    G.load_state_dict(common.load(args.generate)["parts"]["average_G"])
    new_data = G(torch.randn((args.n, 100)))
    path = common.next_path(f"{common.make_folder(args)}/generated-{{}}.png")
    title = f"{args.n} numbers, seed {args.seed}"
    draw(title, new_data, path, args.multiple, args.remainder)
    print(f"numbers (-1: none): {data_to_num(new_data).tolist()}")
    common.show(path)


# %% Listing 3.11: the training
def main(argv=None):
    args = parse(argv)
    torch.manual_seed(args.seed)
    if args.generate:
        return generate(args)

    device = args.device
    pattern = (args.multiple, args.remainder)
    onehot75 = int_to_onehot(75)
    print(f"The number 1 of 0 to 4, one-hot: {onehot_encoder(1, 5).tolist()}")
    print(f"The number 75, one-hot and back: {onehot_to_int(onehot75)}")
    print(f"Numbers of the data: {data_to_num(gen_batch(*pattern)).tolist()}")
    D = make_D().to(device)
    G = make_G().to(device)
    average_G = copy.deepcopy(G).eval()  # what is drawn, judged and saved
    # The loss and the optimizers of 3.5.2.
    loss_fn = nn.BCELoss()
    adam = {"lr": args.lr, "betas": (args.beta1, 0.999), "fused": True}  # fused: faster
    optimD = torch.optim.Adam(D.parameters(), **adam)
    optimG = torch.optim.Adam(G.parameters(), **adam)
    stopper = EarlyStop(args.patience)
    fixed_noise = torch.randn((4096, 100)).to(device)  # for the stop, and to draw

    parts = {"D": D, "G": G, "average_G": average_G, "stopper": stopper}
    with common.Run(args, **parts, optimD=optimD, optimG=optimG) as run:
        if args.max_steps:
            args.epochs = run.epoch + args.max_steps  # here, an epoch is a step
        run.levels["loss_D"] = {"balance: D undecided, 2 ln 2": 1.386}
        run.levels["loss_G"] = {"balance: D undecided, ln 2": 0.693}
        run.levels["variation"] = {"best (share of vectors that ought to change)": 0}
        for i in range(run.epoch + 1, args.epochs + 1):
            if stopper.steps >= args.patience:  # a resumed run that has stopped already
                break
            run.step += 1
            true_data = gen_batch(*pattern, args.batch_size).to(device)
            generated_data, loss_D, loss_G = train_D_G(
                true_data, D, G, loss_fn, optimD, optimG
            )
            run.log(loss_D=loss_D, loss_G=loss_G)
            if not args.average:
                average_G.load_state_dict(G.state_dict())
            elif run.step % 10 == 0:
                common.update_average(average_G, G, run.step)
            stop = False
            if args.watch == "remainder":  # the document's
                stop = stopper.stop(distance(generated_data, *pattern))
            elif i % 100 == 0:
                dis = variation(average_G(fixed_noise), *pattern)
                run.log(variation=dis)
                stop = stopper.stop(dis)
            if i in common.EARLY or i % 500 == 0 or i == args.epochs or stop:
                numbers = data_to_num(generated_data).tolist()
                print(f"epoch {i}, G says {numbers}")  # (the document: every 50)
                draw(f"epoch {i}", average_G(fixed_noise), run.frame, *pattern)
                run.end_epoch(i)
            if stop:
                print(f"Stopped: no progress for {stopper.steps} looks (--patience)")
                break

    # 3.5.4 保存和使用训练好的模型: save G, and use it without its code
    # TorchScript is deprecated, so torch.export. (Windows: it cannot open a path that is
    # not ASCII, but it takes an open file.)
    path = run.folder / "generator.pt2"
    rows = ({0: torch.export.Dim("n")},)  # any number of them
    example = torch.randn((2, 100))
    net = average_G.cpu()
    program = torch.export.export(net, (example,), dynamic_shapes=rows)
    with path.open("wb") as file:
        torch.export.save(program, file)
    with path.open("rb") as file:
        new_G = torch.export.load(file).module()  # it is in eval mode already
    new_data = new_G(torch.randn((10_000, 100))).detach()  # from other noise
    print(f"New numbers of G: {data_to_num(new_data[:10]).tolist()}")
    # No one-hot vector, whose largest entries are 1, 0, 0. See make_D.
    print(f"The largest entries of its first vector: {new_data[0].topk(3).values}")
    draw("new data", new_data, run.folder / "new_data.png", *pattern)
    scores = score(new_data, *pattern)
    return run.finish(scores, ABOUT, "new_data.png", "training.png")


# %% For readers of the document: its slips, which change nothing here
# 3.5.2: D's first layer (第一层) and its last (最后一层) are one.
# Listing 3.11: distance compares (10,) with zeros (10, 1): a warning, but the same mean.
# gloss and dloss stay 0.

if __name__ == "__main__":
    common.use_one_thread()
    main()
