"""Structure of the packed SASRec; its numbers are compared in tests/training/test_exactness.py."""

from __future__ import annotations

import pytest
import torch

from fairrec_pipeline.models.packing import buckets_of, rows_of_table
from fairrec_pipeline.models.sasrec import SASRec, lookup


def small_model() -> SASRec:
    torch.manual_seed(0)
    return SASRec(20, dim=8, feed_forward=8, blocks=2, heads=2, dropout=0.2, max_length=6, init_std=0.02).double()


def states(model: SASRec, tokens: torch.Tensor) -> torch.Tensor:
    positions = torch.arange(len(tokens) - 1, -1, -1)
    return model(tokens, positions, buckets_of(torch.tensor([len(tokens)]), torch.device("cpu")))


def test_a_state_depends_on_earlier_tokens_only() -> None:
    model = small_model().eval()
    tokens = torch.tensor([model.n_items, 3, 4, 5])
    changed = tokens.clone()
    changed[2] = 9
    before, after = states(model, tokens), states(model, changed)
    torch.testing.assert_close(before[:2], after[:2], rtol=0, atol=0)
    assert not torch.allclose(before[2:], after[2:])


def test_initialisation_is_that_of_the_torch_layers() -> None:
    """Embeddings N(0, init_std); xavier-uniform qkv as torch.nn.MultiheadAttention has it; its biases 0."""
    model = SASRec(5000, dim=32, feed_forward=8, blocks=1, heads=1, dropout=0.2, max_length=50, init_std=0.02)
    for table in (model.item_embedding.weight, model.output_table):
        assert abs(float(table.detach().std()) - 0.02) < 2e-4
    (block,) = model.blocks
    bound = (6 / (32 + 3 * 32)) ** 0.5
    assert 0.98 * bound < float(block.qkv.weight.detach().abs().max()) <= bound
    assert not block.qkv.bias.any()
    assert not block.attention_out.bias.any()


def test_tied_embeddings_are_one_table() -> None:
    """The scores use the rows that the input multiplies with sqrt(dim); the start token is never scored."""
    backbone = {"dim": 16, "feed_forward": 8, "blocks": 1, "heads": 1, "dropout": 0.0, "max_length": 6, "init_std": 0.5}
    model = SASRec(20, **backbone, tied_embeddings=True)  # type: ignore[arg-type]
    assert not [name for name, _ in model.named_parameters() if name.startswith("output")]
    assert model.output_table.shape == (20, 16)
    assert model.output_table.data_ptr() == model.item_embedding.weight.data_ptr()
    plain = SASRec(20, **backbone)  # type: ignore[arg-type]
    plain.load_state_dict(model.state_dict(), strict=False)
    with torch.no_grad():
        plain.item_embedding.weight *= 4  # sqrt(16)
    tokens = torch.tensor([20, 3, 4])
    torch.testing.assert_close(states(model, tokens), states(plain, tokens))


def test_dropout_only_in_training() -> None:
    model = small_model()
    tokens = torch.tensor([model.n_items, 1, 2])
    assert not torch.equal(states(model.train(), tokens), states(model, tokens))
    assert torch.equal(states(model.eval(), tokens), states(model, tokens))
    assert model.output_weight() is model.output_table


@pytest.mark.parametrize(("blocks", "tied"), [(1, False), (2, False), (1, True)])
def test_newest_states_are_those_of_the_whole_pass(blocks: int, tied: bool) -> None:
    torch.manual_seed(1)
    backbone = {"dim": 8, "feed_forward": 8, "blocks": blocks, "heads": 2, "dropout": 0.2, "max_length": 40}
    model = SASRec(20, **backbone, init_std=0.5, tied_embeddings=tied)  # type: ignore[arg-type]
    model = model.double().eval()
    lengths = torch.tensor([33, 30, 9, 8, 3, 1, 1])  # three buckets, two of them padded
    tokens = torch.randint(0, 21, (int(lengths.sum()),))
    ends = torch.cumsum(lengths, 0) - 1
    positions = torch.repeat_interleave(ends, lengths) - torch.arange(len(tokens))
    arguments = (tokens, positions, buckets_of(lengths, torch.device("cpu")))
    torch.testing.assert_close(model.newest_states(*arguments, ends), model(*arguments)[ends], rtol=1e-12, atol=1e-12)


def test_rows_of_a_table_have_the_gradients_of_an_embedding() -> None:
    """In float64: what is looked up several times gets the sum, what is not gets 0."""
    torch.manual_seed(0)
    indices, upstream = torch.tensor([4, 0, 4, 2, 4, 0]), torch.randn(6, 3, dtype=torch.float64)
    found = []
    for rows in (rows_of_table, lambda table, at: torch.nn.functional.embedding(at, table)):
        table = torch.arange(18, dtype=torch.float64).view(6, 3).requires_grad_()
        looked_up = rows(table, indices)
        looked_up.backward(upstream)
        found.append((looked_up.detach(), table.grad))
    torch.testing.assert_close(*found, rtol=1e-15, atol=1e-15)
    meta = torch.empty(6, 3, device="meta", requires_grad=True)
    assert lookup(meta, indices.to("meta")).grad_fn.name() == "_RowsBackward"
    assert lookup(table, indices).grad_fn.name() == "EmbeddingBackward0"
