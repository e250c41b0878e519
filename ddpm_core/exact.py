"""Laboratories: worlds in which every quantity of the paper has a formula, so that it
can be checked without training.

    GaussianMixture   data in D dimensions (Lab M; with one component, the data of Lab
                      G): densities, scores and the optimal noise predictor at every t
    LinearChain       a reverse chain with linear means (Lab G): its joint, marginals,
                      likelihood and bound in closed form
    EmpiricalData     finitely many images (Lab F): the ideal denoiser, a softmax over
                      the training set
    rewritten_bound   Eq. (16) for chains on finitely many states; exact_rewritten_bound
                      is the same in Lab G

All of it in float64. A mixture or a data set turns into a model (x_t, t) -> eps_hat
with `.model(schedule)`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.distributions import MultivariateNormal

from .schedule import Schedule, alpha_bar_at


@dataclass(frozen=True)
class GaussianMixture:
    """q(x_0) = sum_k weight_k N(mean_k, cov_k).       weights (K,)      means (K, D)
    covs (K, D, D)

    By Eq. (4), q(x_t) is the mixture of N(sqrt(alpha_bar_t) mean_k, alpha_bar_t cov_k +
    (1 - alpha_bar_t) I); t = 0 is the data. t may lie between whole numbers, see
    `alpha_bar_at`.
    """

    weights: Tensor
    means: Tensor
    covs: Tensor

    def sample(self, n: int, generator: Generator) -> Tensor:
        """n points x_0, (n, D)."""
        k = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        z = torch.randn(
            n, self.means.shape[1], 1, generator=generator, dtype=torch.float64
        )
        spread: Tensor = torch.linalg.cholesky(self.covs)
        return self.means[k] + (spread[k] @ z)[..., 0]

    def _components(self, schedule: Schedule, t: float) -> MultivariateNormal:
        alpha_bar = alpha_bar_at(schedule, t)
        noise = (1 - alpha_bar) * torch.eye(self.means.shape[1], dtype=torch.float64)
        return MultivariateNormal(
            alpha_bar.sqrt() * self.means, alpha_bar * self.covs + noise
        )

    def log_density(self, schedule: Schedule, x_t: Tensor, t: float) -> Tensor:
        """log q(x_t), (B, D) -> (B,), nats."""
        return torch.logsumexp(
            self.weights.log() + self._components(schedule, t).log_prob(x_t[:, None]),
            dim=1,
        )

    def score(self, schedule: Schedule, x_t: Tensor, t: float) -> Tensor:
        """grad log q(x_t), (B, D) -> (B, D): the components' scores, weighed by the
        probability that x_t came from each.
        """
        parts = self._components(schedule, t)
        belongs = torch.softmax(
            self.weights.log() + parts.log_prob(x_t[:, None]), dim=1
        )  # (B, K)
        scores: Tensor = torch.linalg.solve(
            parts.covariance_matrix, (parts.mean - x_t[:, None])[..., None]
        )[..., 0]  # (B, K, D)
        return (belongs[..., None] * scores).sum(1)

    def posterior_mean(self, schedule: Schedule, x_t: Tensor, t: float) -> Tensor:
        """E[x_0 | x_t] = (x_t + (1 - alpha_bar_t) score) / sqrt(alpha_bar_t), Tweedie's
        formula. (B, D) -> (B, D)
        """
        alpha_bar = alpha_bar_at(schedule, t)
        return (x_t + (1 - alpha_bar) * self.score(schedule, x_t, t)) / alpha_bar.sqrt()

    def eps(self, schedule: Schedule, x_t: Tensor, t: float) -> Tensor:
        """E[eps | x_t] = -sqrt(1 - alpha_bar_t) score: the noise predictor that
        minimises Eq. (14). (B, D) -> (B, D)
        """
        return -(1 - alpha_bar_at(schedule, t)).sqrt() * self.score(schedule, x_t, t)

    def model(self, schedule: Schedule) -> Callable[[Tensor, float | Tensor], Tensor]:
        """The optimal model (x_t, t) -> eps_hat for `sample`, `simple_loss` and the
        bound; one t for the whole batch.
        """
        return lambda x_t, t: self.eps(schedule, x_t.double(), _single(t)).to(x_t.dtype)

    def condition(
        self, A: Tensor, y: Tensor, var: float | Tensor = 0.0
    ) -> "GaussianMixture":
        """q(x_0 | y) for y = A x_0 + n, n ~ N(0, var I): again a mixture, so the truth
        for guidance and inverse problems.

        A (M, D)      y (M,)      var  a number >= 0, or a covariance (M, M)
        With S_k = A cov_k A^T + var and K_k = cov_k A^T S_k^{-1}: weights ~ weight_k
        N(y; A mean_k, S_k), means mean_k + K_k (y - A mean_k), covs cov_k - K_k A
        cov_k.
        Raises ValueError for shapes that do not fit, a negative var, and S_k that
        cannot be inverted.
        """
        D = self.means.shape[1]
        A, y = (torch.as_tensor(x, dtype=torch.float64) for x in (A, y))
        if A.ndim != 2 or A.shape[1] != D or y.shape != A.shape[:1]:
            raise ValueError(
                f"A has shape {tuple(A.shape)} and y {tuple(y.shape)}; wanted (M, {D})"
                " and (M,), one row of A for each entry of y"
            )
        noise = torch.as_tensor(var, dtype=torch.float64)
        if noise.ndim == 0:
            noise = noise * torch.eye(len(y), dtype=torch.float64)
        if noise.shape != (len(y), len(y)) or bool((noise.diagonal() < 0).any()):
            raise ValueError(
                f"var = {var}; wanted a number >= 0 or a covariance {(len(y), len(y))}"
            )
        S = A @ self.covs @ A.T + noise
        if bool((torch.linalg.cholesky_ex(S).info > 0).any()):
            raise ValueError(
                "A cov A^T + var cannot be inverted; wanted rows of A that differ, or"
                " var > 0"
            )
        gain = torch.linalg.solve(S, A @ self.covs).mT  # (K, D, M)
        seen = self.means @ A.T  # (K, M)
        log_weights = self.weights.log() + MultivariateNormal(seen, S).log_prob(y)
        covs = self.covs - gain @ A @ self.covs
        means = self.means + (gain @ (y - seen)[..., None])[..., 0]
        return GaussianMixture(
            torch.softmax(log_weights, 0), means, (covs + covs.mT) / 2
        )

    def posterior_cov(self, schedule: Schedule, x_t: Tensor, t: float) -> Tensor:
        """Cov[x_0 | x_t], (B, D) -> (B, D, D): within the components and between them,
        no derivative of the score is used.

        It equals (1 - alpha_bar_t) / sqrt(alpha_bar_t) dE[x_0 | x_t] / dx_t, the second
        order of Tweedie's formula.
        """
        alpha_bar, D = alpha_bar_at(schedule, t), self.means.shape[1]
        A = alpha_bar.sqrt() * torch.eye(D, dtype=torch.float64)
        found = []
        for x in x_t.double():
            given = self.condition(A, x, 1 - alpha_bar)
            off = given.means - given.weights @ given.means
            spread = given.covs + off[:, :, None] * off[:, None, :]
            found.append((given.weights[:, None, None] * spread).sum(0))
        return torch.stack(found)


def gaussian(mean: Tensor, cov: Tensor) -> GaussianMixture:
    """Lab G's data: N(mean, cov), mean (D,), cov (D, D)."""
    return GaussianMixture(
        torch.ones(1, dtype=torch.float64), mean[None].double(), cov[None].double()
    )


