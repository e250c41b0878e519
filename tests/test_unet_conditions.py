"""What a UNet may be told beside x_t and t: words, one vector for them, a picture."""

import pytest
import torch

from ddpm_core import UNet


def network(**more):
    torch.manual_seed(0)
    unet = UNet(8, 3, 16, (1, 2), 1, (8,), groups=8, **more).eval()
    for p in unet.parameters():
        p.data += torch.randn_like(p) / 20
    return unet


@pytest.fixture
def words():
    g = torch.Generator().manual_seed(1)
    context = torch.randn(2, 5, 24, generator=g)
    mask = torch.tensor([[True] * 3 + [False] * 2, [True] * 5])
    return context, mask


def pictures():
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))


def test_what_is_masked_changes_nothing_and_what_is_not_does(words):
    unet, (context, mask) = network(context=24), words
    x, other = pictures(), context.clone()
    other[0, 3:] += 9
    answer = unet(x, 5, context=context, mask=mask)
    torch.testing.assert_close(unet(x, 5, context=other, mask=mask), answer)
    other[0, 2] += 1
    assert (unet(x, 5, context=other, mask=mask)[0] - answer[0]).abs().max() > 1e-4


def test_no_words_are_a_row_without_any_and_one_learned_token_and_vector(words):
    unet, (context, mask) = network(context=24, pooled=8), words
    x, pooled = pictures(), torch.ones(2, 8)
    none = unet(x, 5)
    masked = mask.clone()
    masked[1] = False
    answer = unet(x, 5, context=context, mask=masked, pooled=pooled)
    torch.testing.assert_close(answer[1], none[1])
    assert (answer[0] - none[0]).abs().max() > 1e-3
    before = none.clone()
    unet.no_words.data += 1
    assert (unet(x, 5) - before).abs().max() > 1e-4


def test_the_order_of_the_tokens_does_not_matter_to_attention(words):
    unet, (context, _) = network(context=24), words
    x = pictures()
    turned = unet(x, 5, context=context.flip(1))
    torch.testing.assert_close(
        turned, unet(x, 5, context=context), atol=1e-5, rtol=1e-5
    )


def test_a_condition_starts_as_if_it_were_not_there():
    torch.manual_seed(0)
    unet = UNet(8, 3, 16, (1, 2), 1, (8,), groups=8, condition=2).eval()
    unet.conv_out.weight.data += torch.randn_like(unet.conv_out.weight)
    x, beside = pictures(), torch.randn(2, 2, 8, 8)
    torch.testing.assert_close(
        unet(x, 5, condition=beside), unet(x, 5, condition=0 * beside), atol=0, rtol=0
    )
    unet.conv_in.weight.data[:, 3:] += 1
    assert (unet(x, 5, condition=beside) - unet(x, 5, condition=0 * beside)).any()


def test_between_whole_times_the_answer_lies_between():
    unet, x = network(), pictures()
    torch.testing.assert_close(unet(x, 7.0), unet(x, 7), atol=0, rtol=0)
    half = unet(x, torch.tensor([7.5, 7.5]))
    middle = (unet(x, 7) + unet(x, 8)) / 2
    assert (half - middle).abs().max() < (unet(x, 7) - unet(x, 8)).abs().max() / 2
    with pytest.raises(ValueError, match="t runs from 0.5"):
        unet(x, 0.5)


@pytest.mark.parametrize(
    "more, given, says",
    [
        ({}, dict(context=torch.ones(2, 3, 4)), "build it with UNet\\(context="),
        ({}, dict(condition=torch.ones(2, 3, 8, 8)), "UNet\\(condition="),
        ({"condition": 1}, {}, "was given none"),
        (
            {"condition": 1},
            dict(condition=torch.ones(2, 1, 4, 4)),
            "wanted \\(2, 1, 8, 8\\)",
        ),
        ({"context": 4}, dict(context=torch.ones(2, 3, 5)), "wanted \\(2, K, 4\\)"),
        ({"pooled": 4}, dict(pooled=torch.ones(1, 4)), "wanted \\(2, 4\\)"),
        (
            {"context": 4},
            dict(context=torch.ones(2, 3, 4), mask=torch.ones(2, 3)),
            "wanted bool",
        ),
        ({"context": 4}, dict(mask=torch.ones(2, 3, dtype=torch.bool)), "wanted bool"),
    ],
)
def test_conditions_that_do_not_fit(more, given, says):
    with pytest.raises(ValueError, match=says):
        network(**more)(pictures(), 5, **given)


def test_tokens_that_are_numbers_of_words():
    with pytest.raises(TypeError, match="wanted floats"):
        network(context=4)(pictures(), 5, context=torch.ones(2, 3, 4).long())
