"""Muon against singular values, and against PyTorch's own."""

import pytest
import torch

from ases.model import EncoderDecoder
from ases.optim import AdamW, Group, Muon, orthogonalise
from ases.settings import ModelConfig, Settings
from ases.training import make_optimizers

SHAPES = [(24, 24), (40, 24), (24, 40), (24, 24), (7, 1)]


def matrices(seed, shapes=SHAPES):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def test_singular_values_come_near_one():
    x = torch.stack(matrices(0, [(24, 40)] * 3))
    x[2] *= 1e-6  # its size does not matter
    u, _, v = torch.linalg.svd(x.double(), full_matrices=False)
    turned = u.mT @ orthogonalise(x).double() @ v.mT  # the directions stay, the values do not
    values = turned.diagonal(dim1=1, dim2=2)
    assert 0.5 < values.min() and values.max() < 1.3
    assert (turned - torch.diag_embed(values)).abs().max() < 1e-3
    assert not orthogonalise(torch.zeros(1, 3, 3)).any()


def trained(make_optimizer, steps):
    """Parameters after updates with given gradients."""
    params = [p.requires_grad_() for p in matrices(1)]
    optimizer = make_optimizer(params)
    for step in range(steps):
        for p, gradient in zip(params, matrices(10 + step)):
            p.grad = gradient
        optimizer.step()
    return params


def test_muons_updates_are_pytorchs():
    """Up to its rounding to bfloat16, which is 2 ** -8, for several steps, decay and all shapes."""
    settings = dict(lr=0.02, momentum=0.9, weight_decay=0.1)
    ours = trained(lambda params: Muon([Group(params, 0.02, 0.1, lr=0.02)], momentum=0.9), 4)
    theirs = trained(lambda params: torch.optim.Muon(params, **settings), 4)
    for a, b, start in zip(ours, theirs, matrices(1)):
        assert (a - b).norm() < 0.02 * (a - start).norm()


def test_adamws_updates_are_pytorchs():
    settings = dict(lr=0.02, betas=(0.9, 0.98), weight_decay=0.1)
    ours = trained(lambda params: AdamW([Group(params, 0.02, 0.1, lr=0.02)]), 50)
    theirs = trained(lambda params: torch.optim.AdamW(params, **settings), 50)
    for a, b, start in zip(ours, theirs, matrices(1)):
        assert (a - b).abs().max() < 1e-6 < (a - start).abs().max()


def test_states_are_saved_and_loaded():
    for kind in (Muon, AdamW):
        ours, again = ([p.requires_grad_() for p in matrices(1)] for _ in range(2))
        one, other = (kind([Group(params, 0.02, 0.0, lr=0.02)]) for params in (ours, again))
        for p, gradient in zip(ours, matrices(3)):
            p.grad = gradient
        one.step()
        other.load_state_dict(one.state_dict())
        for saved, loaded in zip(one.state.values(), other.state.values(), strict=True):
            torch.testing.assert_close(loaded, saved, rtol=0, atol=0)
    with pytest.raises(ValueError, match="exp_avg of parameter 0"):
        AdamW([Group([torch.zeros(2)], 0.1, 0.0)]).load_state_dict(one.state_dict())


def test_a_matrix_without_a_gradient_stays():
    a, b = (p.requires_grad_() for p in matrices(0, [(3, 3)] * 2))
    a.grad = torch.ones(3, 3)
    before = b.detach().clone()
    Muon([Group([a, b], 0.1, 0.0, lr=0.1)]).step()
    assert torch.equal(b, before)


def test_who_trains_what():
    model = EncoderDecoder(ModelConfig(vocab_size=20, num_layers=1, num_decoder_layers=1))
    names = {id(p): name for name, p in model.named_parameters()}

    def groups(settings):
        return [
            [sorted(names[id(p)] for p in group.params) for group in optimizer.groups]
            for optimizer in make_optimizers(model, settings)
        ]

    [[muon], [adamw, vectors]] = groups(Settings(optimizer="muon"))
    outside = ["decoder_bias.table", "embedding", "encoder_bias.table", "head"]
    assert adamw == [f"{name}.weight" for name in outside]
    assert len(muon) == 7 + 11 and all("norm" in name for name in vectors)
    assert sorted(muon + adamw + vectors) == sorted(names.values())

    [[adamw, no_decay]] = groups(Settings(optimizer="adamw"))
    assert (adamw, no_decay) == (sorted(muon + [f"{name}.weight" for name in outside]), vectors)