@dataclass(frozen=True)
class LinearChain:
    """p_theta(x_{t-1} | x_t) = N(A_t x_t + b_t, var_t I), t = 1..T, from p(x_T) = N(0,
    I).

    A (T + 1, D, D)      b (T + 1, D)      var (T + 1,), float64; entry 0 is not used
    Called as chain(x_t, t) it is a *reverse*: (B, D) -> mean (B, D), var.
    """

    A: Tensor
    b: Tensor
    var: Tensor

    @property
    def T(self) -> int:
        return len(self.var) - 1

    def __call__(self, x_t: Tensor, t: int) -> tuple[Tensor, Tensor]:
        return x_t @ self.A[t].T + self.b[t], self.var[t]

    def joint(self) -> tuple[Tensor, Tensor]:
        """Mean ((T + 1) D,) and covariance of (x_0, x_1, ..., x_T) under p_theta, Eq.
        (1).
        """
        D = self.b.shape[1]
        eye = torch.eye(D, dtype=torch.float64)
        # every x_t as a linear function of the independent noises z_0..z_T, with x_T =
        # z_T and x_{t-1} = A_t x_t + b_t + sqrt(var_t) z_{t-1}
        mean, linear = (
            torch.zeros(D, dtype=torch.float64),
            torch.zeros(D, (self.T + 1) * D, dtype=torch.float64),
        )
        linear[:, -D:] = eye
        means, rows = [mean], [linear]
        for t in range(self.T, 0, -1):
            mean, linear = self.A[t] @ mean + self.b[t], self.A[t] @ linear
            linear[:, (t - 1) * D : t * D] = self.var[t].sqrt() * eye
            means.insert(0, mean)
            rows.insert(0, linear)
        L = torch.cat(rows)
        return torch.cat(means), L @ L.T

    def marginal(self, t: int = 0) -> MultivariateNormal:
        """p_theta(x_t)."""
        mean, cov = self.joint()
        D = self.b.shape[1]
        part = slice(t * D, (t + 1) * D)
        return MultivariateNormal(mean[part], cov[part, part])

    def posterior(self, x0: Tensor) -> MultivariateNormal:
        """p_theta(x_{1:T} | x_0) for one x_0 (D,), as a Gaussian over the T D numbers
        (x_1, ..., x_T).
        """
        return condition(*self.joint(), x0)

    def sample(self, n: int, generator: Generator) -> Tensor:
        """Ancestral sampling: n trajectories (T + 1, n, D), x_0 first."""
        shape = (n, self.b.shape[1])
        x = [torch.randn(shape, generator=generator, dtype=torch.float64)]
        for t in range(self.T, 0, -1):
            mean, var = self(x[0], t)
            x.insert(
                0,
                mean
                + var.sqrt()
                * torch.randn(shape, generator=generator, dtype=torch.float64),
            )
        return torch.stack(x)


