"""A GAN that names numbers with a pattern: multiples of 5, odd numbers, ...

Mirrors document 4, 第三章：生成对抗网络：形状和数量生成, 3.5 and exercise 3.4.

    python numbers_gan.py                              # multiples of 5
    python numbers_gan.py --multiple 3                 # exercise 3.4
    python numbers_gan.py --multiple 2 --remainder 1   # odd numbers
    python numbers_gan.py --document                   # the document's own recipe
    python numbers_gan.py --resume runs/numbers_gan/1/checkpoint.pt --epochs 20000
    python numbers_gan.py --generate runs/numbers_gan/1/generator.pt2 --n 20

It ends with silent, the share of vectors that are all zeros and name no number. Of the
others, fit is the share of right numbers. appear says how many of the possible numbers
come up. rarest and commonest are the lowest and the highest share; 1 is fair.
"""

import common  # first, so that Ctrl-C works while PyTorch loads

# isort: split
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

# What --document brings back, and what a run ends with if only that is brought back:
# fit, appear, rarest, commonest, worst of seeds 0 to 9. Default: 100%, 20, 0.5, 1.5.
DOCUMENT = {
    "beta1": 0.9,  # 99.99%, 20, 0.3, 1.9: old gradients mislead
    "average": 0.0,  # 99.9%, 20, 0.0, 4.0: G circles its goal; the average is nearer
    "watch": "remainder",  # the document's stop. To it, a G that only says 0 is perfect
    "patience": 800,
}  # all of them: 99.8%, 17, 0.0, 4.0


def onehot_encoder(position, depth):
    """3.5.1: indices (n,), or one, to one-hot vectors (n, depth) or (depth,)."""
    return nn.functional.one_hot(torch.as_tensor(position), depth).float()


def int_to_onehot(number):
    """Numbers (n,) from 0 to 99, or one, to one-hot vectors (n, 100), or (100,)."""
    return onehot_encoder(number, 100)


def onehot_to_int(onehot):
    """A one-hot vector (100,) to its number."""
    return torch.argmax(onehot).item()


def gen_sequence(multiple, remainder, n=10):
    """Section 3.5.2: n random numbers (n,) from 0 to 99 that leave this remainder."""
    indices = torch.randint(0, len(range(remainder, 100, multiple)), (n,))
    return indices * multiple + remainder


def gen_batch(multiple, remainder, n=10):
    """What D learns from: such numbers as one-hot vectors (n, 100)."""
    return int_to_onehot(gen_sequence(multiple, remainder, n))


def data_to_num(data):
    """Vectors (n, 100) to numbers (n,), where each is largest; -1: it is all zeros."""
    num = torch.argmax(data, dim=-1)  # of all zeros it is 0, which is a multiple of 5
    return torch.where(data.amax(dim=-1) > 0, num, -1)


def Discriminator():
    """Vectors (n, 100) to the probability of being real (n, 1)."""
    # Linear, it sees means: vectors of zeros hide behind others that are large.
    return nn.Sequential(nn.Linear(100, 1), nn.Sigmoid())


def Generator():
    """Noise (n, 100) to vectors (n, 100), none of them negative."""
    return nn.Sequential(nn.Linear(100, 100), nn.ReLU())


class EarlyStop:
    """Listing 3.5: says when gdif has not fallen for `patience` calls of stop."""

    def __init__(self, patience):
        self.patience = patience
        self.steps = 0  # calls since the smallest gdif
        self.min_gdif = float("inf")

    def stop(self, gdif):
        self.steps = 0 if gdif < self.min_gdif else self.steps + 1
        self.min_gdif = min(gdif, self.min_gdif)
        return self.steps >= self.patience

    def state_dict(self):  # for checkpoint.pt
        return {"steps": self.steps, "min_gdif": self.min_gdif}

    def load_state_dict(self, state):
        vars(self).update(state)


def train_D_G(true_data, D, G, loss_fn, optimD, optimG):
    """Section 3.5.3 describes it. Real vectors (n, 100) to fakes, D's loss, and G's."""
    real_labels = torch.ones((len(true_data), 1), device=true_data.device)
    fake_labels = torch.zeros_like(real_labels)
    optimD.zero_grad()
    real_loss = loss_fn(D(true_data), real_labels)
    real_loss.backward()
    optimD.step()

    optimD.zero_grad()
    generated_data = G(torch.randn_like(true_data)).detach()  # G learns nothing here
    fake_loss = loss_fn(D(generated_data), fake_labels)
    fake_loss.backward()
    optimD.step()

    optimG.zero_grad()
    generated_data = G(torch.randn_like(true_data))
    loss_G = loss_fn(D(generated_data), real_labels)
    loss_G.backward()  # D gets gradients, too; its next update clears them
    optimG.step()
    # If D says 0.5 to all, the losses are 2 ln 2 = 1.39 and ln 2 = 0.69.
    return generated_data.detach(), real_loss + fake_loss, loss_G


def distance(generated_data, multiple, remainder):
    """Listing 3.11: the mean square of what is left over, 0 if all fit."""
    nums = data_to_num(generated_data)
    remainders = (nums - remainder) % multiple  # (n,)
    remainders[nums < 0] = multiple  # no number: worse than all others
    # The document compares (10,) with zeros (10, 1): that makes (10, 10) differences.
    return remainders.float().square().mean().item()


