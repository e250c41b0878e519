"""What came after the paper, made of the parts of `ddpm_core`. Nothing in the package imports this; the book and its users do.

    from ddpm_core.after import flow_bits_per_dim

gives a name of the table below, whichever file it lives in, and loads that file only. What belongs to the paper's own modules
lives there and is named here, too.
"""

from importlib import import_module
from typing import Any

_HOME = {
    # scores and Langevin dynamics
    "annealed_langevin": "ddpm_core.after.langevin",
    "langevin_step": "ddpm_core.after.langevin",
    "sliced_score_loss": "ddpm_core.after.langevin",
    # the chain in continuous time
    "alpha_bar_at": "ddpm_core.schedule",
    "reverse_sde_step": "ddpm_core.after.sde",
    "time_of": "ddpm_core.after.sde",
    # the flow and its likelihood
    "divergence": "ddpm_core.after.flows",
    "flow": "ddpm_core.after.flows",
    "flow_bits_per_dim": "ddpm_core.after.flows",
    "flow_log_density": "ddpm_core.after.flows",
    # DDIM as a code
    "ddim_invert": "ddpm_core.after.encoding",
    # guidance
    "NoisyClassifier": "ddpm_core.after.classifier",
    "classifier_gradient": "ddpm_core.after.guidance",
    "fashion_noisy_classifier": "ddpm_core.after.classifier",
    "gaussian_spread": "ddpm_core.after.guidance",
    "guided": "ddpm_core.after.guidance",
    "observation_gradient": "ddpm_core.after.guidance",
    # known pixels, known coefficients
    "Basis": "ddpm_core.after.bases",
    "grey_basis": "ddpm_core.after.bases",
    "haar_basis": "ddpm_core.after.bases",
    "inpaint_steps": "ddpm_core.after.inverse",
    "resampling_times": "ddpm_core.after.inverse",
    # cascades
    "Enlarger": "ddpm_core.after.cascade",
    "enlarger": "ddpm_core.after.cascade",
    "enlarging": "ddpm_core.after.cascade",
    "noise_condition": "ddpm_core.after.cascade",
    "noised": "ddpm_core.after.cascade",
    "shrink": "ddpm_core.after.cascade",
    "with_condition": "ddpm_core.after.cascade",
    # words, and pictures that belong to them
    "CLIP": "ddpm_core.after.clip",
    "FrozenText": "ddpm_core.after.text",
    "ImageEncoder": "ddpm_core.after.clip",
    "PatchEncoder": "ddpm_core.after.clip",
    "TextEncoder": "ddpm_core.after.text",
    "Tokenizer": "ddpm_core.after.text",
    "clip_guidance": "ddpm_core.after.clip",
    "clip_loss": "ddpm_core.after.clip",
    "load_captioned": "ddpm_core.captions",
    "read_captions": "ddpm_core.after.reading",
    "words_network": "ddpm_core.after.reading",
    "words_tokenizer": "ddpm_core.after.reading",
    # latent diffusion
    "Autoencoder": "ddpm_core.after.autoencoder",
    "VectorQuantizer": "ddpm_core.after.autoencoder",
    "Whitening": "ddpm_core.after.autoencoder",
    "Widened": "ddpm_core.after.widened",
    "kl_to_standard": "ddpm_core.after.autoencoder",
    "perplexity": "ddpm_core.after.autoencoder",
    # DALL-E 2, control
    "Control": "ddpm_core.after.controlnet",
    "Decoder": "ddpm_core.after.prior",
    "Prior": "ddpm_core.after.prior",
    "control": "ddpm_core.after.controlnet",
    "slerp": "ddpm_core.after.prior",
    # Imagen
    "dynamic_threshold": "ddpm_core.after.cascade",
    # worlds in which the answer is known
    "GaussianMixture": "ddpm_core.exact",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(
            f"ddpm_core.after has no {name!r}; it has {', '.join(__all__)}"
        )
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
