"""Two networks against each other: what they learn, and what is refused."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from tlbook.errors import TrainingError
from tlbook.learning.batches import Batches
from tlbook.learning.networks import MLP
from tlbook.methods.adversarial import Discriminator, Generator, diversity, gan_steps


class Flat(nn.Module):
    """A discriminator of vectors: (n, d) to (n,)."""

    def __init__(self, d: int):
        super().__init__()
        self.net = MLP([d, 32, 1])

    def forward(self, x):
        return self.net(x).squeeze(1)


def pixels(n: int = 512, seed: int = 0) -> torch.Tensor:
    """Images of two pixels, around 0.8 and 0.2."""
    rng = np.random.default_rng(seed)
    return torch.tensor(rng.normal((0.8, 0.2), 0.1, (n, 2)), dtype=torch.float)


def pair(seed: int = 0) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(seed)
    return MLP([4, 32, 2]), Flat(2)


def optimizers(*networks: nn.Module, lr: float = 2e-3) -> list[torch.optim.Optimizer]:
    return [torch.optim.Adam(net.parameters(), lr=lr, betas=(0.5, 0.999)) for net in networks]


def run(x: torch.Tensor, epochs: int = 1, seed: int = 0, networks=None, **options):
    networks = networks or pair(seed)
    batches = Batches({"x": x}, batch_size=64, epochs=epochs, seed=seed)
    options = {"latent": 4, "seed": seed} | options
    found = list(gan_steps(*networks, batches, *optimizers(*networks), **options))
    return networks, found


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_distribution_of_two_pixels_is_learned(seed):
    """Two players circle around the solution, so the generator is judged by its mean over time."""
    x, networks = pixels(), pair(seed)
    noise = torch.randn(500, 4, generator=torch.Generator().manual_seed(9))
    assert (networks[0](noise).mean(0) - x.mean(0)).abs().max() > 0.2  # before
    batches = Batches({"x": x}, batch_size=64, epochs=80, seed=seed)
    means, spread = [], []
    for step in gan_steps(*networks, batches, *optimizers(*networks), latent=4, seed=seed):
        if step.index >= len(batches) / 2 and step.index % 10 == 0:
            made = networks[0](noise).detach()
            means.append(made.mean(0))
            spread.append(diversity(made, x))
    assert (torch.stack(means).mean(0) - x.mean(0)).abs().max() < 0.03
    assert 0.25 < np.mean(spread) < 1.5


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_dcgan_learns_the_color_of_images(seed):
    torch.manual_seed(seed)
    color = torch.tensor([0.9, 0.5, 0.1]).view(3, 1, 1)
    x = (color + 0.05 * torch.randn(64, 1, 1, 1)).clamp(0, 1).repeat(1, 1, 8, 8)
    networks = Generator(4, size=8, width=8), Discriminator(size=8, width=8)
    batches, means = Batches({"x": x}, batch_size=32, epochs=60, seed=seed), []
    for step in gan_steps(*networks, batches, *optimizers(*networks, lr=5e-3), seed=seed):
        if step.index >= len(batches) / 2:
            with torch.no_grad():
                means.append(networks[0](torch.randn(50, 4)).mean((0, 2, 3)))
    assert (torch.stack(means).mean(0) - x.mean((0, 2, 3))).abs().max() < 0.06


def test_steps_are_counted_and_seeded():
    (one, _), steps = run(pixels(), epochs=2)
    (again, _), same = run(pixels(), epochs=2)
    _, other = run(pixels(), epochs=2, networks=pair(0), seed=1)
    assert [step.index for step in steps] == list(range(16))
    assert steps == same
    assert steps != other
    assert torch.equal(one[0].weight, again[0].weight)


def test_the_first_losses_are_those_of_the_definition():
    x = pixels(64)
    generator, discriminator = pair()
    batch = next(iter(Batches({"x": x}, batch_size=64, seed=0)))["x"]
    fake = generator(torch.randn(64, 4, generator=torch.Generator().manual_seed(0)))
    real, made = (discriminator(v).sigmoid().detach() for v in (batch, fake))
    _, (first,) = run(x)
    assert first.discriminator_loss == pytest.approx(
        -(real.log().mean() + (1 - made).log().mean()).item(), abs=1e-5
    )
    assert first.real == pytest.approx(real.mean().item(), abs=1e-6)
    assert first.generated == pytest.approx(made.mean().item(), abs=1e-6)
    _, (smooth,) = run(x, smoothing=0.1)
    expected = 0.9 * real.log() + 0.1 * (1 - real).log()
    assert smooth.discriminator_loss == pytest.approx(
        -(expected.mean() + (1 - made).log().mean()).item(), abs=1e-5
    )


def test_the_generator_maximizes_log_d_against_the_discriminator_just_updated():
    """By hand, with plain autograd: both networks after one pair of updates."""
    x = pixels(64)
    (generator, discriminator), (step,) = run(x)
    ours, theirs = pair()
    for_ours, for_theirs = optimizers(ours, theirs)
    batch = next(iter(Batches({"x": x}, batch_size=64, seed=0)))["x"]
    noise = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    real, made = theirs(batch).sigmoid(), theirs(ours(noise).detach()).sigmoid()
    (-real.log().mean() - (1 - made).log().mean()).backward()
    of_theirs = [p.grad.clone() for p in theirs.parameters()]
    for_theirs.step()
    loss = -theirs(ours(noise)).sigmoid().log().mean()
    loss.backward()
    for_ours.step()
    assert step.generator_loss == pytest.approx(loss.item(), abs=1e-5)
    for mine, expected in ((generator, ours), (discriminator, theirs)):
        for parameter, other in zip(mine.parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(parameter, other, atol=1e-5, rtol=1e-4)
    # the generator's update leaves no gradient in the discriminator: it costs time
    for parameter, expected in zip(discriminator.parameters(), of_theirs, strict=True):
        torch.testing.assert_close(parameter.grad, expected, atol=1e-5, rtol=1e-4)


def test_networks_train_after_being_looked_at():
    torch.manual_seed(0)
    networks = Generator(4, size=8, width=4), Discriminator(size=8, width=4)
    batches = Batches({"x": torch.rand(16, 3, 8, 8)}, batch_size=8, epochs=2)
    for _ in gan_steps(*networks, batches, *optimizers(*networks)):
        for network in networks:
            assert network.training
            network.eval()


def test_losses_that_are_not_finite_stop_training():
    x = pixels(128)
    x[100] = math.nan
    networks = pair()
    with pytest.raises(TrainingError, match="discriminator's loss is nan at step"):
        run(x, networks=networks)
    assert all(p.isfinite().all() for network in networks for p in network.parameters())


def test_a_generator_that_went_wrong_is_named():
    networks = pair()

    class Spoiled(Flat):
        """Not finite where a gradient must go through, as for the generator."""

        def forward(self, x):
            return super().forward(x) * (math.inf if x.requires_grad else 1)

    before = [p.clone() for p in networks[0].parameters()]
    with pytest.raises(TrainingError, match=r"generator's loss is .* at step 0"):
        run(pixels(), networks=(networks[0], Spoiled(2)))
    assert all(map(torch.equal, networks[0].parameters(), before))


def test_impossible_games_are_refused():
    with pytest.raises(ValueError, match=r"smoothing=0\.5"):
        run(pixels(), smoothing=0.5)
    with pytest.raises(ValueError, match=r"makes \(64, 2\), but the data is \(64, 3\)"):
        run(torch.rand(64, 3))


def test_diversity_is_a_ratio_of_distances():
    x = torch.tensor([[0.0], [1.0], [3.0]])  # distances 1, 2, 3
    assert diversity(torch.tensor([[5.0], [6.0]]), x) == pytest.approx(0.5)
    assert diversity(x, x) == pytest.approx(1)
    images = torch.rand(300, 3, 8, 8)
    assert diversity(images[:150], images[150:]) == pytest.approx(1, abs=0.05)
    assert diversity(images[:1].repeat(20, 1, 1, 1), images) < 1e-3  # collapsed
    for generated, data in ((x[:1], x), (x, torch.rand(3, 2))):
        with pytest.raises(ValueError, match="two or more examples of one shape"):
            diversity(generated, data)
    with pytest.raises(ValueError, match="all examples of the data are alike"):
        diversity(x, torch.ones(3, 1))
