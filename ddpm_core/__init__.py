"""ddpm_core: denoising diffusion probabilistic models, equation by equation (Ho, Jain and Abbeel 2020).

Numbers in parentheses are the paper's equations. Images are float (B, C, H, W) in [-1, 1]; t is the paper's time, 1..T; a model
is any callable model(x_t, t) -> eps_hat.
"""

from .bits import BitsPerDim, BoundEstimate, bits_per_dim, bits_per_dim_estimate
from .bound import decoder_log_likelihood
from .captions import captions_of, load_captioned, load_drawings, on_ground
from .checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from .data import class_names, load_images, to_model_range, to_uint8
from .forward import q_posterior, q_sample, q_step
from .metrics import frechet_distance, inception_score
from .model import as_eps_model, given, guided
from .objectives import (
    bound_loss,
    choose_objective,
    eps_error,
    mu_error,
    simple_loss,
    x0_error,
)
from .pretrained import from_diffusers, pipeline_from_diffusers, to_diffusers
from .reverse import predict_x0, reverse_mean
from .sampling import Sampling, respace, sample, sample_steps
from .schedule import Schedule, cosine_schedule, linear_schedule
from .training import TrainingState, train, training_steps
from .unet import UNet, cifar10_unet

__version__ = "0.1.0"
__all__ = [
    "BitsPerDim", "BoundEstimate", "Checkpoint", "Sampling", "Schedule", "TrainingState", "UNet", "as_eps_model", "bits_per_dim",
    "bits_per_dim_estimate", "bound_loss", "captions_of", "choose_objective", "cifar10_unet", "class_names", "cosine_schedule",
    "decoder_log_likelihood", "frechet_distance", "eps_error", "from_diffusers", "given", "guided", "inception_score", "linear_schedule", "load_captioned", "load_checkpoint", "load_drawings", "load_images", "mu_error", "on_ground", "pipeline_from_diffusers", "predict_x0", "q_posterior", "q_sample", "q_step", "respace", "reverse_mean", "sample", "sample_steps",
    "save_checkpoint", "simple_loss", "to_diffusers", "to_model_range", "to_uint8", "train", "training_steps", "x0_error",
]  # fmt: skip
