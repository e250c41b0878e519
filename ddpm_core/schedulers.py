"""The schedulers of diffusers that share our forward process: their JSON, and ours."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .schedule import Schedule, cosine_schedule, linear_schedule
from .unet2d import read_about, whole

# Schedulers of one forward process, q with beta_1 to beta_T, and what a missing entry
# means to all of them. How they sample is the caller's choice, and is not read.
SCHEDULERS = {
    "DDPMScheduler",
    "DDPMParallelScheduler",
    "DDIMScheduler",
    "DDIMParallelScheduler",
    "PNDMScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
}
FORWARD: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "prediction_type": "epsilon",
}


def schedule_of(file: Path) -> tuple[Schedule, str]:
    """beta_1 to beta_T, and what the network predicts, in our words."""
    config = read_about(file)
    c = FORWARD | config
    T, first, last = c["num_train_timesteps"], c["beta_start"], c["beta_end"]
    kind, listed = c["beta_schedule"], c["trained_betas"]
    prediction = {"epsilon": "eps", "sample": "x0"}.get(str(c["prediction_type"]))
    wrong = []
    if config.get("_class_name") not in SCHEDULERS:
        wrong.append(
            f"_class_name = {config.get('_class_name')!r}, wanted one of "
            f"{', '.join(sorted(SCHEDULERS))}"
        )
    if prediction is None:
        wrong.append(
            f'prediction_type = {c["prediction_type"]!r}, wanted "epsilon" or "sample"'
        )
    for name in ("rescale_betas_zero_snr", "use_flow_sigmas"):
        if config.get(name):
            wrong.append(f"{name} = {config[name]!r}, wanted false: alpha_bar_T > 0")
    if not whole(T):
        wrong.append(f"num_train_timesteps = {T!r}, wanted a whole number")
    if listed is not None and not isinstance(listed, list):
        wrong.append("trained_betas is no list")
        listed = []
    numbers = all(
        isinstance(b, (int, float)) and not isinstance(b, bool) and 0 < b < 1
        for b in ([first, last] if listed is None else listed)
    )
    if listed is not None and len(listed) != T:
        wrong.append(f"trained_betas has {len(listed)} entries, wanted {T}")
    if not numbers:
        wrong.append(
            f"beta_start = {first!r}, beta_end = {last!r}, or an entry of "
            "trained_betas: "
            "wanted numbers between 0 and 1"
        )
    if listed is None and str(kind) not in BETAS:
        wrong.append(f"beta_schedule = {kind!r}, wanted one of {', '.join(BETAS)}")
    try:
        if not wrong:
            made = Schedule(listed) if listed else BETAS[kind](T, first, last)
            return made, str(prediction)
    except (TypeError, ValueError, RuntimeError) as error:  # the last: T beyond memory
        wrong = [str(error)]
    raise ValueError(f"{file} describes no Schedule: {'; '.join(wrong)}")


def _even(T: int, first: float, last: float) -> Tensor:
    return torch.linspace(first, last, T, dtype=torch.float64)


BETAS: dict[
    str, Callable[[int, float, float], Schedule]
] = {  # (T, beta_start, beta_end) -> the schedule; the cosine has no use for the latter
    "linear": linear_schedule,
    "scaled_linear": lambda T, first, last: Schedule(
        _even(T, first**0.5, last**0.5) ** 2
    ),
    "squaredcos_cap_v2": lambda T, first, last: cosine_schedule(T),
    "sigmoid": lambda T, first, last: Schedule(
        _even(T, -6, 6).sigmoid() * (last - first) + first
    ),
}


def scheduler_config(schedule: Schedule) -> dict[str, Any]:
    beta = schedule.beta[1:]
    first, last = float(beta[0]), float(beta[-1])
    linear = torch.equal(
        beta, torch.linspace(first, last, schedule.T, dtype=torch.float64)
    )
    return {
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": schedule.T,
        **(
            {"beta_schedule": "linear", "beta_start": first, "beta_end": last}
            if linear
            else {"trained_betas": beta.tolist()}
        ),
        "variance_type": "fixed_large",  # beta
        "clip_sample": True,
        "clip_sample_range": 1.0,
        "prediction_type": "epsilon",
        # from T to 1, as respace does; "leading" would never visit T
        "timestep_spacing": "linspace",
        "steps_offset": 0,
    }