def random_chain(T: int, D: int, generator: Generator) -> LinearChain:
    """A chain with random A, b and var: *some* theta, not the best one."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    A = 0.8 * torch.eye(D, dtype=torch.float64) + 0.2 * normal(T + 1, D, D)
    return LinearChain(A, 0.3 * normal(T + 1, D), (0.3 * normal(T + 1)).exp() * 0.3)


def exact_chain(schedule: Schedule, mean: float, std: float) -> LinearChain:
    """The chain that *is* the reverse of q for x_0 ~ N(mean, std^2) in one dimension:
    p_theta(x_{t-1} | x_t) = q(x_{t-1} | x_t).

    Bayes for two Gaussians: with v_t = alpha_bar_t std^2 + 1 - alpha_bar_t the variance
    of x_t, A_t = sqrt(alpha_t) v_{t-1} / v_t, var_t = beta_t v_{t-1} / v_t. It starts
    at p(x_T) = N(0, 1), so it is exact up to q(x_T) - p(x_T).
    """
    v = schedule.alpha_bar * std**2 + 1 - schedule.alpha_bar
    before = torch.cat([v[:1], v[:-1]])
    A = schedule.alpha.sqrt() * before / v
    m = schedule.alpha_bar.sqrt() * mean
    b = torch.cat([m[:1], m[:-1]]) - A * m
    return LinearChain(A[:, None, None], b[:, None], schedule.beta * before / v)


def forward_joint(schedule: Schedule, x0: Tensor) -> MultivariateNormal:
    """q(x_{1:T} | x_0) for one x_0 (D,), as a Gaussian over the T D numbers (x_1, ...,
    x_T). Eq. (2)
    """
    alpha_bar, D = schedule.alpha_bar[1:], len(x0)
    mean = torch.outer(alpha_bar.sqrt(), x0.double()).flatten()
    # Cov(x_s, x_t) = sqrt(alpha_bar_t / alpha_bar_s) (1 - alpha_bar_s) for s <= t: only
    # the noise up to s is shared
    early, late = (
        torch.maximum(alpha_bar[:, None], alpha_bar[None]),
        torch.minimum(alpha_bar[:, None], alpha_bar[None]),
    )
    cov = (late / early).sqrt() * (1 - early)
    return MultivariateNormal(mean, torch.kron(cov, torch.eye(D, dtype=torch.float64)))


def condition(mean: Tensor, cov: Tensor, first: Tensor) -> MultivariateNormal:
    """The law of the other entries of a Gaussian vector, given that its first
    len(first) entries are `first`.
    """
    D = len(first)
    gain = torch.linalg.solve(cov[:D, :D], cov[:D, D:]).T
    rest = cov[D:, D:] - gain @ cov[:D, D:]
    return MultivariateNormal(mean[D:] + gain @ (first - mean[:D]), (rest + rest.T) / 2)


def exact_bound(chain: LinearChain, schedule: Schedule, x0: Tensor) -> Tensor:
    """L(x_0) = E_q[log q(x_{1:T} | x_0) - log p_theta(x_{0:T})], Eq. (3), in closed
    form for one x_0 (D,); nats.

    Minus the entropy of q, minus the expectation of a quadratic log density: no KL is
    used, so that comparing L + log p_theta(x_0) with KL(q(x_{1:T} | x_0) ||
    p_theta(x_{1:T} | x_0)) proves something.
    """
    q, (mean, cov) = forward_joint(schedule, x0), chain.joint()
    offset = torch.cat([x0.double(), q.mean]) - mean
    spread = torch.zeros_like(cov)
    spread[len(x0) :, len(x0) :] = q.covariance_matrix
    precision = torch.linalg.inv(cov)
    expected = (
        -(
            offset @ precision @ offset
            + (precision * spread).sum()
            + torch.logdet(2 * torch.pi * cov)
        )
        / 2
    )
    bound: Tensor = -q.entropy() - expected
    return bound


def exact_rewritten_bound(
    chain: LinearChain, schedule: Schedule, data: GaussianMixture
) -> Tensor:
    """Eq. (16) in Lab G: H(x_0), the E_q KL(q(x_{t-1} | x_t) || p_theta(x_{t-1} | x_t))
    for t = 1..T, KL(q(x_T) || p(x_T)).

    data  a Gaussian, as `gaussian` makes it: one component in the D dimensions of the
          chain
    -> (T + 2,), nats, in this order; the sum is L of Eq. (3), averaged over x_0. H(x_0)
    is a differential entropy here.
    """
    D = data.means.shape[1]
    eye, alpha_bar = torch.eye(D, dtype=torch.float64), schedule.alpha_bar
    mean = alpha_bar.sqrt()[:, None] * data.means[0]  # of q(x_t), and its covariance
    cov = alpha_bar[:, None, None] * data.covs[0] + (1 - alpha_bar)[:, None, None] * eye
    terms = [torch.logdet(2 * math.pi * math.e * cov[0]) / 2]
    for t in range(1, chain.T + 1):
        gain = (
            schedule.alpha[t].sqrt() * torch.linalg.solve(cov[t], cov[t - 1]).T
        )  # q(x_{t-1} | x_t) has mean m_{t-1} + gain (x_t - m_t)
        rest = cov[t - 1] - gain @ cov[t] @ gain.T  # and this covariance
        miss, tilt = mean[t - 1] - chain.A[t] @ mean[t] - chain.b[t], gain - chain.A[t]
        squares = miss @ miss + (tilt @ cov[t] @ tilt.T + rest).trace()
        terms.append(
            (squares / chain.var[t] - D + D * chain.var[t].log() - torch.logdet(rest))
            / 2
        )
    terms.append(
        (mean[-1] @ mean[-1] + cov[-1].trace() - D - torch.logdet(cov[-1])) / 2
    )
    return torch.stack(terms)


def rewritten_bound(
    q0: Tensor, forward: Tensor, p_T: Tensor, reverse: Tensor
) -> Tensor:
    """Eq. (16): L = KL(q(x_T) || p(x_T)) + E_q sum_{t>=1} KL(q(x_{t-1} | x_t) ||
    p_theta(x_{t-1} | x_t)) + H(x_0), for S states.

    q0       (S,), the data
    forward  (T + 1, S, S), forward[t][i, j] = q(x_t = j | x_{t-1} = i)
    p_T      (S,), where p_theta begins
    reverse  (T + 1, S, S), reverse[t][j, i] = p_theta(x_{t-1} = i | x_t = j)
    All float64; entry 0 of forward and reverse is not used; a row of a state that is
    never visited may be anything.
    -> (T + 2,), nats: H(x_0), the E_q KL for t = 1..T, KL(q(x_T) || p(x_T)); the sum is
    L of Eq. (3), averaged over x_0
    """
    terms, q = [torch.special.entr(q0).sum()], q0
    for t in range(1, len(forward)):
        joint = (q[:, None] * forward[t]).T  # q(x_t, x_{t-1}), rows x_t
        q = joint.sum(1)
        backward = (
            joint / torch.where(q > 0, q, 1.0)[:, None]
        )  # q(x_{t-1} | x_t), by Bayes
        terms.append(
            (torch.xlogy(joint, backward) - torch.xlogy(joint, reverse[t])).sum()
        )
    terms.append((torch.xlogy(q, q) - torch.xlogy(q, p_T)).sum())
    return torch.stack(terms)


@dataclass(frozen=True)
class EmpiricalData:
    """q(x_0) = the images given, each with probability 1/N.

    images  (N, ...) float in [-1, 1]
    """

    images: Tensor

    def belongs(self, schedule: Schedule, x_t: Tensor, t: int) -> Tensor:
        """q(x_0 = image n | x_t), (B, ...) -> (B, N): a softmax of -|| x_t -
        sqrt(alpha_bar_t) x_n ||^2 / (2 (1 - alpha_bar_t)).
        """
        alpha_bar = schedule.alpha_bar[t]
        x, images = x_t.flatten(1).double(), self.images.flatten(1).double()
        # the square is expanded so that no (B, N, D) tensor is made; x_t . x_t is the
        # same for all n
        distance = (
            alpha_bar * images.square().sum(1) - 2 * alpha_bar.sqrt() * x @ images.T
        )
        return torch.softmax(-distance / (2 * (1 - alpha_bar)), dim=1)

    def posterior_mean(self, schedule: Schedule, x_t: Tensor, t: int) -> Tensor:
        """E[x_0 | x_t], the ideal denoiser of this data set. Like x_t."""
        mean = self.belongs(schedule, x_t, t) @ self.images.flatten(1).double()
        return mean.reshape(x_t.shape).to(x_t.dtype)

    def eps(self, schedule: Schedule, x_t: Tensor, t: int) -> Tensor:
        """E[eps | x_t], the noise predictor that minimises Eq. (14) on this data set.
        Like x_t.
        """
        alpha_bar = schedule.alpha_bar[t]
        return (
            (
                x_t.double()
                - alpha_bar.sqrt() * self.posterior_mean(schedule, x_t.double(), t)
            )
            / (1 - alpha_bar).sqrt()
        ).to(x_t.dtype)

    def model(self, schedule: Schedule) -> Callable[[Tensor, int | Tensor], Tensor]:
        """The optimal model (x_t, t) -> eps_hat; one t for the whole batch. Its samples
        are training images: it has memorised them.
        """
        return lambda x_t, t: self.eps(schedule, x_t, int(_single(t)))


def _single(t: float | Tensor) -> int | float:
    """The one t of a batch: an int from whole numbers, a float where t is between them."""
    if isinstance(t, Tensor):
        if t.numel() > 1 and not (t == t.flatten()[0]).all():
            raise ValueError(
                "an exact model answers for one t at a time; wanted the same t for the"
                " whole batch"
            )
        first = t.flatten()[0]
        return float(first) if t.is_floating_point() else int(first)
    return t