def variation(generated_data, multiple, remainder):
    """The share of vectors (n, 100) to change for a perfect result: 0 is the best."""
    nums, fair = data_to_num(generated_data).cpu(), torch.zeros(100)
    shares = nums[nums >= 0].bincount(minlength=100) / len(nums)
    fair[remainder::multiple] = 1 / len(range(remainder, 100, multiple))
    return (fair - shares).clamp(min=0).sum().item()  # what the numbers lack


def score(generated_data, multiple, remainder):
    """Judge vectors (n, 100), n in the thousands. See the top of this file."""
    nums = data_to_num(generated_data)
    said = nums[nums >= 0]
    shares = said.bincount(minlength=100)[remainder::multiple] / max(len(said), 1)
    least, most = len(shares) * shares.min().item(), len(shares) * shares.max().item()
    result = {"silent": 1 - len(said) / len(nums), "fit": shares.sum().item()}
    result |= {"possible": len(shares), "appear": (shares > 0).sum().item()}
    return result | {"rarest": least, "commonest": most}


@torch.no_grad()
def draw(title, generated_data, path, multiple, remainder):
    """Show how often each number comes in vectors (n, 100): red, if it does not fit."""
    nums = data_to_num(generated_data).cpu()
    shares = nums[nums >= 0].bincount(minlength=100) / len(nums)
    possible = range(remainder, 100, multiple)
    colors = ["g" if x in possible else "r" for x in range(100)]
    axes = Figure(figsize=(8, 4), dpi=60).subplots()
    axes.vlines(range(100), 0, shares.tolist(), colors, linewidth=3)
    axes.axhline(1 / len(possible), color="grey", ls=":")  # the fair share
    axes.set_title(f"{title}: {(nums < 0).float().mean():.1%} say nothing")
    axes.set_ylim(0, 4 / len(possible))
    axes.figure.savefig(path)


def parse(argv):
    parser = common.make_parser(__file__, __doc__, epochs=10_000, batch_size=10)
    add, number = parser.add_argument, common.number
    add("--multiple", type=number(int, 1, 100), default=5, help="numbers of this")
    add("--remainder", type=number(int, 0, 100), default=0, help="plus this")
    add("--lr", type=common.rate, default=0.0005, help="Adam's learning rate")
    add("--beta1", type=common.fraction, default=0.5, help="Adam's first beta")
    add("--average", type=common.fraction, default=0.99, help="decay of G's average")
    watch = ["variation", "remainder"]
    add("--watch", choices=watch, default=watch[0], help="what EarlyStop watches")
    add("--patience", type=common.positive, default=60, help="calls of EarlyStop")
    add("--n", type=common.positive, default=10, help="numbers for --generate")
    args = common.parse(parser, argv, DOCUMENT)
    if args.remainder >= args.multiple:
        parser.error(f"--remainder {args.remainder} must be below --multiple")
    return args


def generate(args):
    """--generate: print args.n numbers from a saved generator; draw their shares."""
    new_G = Generator()
    new_G.load_state_dict(args.loaded["state"])
    new_data = new_G(torch.randn((args.n, 100)))
    path = common.new_folder(args) / "samples" / "generated.png"
    draw(f"{args.n} vectors", new_data, path, args.multiple, args.remainder)
    print(*("-" if x < 0 else x for x in data_to_num(new_data).tolist()))
    print(path)


def main(argv=None):
    args = parse(argv)
    torch.manual_seed(args.seed)
    if args.generate:
        return generate(args)
    torch.set_num_threads(1)  # the nets are tiny: more would only wait for each other
    pattern = (args.multiple, args.remainder)
    D, G = Discriminator().to(args.device), Generator().to(args.device)
    average_G = AveragedModel(G, multi_avg_fn=get_ema_multi_avg_fn(args.average))
    loss_fn = nn.BCELoss()
    adam = {"lr": args.lr, "betas": (args.beta1, 0.999), "fused": True}
    optimD = torch.optim.Adam(D.parameters(), **adam)
    optimG = torch.optim.Adam(G.parameters(), **adam)
    stopper = EarlyStop(args.patience)
    fixed_noise = torch.randn((4096, 100)).to(args.device)  # for the stop, and to draw
    nets = {"G": G, "D": D, "average_G": average_G}
    others = {"optimD": optimD, "optimG": optimG, "stopper": stopper}
    with common.Run(args, **nets, **others) as run:
        run.stop = stopper.steps >= stopper.patience  # a resumed run may have ended
        for i in run.epochs(every=500):  # an epoch is one update, as in the document
            batch = gen_batch(*pattern, args.batch_size).to(args.device)
            for true_data in run.minibatches(batch):  # all 10 of them, at once
                result = train_D_G(true_data, D, G, loss_fn, optimD, optimG)
                generated_data, loss_D, loss_G = result
                run.log(loss_D=loss_D, loss_G=loss_G)
            if i % 10 == 1 or not args.average:  # every 10th is as good
                average_G.update_parameters(G)
            if args.watch == "remainder":
                run.stop |= stopper.stop(distance(generated_data, *pattern))
            elif i % 100 == 0:
                dis = variation(average_G(fixed_noise), *pattern)
                run.measure(variation=dis)
                run.stop |= stopper.stop(dis)
            if i % 50 == 1:
                run.bar.write(str(data_to_num(generated_data)))
            if run.due:
                draw(f"epoch {i}", average_G(fixed_noise), run.sample, *pattern)
        run.save_generator(average_G.module, fixed_noise)
        new_G = torch.export.load(run.folder / "generator.pt2").module()
        new_data = new_G(torch.randn((10_000, 100)))  # from other noise
        print(data_to_num(new_data[:10]))
        return run.finish(score(new_data, *pattern))


if __name__ == "__main__":
    main()
