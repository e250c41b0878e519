"""No name that a user of 0.1.0 may have imported is lost, from wherever it was."""

from importlib import import_module

import pytest

# Every public name that 0.1.0 defined, by the module it stood in.
NAMES = {
    "ddpm_core": """
        BitsPerDim BoundEstimate Checkpoint Schedule TrainingState UNet
        as_eps_model bits_per_dim bits_per_dim_estimate bound_loss
        choose_objective cifar10_unet cosine_schedule decoder_log_likelihood
        frechet_distance from_diffusers inception_score linear_schedule
        load_checkpoint load_images mu_error predict_x0 q_posterior q_sample
        q_step respace reverse_mean sample sample_steps save_checkpoint
        simple_loss to_diffusers to_model_range to_uint8 train training_steps
        x0_error
    """,
    "ddpm_core.bound": """
        BitsPerDim BoundEstimate bits_per_dim bits_per_dim_estimate bound_term
        bound_terms decoder_log_likelihood eps_matching eps_weight grid_level
        mean_matching mean_matching_eps mean_matching_x0 simple_loss
        term_probability trajectory_bound variance_mismatch
    """,
    "ddpm_core.checkpoint": """
        Checkpoint FORMAT beside claim find_checkpoint load_checkpoint
        save_checkpoint
    """,
    "ddpm_core.checks": """
        check check_mc check_seen check_zero
    """,
    "ddpm_core.cli": """
        SCHEDULES YES main
    """,
    "ddpm_core.codec": """
        About Array BITS BLOCK FIRST_LEVEL HEADER LEVELS MAGIC OCTAVES Party
        SIGMAS choose coding_times decode encode encode_all fingerprint
        grey_probabilities largest_log_ratio log_ratio put read_header take
    """,
    "ddpm_core.data": """
        CLASSES FLIP LSUN PAPER SUFFIXES Source check_size check_uint8_images
        data_folder find_columns find_source fit is_grey list_images load_images
        open_hub read_image to_model_range to_tensor to_uint8 too_large
    """,
    "ddpm_core.distributed": """
        any_rank gather join local_rank mean mix parallel rank shard share size
    """,
    "ddpm_core.evaluation": """
        MOST_PIXELS SURE Sampling draw evaluate measure_bound measure_pictures
        table write_json write_picture
    """,
    "ddpm_core.exact": """
        EmpiricalData GaussianMixture LinearChain condition exact_bound
        exact_chain exact_rewritten_bound forward_joint gaussian random_chain
        rewritten_bound
    """,
    "ddpm_core.features": """
        Classifier FORMAT FashionClassifier INCEPTION INCEPTION_ADDRESS classify
        fashion_features inception_features
    """,
    "ddpm_core.figures": """
        DATA EXACT Figure FrameSlider MODEL NOISE frame image_grid show
        show_images
    """,
    "ddpm_core.forward": """
        check_images log_q q_posterior q_sample q_step q_trajectory
    """,
    "ddpm_core.gaussian": """
        kl_divergence log_density
    """,
    "ddpm_core.hardware": """
        Choice Hardware PRECISIONS UNKNOWN choose choose_device choose_sampling
        describe
    """,
    "ddpm_core.metrics": """
        Array Memorisation Moments frechet_distance inception_score memorisation
        nearest
    """,
    "ddpm_core.objectives": """
        Objective bound_loss choose_objective mu_error x0_error
    """,
    "ddpm_core.playgrounds": """
        Control HOW LARGEST Live Playground SIDE bend bound_terms forward_noise
        picture sampling someone_is_there
    """,
    "ddpm_core.pretrained": """
        FIXED FREE MARK NAMES OLD_NAMES WEIGHTS WRITTEN from_diffusers
        to_diffusers
    """,
    "ddpm_core.processor": """
        Dropout GroupNorm LARGE PackedConv2d added attend pack remade
    """,
    "ddpm_core.reverse": """
        EpsModel Model PREDICTIONS Reverse VARIANCES as_eps_model ask
        check_randomness device_of draw eps_of_mean eps_of_x0 evaluating
        fresh_generator log_joint predict_x0 reverse_mean reverse_process
        reverse_variance
    """,
    "ddpm_core.sampling": """
        SAMPLERS respace sample sample_steps
    """,
    "ddpm_core.schedule": """
        Schedule at check_t cosine_schedule linear_schedule send
    """,
    "ddpm_core.streams": """
        Batch Look Stream load_stream must_stream order stream_folder
        stream_rows
    """,
    "ddpm_core.training": """
        Log TrainingState WITHOUT_CLASSES checked going_on learning_rate
        read_log restore save shuffled start train training_steps
    """,
    "ddpm_core.unet": """
        Attention Downsample Layer Level ResBlock TimeEmbedding UNet Upsample
        cifar10_unet conv1x1 conv3x3 initialise linear norm swish
    """,
}

# Parts of the machinery, of no use outside it, and where to look now.
GONE = {
    "ddpm_core.checkpoint": ["FORMAT"],  # runtime/store.py
    "ddpm_core.cli": ["SCHEDULES", "YES"],  # how options are read: commands/
    "ddpm_core.training": ["going_on"],  # runtime/loop.py: again
}


@pytest.mark.parametrize("module", NAMES)
def test_every_name_of_0_1_0_can_be_imported(module):
    there = import_module(module)
    lost = [name for name in NAMES[module].split() if not hasattr(there, name)]
    assert lost == GONE.get(module, [])


def test_a_name_that_never_was_is_not_there():
    """What has moved is looked up by its name, and nothing else is."""
    from ddpm_core import bound, objectives

    assert bound.simple_loss is objectives.simple_loss
    with pytest.raises(AttributeError, match="'ddpm_core.bound' has no attribute 'x'"):
        getattr(bound, "x")  # noqa: B009
