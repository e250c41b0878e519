"""The probability flow's likelihood of test images, beside the chain's bound and the recipe that is popular.

    python -m experiments.likelihood [-n 8] [--seed 0]        about a quarter of an hour on two cores

For the first n test images, without labels: flow_bits_per_dim with 25, 50 and 100 steps (same x_1, same probe); the same with other
probes; the bound of Eq. (5) with both variances; scipy's RK45 from the same x_1 with the tolerance 1e-5 of score_sde; and the density
at t = 1 of the picture itself, dequantised uniformly, or not at all. Writes data/results/likelihood.json.
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from scipy.integrate import solve_ivp

import ddpm_core as ddpm
from ddpm_core.after import flow_bits_per_dim, flow_log_density
from ddpm_core.after.flows import signs, value_and_divergence
from ddpm_core.after.sde import ask_at
from ddpm_core.gaussian import log_density
from ddpm_core.reverse import evaluating
from ddpm_core.schedule import alpha_bar_at
from experiments.results import digits, keep, made_by


def adaptive(model, schedule, x_1, probe, tolerance=1e-5) -> tuple[torch.Tensor, int]:
    """log p_1(x_1) by scipy's RK45 in u, as score_sde solves it: dx/du = -b (x + s) / 2, with the divergence as one more unknown.

    -> (B,) nats, and how often the network was asked. The rate b jumps at whole u; the solver is told nothing of it.
    """
    asked, rows = 0, len(x_1)

    def rate(u: float, state: np.ndarray) -> np.ndarray:
        nonlocal asked
        asked += 1
        u = min(max(u, 1.0), float(schedule.T))
        b = -float(schedule.alpha[math.ceil(u)].log())
        noise = float((1 - alpha_bar_at(schedule, u)).sqrt())
        x = torch.tensor(state[:-rows], dtype=x_1.dtype).reshape(x_1.shape)
        value, div = value_and_divergence(
            lambda x: -b / 2 * (x - ask_at(model, x, u) / noise), x, probe
        )
        return torch.cat([value.flatten(), div]).double().numpy()

    start = torch.cat([x_1.flatten(), torch.zeros(rows)]).double().numpy()
    with torch.no_grad(), evaluating(model):
        end = solve_ivp(rate, (1, schedule.T), start, rtol=tolerance, atol=tolerance).y[
            :, -1
        ]
    x_T = torch.tensor(end[:-rows]).reshape(x_1.shape)
    prior = log_density(x_T, 0.0, 1.0).flatten(1).sum(1)
    return prior + torch.tensor(end[-rows:]), asked


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "checkpoint", nargs="?", default="data/checkpoints/fashion-mnist"
    )
    parser.add_argument("-n", type=int, default=8)
    parser.add_argument("--probes", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    o = parser.parse_args()
    checkpoint = ddpm.load_checkpoint(Path(o.checkpoint))
    made = made_by(checkpoint, o.seed)
    model, schedule = checkpoint.model, checkpoint.schedule
    images = ddpm.load_images("fashion-mnist", "test")[0][: o.n]
    x0 = ddpm.to_model_range(images)
    D = x0[0].numel()
    generator = lambda k=0: torch.Generator().manual_seed(o.seed + k)
    probe = signs(x0, generator(1))

    def timed(name, call):
        begin = time.monotonic()
        result = call()
        print(f"{name}: {time.monotonic() - begin:.0f} s", flush=True)
        return result, round(time.monotonic() - begin, 1)

    flows = []
    for steps in (25, 50, 100):
        bits, seconds = timed(
            f"flow, {steps} steps",
            lambda steps=steps: flow_bits_per_dim(
                model, schedule, x0, steps, probe, generator()
            ),
        )
        flows.append(
            {
                "steps": steps,
                "evaluations": 4 * steps,
                "seconds": seconds,
                **{name: digits(part, 7) for name, part in bits._asdict().items()},
            }
        )
    # the same x_1 by scipy: its noise is the first that the generator gives
    eps = torch.randn(x0.shape, generator=generator())
    x_1 = ddpm.q_sample(schedule, x0, 1, eps)
    (density, asked), seconds = timed(
        "RK45", lambda: adaptive(model, schedule, x_1, probe)
    )
    sent = log_density(eps, 0.0, 1.0).flatten(1).sum(1)
    sent = sent - D / 2 * float(schedule.beta[1].log())
    peer = {
        "evaluations": asked,
        "seconds": seconds,
        "flow": digits((sent - density) / D / math.log(2), 7),
    }
    probes = {"signs": [], "normal": []}
    for k in range(o.probes):
        for law in probes:
            v = (
                signs(x0, generator(10 + k))
                if law == "signs"
                else torch.randn(x0.shape, generator=generator(20 + k))
            )
            bits, _ = timed(
                f"probe {k}, {law}",
                lambda v=v: flow_bits_per_dim(model, schedule, x0, 25, v, generator()),
            )
            probes[law].append(digits(bits.total, 7))
    bound = {
        variance: digits(
            timed(
                f"bound, {variance}",
                lambda variance=variance: ddpm.bits_per_dim(
                    model, schedule, x0, variance, generator=generator(2)
                ),
            )[0].total,
            6,
        )
        for variance in ("beta", "beta_tilde")
    }
    # the popular recipe: the picture, spread over its bins of width 2 / 256, is taken for x_1; then bins are counted as volume
    u = torch.rand(x0.shape, generator=generator(3))
    spread = (images + u) / 128 - 1
    recipe = {
        name: digits(
            7
            - timed(name, lambda x=x: flow_log_density(model, schedule, x, 1, 25, probe))[0]
            / D
            / math.log(2),
            6,
        )
        for name, x in (("dequantised", spread), ("not_dequantised", images / 127.5 - 1))
    }  # fmt: skip
    keep(
        "likelihood",
        made
        | {
            "settings": {"n": o.n, "probes": o.probes},
            "flow": flows,
            "rk45": peer,
            "probe": probes,
            "bound": bound,
            "recipe": recipe,
        },
    )


if __name__ == "__main__":
    main()
