"""What is left out of an exported encoder changes none of its answers."""

from pathlib import Path

import onnx
import pytest
import torch
from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel

from serving.models import encoder, one_segment

SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}


@pytest.fixture
def bert() -> BertModel:
    """Two kinds of segment, and vectors that are far from zero."""
    torch.manual_seed(0)
    model = BertModel(BertConfig(vocab_size=50, type_vocab_size=2, max_position_embeddings=40, **SIZES)).eval()
    torch.nn.init.normal_(model.embeddings.token_type_embeddings.weight)
    return model


@torch.no_grad()
def test_states_are_those_of_transformers_and_the_encoder_itself_is_left_as_it_was(bert: BertModel) -> None:
    before = {name: value.clone() for name, value in bert.state_dict().items()}
    own = one_segment.traceable(bert)
    for shape in ((1, 1), (3, 7), (2, 40)):
        ids_BS = torch.randint(50, shape, generator=torch.Generator().manual_seed(1))
        wanted, got = (model(input_ids=ids_BS).last_hidden_state for model in (bert, own))
        assert torch.allclose(wanted, got, atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in bert.state_dict().items())


def test_a_graph_has_none_of_the_nodes_that_find_out_segments(bert: BertModel, tmp_path: Path) -> None:
    assert encoder.export(encoder.TextClassifier(bert, 5), tmp_path) < 1e-5
    made = {node.op_type for node in onnx.load(str(tmp_path / "model.onnx")).graph.node}
    assert not made & {"Where", "Expand", "GatherElements", "Equal"}


def test_another_encoders_embeddings_are_traced_as_they_are() -> None:
    config = DistilBertConfig(vocab_size=50, dim=32, n_layers=1, n_heads=2, hidden_dim=24)
    assert not isinstance(one_segment.traceable(DistilBertModel(config)).embeddings, one_segment.OneSegment)
