"""Pictures and texts are compared by a dual encoder read from its folder; rows without a pair are left alone."""

import io
import json
from collections.abc import Callable

import numpy as np
import pytest

from jobs.data.filters import Rows, image_text


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a CLIP of random weights, made by transformers itself, with a word tokenizer."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("clip")
    vocabulary = {word: place for place, word in enumerate(("<pad>", "<unk>", "<end>", "a", "red", "blue", "square"))}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(single="$A <end>", special_tokens=[("<end>", 2)])
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", unk_token="<unk>", eos_token="<end>"
    ).save_pretrained(folder)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**size, "vocab_size": 7, "max_position_embeddings": 8, "eos_token_id": 2, "pad_token_id": 0}
    torch.manual_seed(0)
    config = CLIPConfig(text_config=text, vision_config={**size, "image_size": 8, "patch_size": 4}, projection_dim=8)
    CLIPModel(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]})
    )
    return str(folder)


def picture(colour: tuple[int, int, int], size: tuple[int, int] = (8, 8)) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, "PNG")
    return stream.getvalue()


def test_the_score_is_the_cosine_that_transformers_gives(clip: str, make_rows: Callable[..., Rows]) -> None:
    import torch
    from transformers import CLIPModel

    red, blue = picture((255, 0, 0)), picture((0, 0, 255))
    rows = make_rows(["x"] * 4, images=[[red], [red, blue], None, [blue]], response=["a red square", "blue", "a", None])
    told = image_text.image_text(rows, image_text.Params(encoder=clip, minimum=-1.0))
    pixels = np.stack([np.full((3, 8, 8), 0.0), np.full((3, 8, 8), 0.0)])
    pixels[0, 0], pixels[1, 2] = 1.0, 1.0
    with torch.inference_mode():
        out = CLIPModel.from_pretrained(clip).eval()(
            input_ids=torch.tensor([[3, 4, 6, 2], [5, 2, 0, 0]]),
            attention_mask=torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]),
            pixel_values=torch.from_numpy(((pixels - 0.5) / 0.25).astype(np.float32)),
        )
    cosine = (out.image_embeds @ out.text_embeds.T).numpy()
    assert told.scores[:2] == pytest.approx([cosine[0, 0], cosine[:, 1].min()], abs=1e-5)
    assert np.isnan(told.scores).tolist() == [False, False, True, True]
    assert told.reasons == [None] * 4
    strict = image_text.image_text(rows, image_text.Params(encoder=clip, minimum=1.0))
    assert strict.reasons == ["image_text_mismatch", "image_text_mismatch", None, None]


def test_pictures_of_any_shape_are_resized_and_cut_to_the_middle(clip: str) -> None:
    encoder = image_text.Clip(clip)
    wide = encoder.pictures([picture((9, 200, 30), (40, 10)), picture((9, 200, 30), (3, 7))])
    assert wide.shape == (2, 8)
    assert np.allclose(wide[0], wide[1], atol=1e-5)
    assert np.linalg.norm(wide, axis=1) == pytest.approx([1, 1], abs=1e-5)
