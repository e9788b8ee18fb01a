"""Networks of torchvision, timm and transformers: prune, compress, fold, profile, save, load."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import sparseq
from sparseq.pruning import prune

# small networks of as many kinds of layers as possible, on the smallest images that they take
TORCHVISION = [
    *("densenet121", "efficientnet_b0", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small"),
    *("regnet_y_400mf", "resnet18", "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "vit"),
]
TIMM = [
    *("resnet10t", "repvgg_a0", "ghostnet_050", "convnext_atto", "hardcorenas_a", "levit_128s"),
    *("efficientnet_lite0", "tf_efficientnetv2_b0", "edgenext_xx_small", "vit_tiny_patch16_224"),
    "mixer_s32_224",
]
SIZES = {"edgenext_xx_small": 64, "vit_tiny_patch16_224": 224, "mixer_s32_224": 224}
SIZES |= {"levit_128s": 224}  # of other images than 32 x 32
LANGUAGE = ["bert", "gpt2", "llama", "t5"]


def randomized(model: nn.Module) -> nn.Module:
    """In evaluation mode, with running statistics other than 0 and 1."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


def from_torchvision(name: str) -> nn.Module:
    models = pytest.importorskip("torchvision").models
    if name == "vit":
        return models.VisionTransformer(32, 8, 3, 4, 64, 128, num_classes=10)
    return models.get_model(name, weights=None)


def from_timm(name: str) -> nn.Module:
    return pytest.importorskip("timm").create_model(name, pretrained=False)


def from_transformers(name: str) -> nn.Module:
    library = pytest.importorskip("transformers")
    small = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}
    small |= {"intermediate_size": 64, "vocab_size": 50}
    if name == "bert":
        return library.BertModel(library.BertConfig(**small))
    if name == "llama":
        return library.LlamaForCausalLM(library.LlamaConfig(**small))
    if name == "t5":
        sizes = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}
        return library.T5ForConditionalGeneration(library.T5Config(**sizes, vocab_size=50))
    sizes = {"n_embd": 32, "n_head": 2, "n_layer": 2, "n_positions": 32, "vocab_size": 50}
    return library.GPT2LMHeadModel(
        library.GPT2Config(**sizes, bos_token_id=0, eos_token_id=1, use_cache=False)
    )


def first_output(model: nn.Module, inputs) -> torch.Tensor:
    with torch.no_grad():
        y = model(**inputs) if isinstance(inputs, dict) else model(inputs)
    return y if isinstance(y, torch.Tensor) else y[0]


def check(make, inputs, folder, layers):
    """Every stage gives the masked dense network's outputs; the loaded file bit for bit."""
    torch.manual_seed(0)
    model = randomized(make())
    with warnings.catch_warnings():
        # what is left out is named, in words that are tested elsewhere
        warnings.filterwarnings("ignore", r"(prune|compress): ")
        mask = prune(model, density=0.1, scope="layerwise")
        small = sparseq.compress(mask.apply_(model), mask, policy="sparse")
    expected = first_output(model, inputs)
    bound = {"rtol": 1e-3, "atol": 1e-4 * float(expected.abs().max())}
    torch.testing.assert_close(first_output(small, inputs), expected, **bound)
    assert sum(type(module).__name__.startswith("Sparse") for module in small.modules()) >= layers
    folded = sparseq.fold_batchnorm(small)
    y = first_output(folded, inputs)
    torch.testing.assert_close(y, expected, **bound)
    if isinstance(inputs, torch.Tensor):
        assert len(sparseq.profile(folded, inputs, repeats=1).rows) >= layers
    path = folder / "model.sparseq"
    sparseq.save(folded, path)
    loaded = sparseq.load(path, model=sparseq.fold_batchnorm(make().eval()))
    assert torch.equal(first_output(loaded, inputs), y)
    torch.testing.assert_close(first_output(sparseq.to_dense(small), inputs), expected, **bound)


@pytest.mark.parametrize("name", TORCHVISION)
def test_networks_of_torchvision(name, tmp_path):
    check(lambda: from_torchvision(name), torch.randn(2, 3, 32, 32), tmp_path, 4)


@pytest.mark.parametrize("name", TIMM)
def test_networks_of_timm(name, tmp_path):
    size = SIZES.get(name, 32)
    check(lambda: from_timm(name), torch.randn(2, 3, size, size), tmp_path, 4)


@pytest.mark.parametrize("name", LANGUAGE)
def test_language_models(name, tmp_path):
    tokens = {"input_ids": torch.randint(0, 50, (2, 9))}
    if name == "t5":
        tokens["decoder_input_ids"] = torch.randint(0, 50, (2, 7))
    check(lambda: from_transformers(name), tokens, tmp_path, 8)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_language_models_generate_the_same_and_save_in_their_own_format(name, tmp_path):
    torch.manual_seed(0)
    model = from_transformers(name).eval()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"(prune|compress): ")
        mask = prune(model, density=0.3, scope="layerwise")
        small = sparseq.compress(mask.apply_(model), mask, policy="sparse")
    prompt = torch.randint(0, 50, (1, 4))
    settings = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    tokens = [m.generate(prompt, **settings) for m in (model, small)]
    assert torch.equal(*tokens)
    small.save_pretrained(tmp_path)
    assert any(file.suffix == ".safetensors" for file in tmp_path.iterdir())
