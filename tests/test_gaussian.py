import torch
from laboratory import randn
from torch.distributions import Normal, kl_divergence
from torch.testing import assert_close

from ddpm_core import gaussian


def test_density_and_divergence_agree_with_torch_distributions():
    x, m, n = randn(3, 50)
    v, w = randn(2, 50, seed=1).exp()
    assert_close(
        gaussian.log_density(x, m, v),
        Normal(m, v.sqrt()).log_prob(x),
        rtol=1e-12,
        atol=1e-12,
    )
    assert_close(
        gaussian.kl_divergence(m, v, n, w),
        kl_divergence(Normal(m, v.sqrt()), Normal(n, w.sqrt())),
        rtol=1e-11,
        atol=1e-12,
    )
    assert (gaussian.kl_divergence(m, v, n, w) > 0).all()
    assert_close(
        gaussian.kl_divergence(m, v, m, v), torch.zeros_like(m), rtol=0, atol=0
    )
