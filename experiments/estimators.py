"""How much do one-draw estimates of the bound scatter, by Eq. (3) and by Eq. (5), for a trained network?

    python -m experiments.estimators [-n 16] [--pictures 0 1] [--seed 0]        some 12 minutes on a quiet core

For each picture n trajectories of q, drawn backwards by Eq. (6), and n fresh x_t by Eq. (4) for each t. Of both it keeps the sum over
t = 2..T and L_0 (a density), with sigma_t^2 = beta_t and no clipping, and the variance of each term. Writes data/results/estimators.json.
"""

import time
from pathlib import Path

import torch

import ddpm_core as ddpm
from ddpm_core.gaussian import kl_divergence, log_density
from ddpm_core.reverse import Reverse, evaluating, reverse_process
from experiments.results import digits, keep, made_by, options


def both(
    reverse: Reverse,
    schedule: ddpm.Schedule,
    x0: torch.Tensor,
    generator: torch.Generator,
) -> dict[str, torch.Tensor]:
    """The terms of Eqs. (3) and (5) for x0 (n, ...) float64, n draws of one picture: "three", "five" (T, n), nats; row 0 is L_0.

    Row t - 1 of "three" is log q(x_{t-1} | x_t, x_0) / p_theta(x_{t-1} | x_t) along a trajectory, of "five" its mean over x_{t-1}.
    """
    draw = lambda: torch.randn(x0.shape, generator=generator, dtype=torch.float64)
    total = lambda x: x.flatten(1).sum(1)
    three, five = torch.empty(2, schedule.T, len(x0), dtype=torch.float64)
    x = ddpm.q_sample(schedule, x0, schedule.T, draw())
    for t in range(schedule.T, 1, -1):
        fresh = ddpm.q_sample(schedule, x0, t, draw())
        mean, var = reverse(torch.cat([x, fresh]), t)
        along, anew = mean.chunk(2)
        five[t - 1] = total(
            kl_divergence(*ddpm.q_posterior(schedule, x0, fresh, t), anew, var)
        )
        known, spread = ddpm.q_posterior(schedule, x0, x, t)
        x = known + spread.sqrt() * draw()
        three[t - 1] = total(log_density(x, known, spread) - log_density(x, along, var))
    fresh = ddpm.q_sample(schedule, x0, 1, draw())
    mean, var = reverse(torch.cat([x, fresh]), 1)
    three[0], five[0] = (-total(log_density(x0, m, var)) for m in mean.chunk(2))
    return {"three": three, "five": five}


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("-n", type=int, default=16)
    parser.add_argument("--pictures", type=int, nargs="+", default=[0, 1])
    o = parser.parse_args()
    checkpoint = ddpm.load_checkpoint(Path(o.checkpoint))
    made, begin = made_by(checkpoint, o.seed), time.monotonic()
    model, schedule = checkpoint.model, checkpoint.schedule
    images = ddpm.load_images("fashion-mnist", "test")[0]
    exact = lambda x, t: model(x.float(), t).double()
    rows = []
    for picture in o.pictures:
        x0 = ddpm.to_model_range(images[picture]).double().expand(o.n, -1, -1, -1)
        generator = torch.Generator().manual_seed(o.seed)
        with torch.no_grad(), evaluating(model):
            terms = both(reverse_process(exact, schedule), schedule, x0, generator)
        rows.append(
            {
                "picture": picture,
                **{f"{name}_steps": digits(x[1:].sum(0), 8) for name, x in terms.items()},
                **{f"{name}_L_0": digits(x[0], 8) for name, x in terms.items()},
                **{f"{name}_variances": digits(x.var(1), 4) for name, x in terms.items()},
            }
        )  # fmt: skip
        keep(
            "estimators",
            made
            | {
                "seconds": round(time.monotonic() - begin),
                "settings": {"n": o.n, "variance": "beta", "clip_x0": False},
                "pictures": rows,
            },
        )


if __name__ == "__main__":
    main()
