"""Figures 5 to 8 and Table 4 of the paper, for any network and its data, in one command; made for a GPU.

    python -m experiments.paper_figures runs/cifar10 --data cifar10 --out figures/cifar10
    python -m experiments.paper_figures google/ddpm-celebahq-256 --data folder:celeba-hq --out figures/celeba

The network is a run of `ddpm train`, or weights of diffusers: a folder, or a hub id. Written to --out:
    figure5.json  rate and distortion at every t, and Table 4's rows, means over --bound test images (Eq. (5), (13), (15))
    figure6.png   x0_hat while pictures form, a row each (progressive generation)
    figure7.png   rows: test images; columns: samples that share x_t, four for each t of 1000, 750, 500, 250, and the image itself
    figure8.png   rows: pairs of test images; columns: interpolations at t = 500, from one to the other
The book's own pictures of these figures, of its small network, come from the experiments bound, shared and interpolation.
"""

import argparse
import json
from pathlib import Path

import torch
from PIL import Image
from tqdm.auto import tqdm

import ddpm_core as ddpm
from ddpm_core.checkpoint import beside
from ddpm_core.figures import image_grid
from ddpm_core.hardware import choose_device
from ddpm_core.training import mix

TABLE_4 = (1000, 900, 800, 700, 600, 500, 400, 300, 200, 100, 1)  # t of the rows


def seeds(seed: int, n: int, *what: object) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(mix(seed, *what, i)) for i in range(n)]


def rate_and_distortion(
    model, schedule: ddpm.Schedule, x0: torch.Tensor, seed: int, batch_size: int
) -> dict:
    """Figure 5: for t = 1..T the bits/dim received by the time x_t is known, and the root mean squared error of x0_hat in grey levels."""
    parts = [
        ddpm.bits_per_dim(
            model,
            schedule,
            x,
            clip_x0=True,
            generator=seeds(seed, len(x), "bound", i),
            progress=True,
        )
        for i, x in enumerate(x0.split(batch_size))
    ]
    rate = torch.cat([part.rate for part in parts]).double().mean(0)
    rmse = 127.5 * torch.cat([part.x0_mse for part in parts]).double().mean(0).sqrt()
    total = torch.cat([part.total for part in parts]).double()
    rows = [
        {"t": t, "rate": rate[t - 1].item(), "rmse": rmse[t - 1].item()}
        for t in TABLE_4
        if t <= schedule.T
    ]
    return {
        "images": len(x0),
        "bits_per_dim": total.mean().item(),
        "error": (total.std() / len(x0) ** 0.5).item(),
        "table4": rows,
        "rate": rate.tolist(),
        "rmse": rmse.tolist(),
    }


def from_t(
    model,
    schedule: ddpm.Schedule,
    x_t: torch.Tensor,
    t: int,
    generator: list[torch.Generator],
    steps: int | None,
) -> torch.Tensor:
    """x_0 ~ p_theta(x_0 | x_t): the first t betas are a schedule of their own, on which Algorithm 2 starts at t."""
    short = ddpm.Schedule(schedule.beta[: t + 1])
    return ddpm.sample(
        model,
        short,
        x_t.shape,
        steps=None if steps is None else min(steps, t),
        x_T=x_t,
        generator=generator,
        progress=True,
    ).cpu()


def pictures(
    model, schedule: ddpm.Schedule, x0: torch.Tensor, seed: int, steps: int | None
) -> dict[str, tuple[torch.Tensor, int]]:
    """Figures 6, 7 and 8: name -> images in [-1, 1], row by row, and the number of columns. x0 (2n, C, H, W), on the model's device."""
    n, shape, T = len(x0) // 2, x0[0].shape, schedule.T
    looks = [
        x0_hat.clamp(-1, 1).cpu()
        for _, _, x0_hat in tqdm(
            ddpm.sample_steps(
                model,
                schedule,
                (n, *shape),
                steps=steps,
                generator=seeds(seed, n, "image"),
            ),
            desc="figure 6",
        )
    ]
    shown = torch.linspace(0, len(looks) - 1, 11).round().long().tolist()
    forming = torch.stack([looks[i] for i in shown], dim=1)

    eps = torch.stack(
        [torch.randn(shape, generator=g) for g in seeds(seed, n, "noise")]
    ).to(x0)
    shared = []
    for t in (T, 3 * T // 4, T // 2, T // 4):
        x_t = ddpm.q_sample(schedule, x0[:n], t, eps)
        shared += [
            from_t(model, schedule, x_t, t, seeds(seed, n, "shared", t, draw), steps)
            for draw in range(4)
        ]
    shared = torch.stack([*shared, x0[:n].cpu()], dim=1)

    t, weight = T // 2, torch.linspace(0, 1, 9, device=x0.device).view(-1, 1, 1, 1)
    rows = []
    for i in range(
        n
    ):  # one noise for both, and one for all mixtures: only the weight differs
        a, b = (
            ddpm.q_sample(schedule, x[None], t, eps[i : i + 1])
            for x in (x0[i], x0[n + i])
        )
        mixed = from_t(
            model,
            schedule,
            (1 - weight) * a + weight * b,
            t,
            [seeds(seed, 1, "between", i)[0] for _ in weight],
            steps,
        )
        rows += [x0[i : i + 1].cpu(), mixed, x0[n + i : n + i + 1].cpu()]
    return {
        "figure6": (forming.flatten(0, 1), 11),
        "figure7": (shared.flatten(0, 1), 17),
        "figure8": (torch.cat(rows), 11),
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "network", help="folder of a run, folder of diffusers, or hub id"
    )
    parser.add_argument(
        "--data",
        required=True,
        help="as for ddpm train; its test images are taken, where it has such",
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the figures"
    )
    parser.add_argument("--rows", type=int, default=6, help="of each picture")
    parser.add_argument(
        "--bound", type=int, default=128, help="test images for Figure 5"
    )
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument(
        "--steps", type=int, default=None, help="reverse steps (default: all T)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    o = parser.parse_args(arguments)
    device = choose_device(o.device)
    if Path(o.network).exists() and not (Path(o.network) / "config.json").exists():
        kept = ddpm.load_checkpoint(o.network, device=device)
        model, schedule = kept.model, kept.schedule
    else:
        model, schedule = (
            ddpm.from_diffusers(o.network).to(device),
            ddpm.linear_schedule(),
        )
    images, _ = ddpm.load_images(
        o.data,
        "test",
        **(
            {"size": model.config["image_size"]}
            if o.data.startswith(("folder:", "hub:"))
            else {}
        ),
    )
    if len(images) < max(o.bound, 2 * o.rows):
        raise SystemExit(
            f"{o.data} has {len(images)} images; wanted {max(o.bound, 2 * o.rows)}: lower --bound or --rows"
        )
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(o.seed))
    x0 = ddpm.to_model_range(images[order[: max(o.bound, 2 * o.rows)]]).to(device)
    o.out.mkdir(parents=True, exist_ok=True)
    for name, (grid, columns) in pictures(
        model, schedule, x0[: 2 * o.rows], o.seed, o.steps
    ).items():
        with beside(o.out / f"{name}.png") as partial:
            Image.fromarray(image_grid(grid, columns)).save(partial, "PNG")
    with beside(o.out / "figure5.json") as partial:
        partial.write_text(
            json.dumps(
                rate_and_distortion(
                    model, schedule, x0[: o.bound], o.seed, o.batch_size
                )
            )
            + "\n"
        )
    print(f"{o.out}: figures 5 to 8")


if __name__ == "__main__":
    main()
