from pathlib import Path
from typing import Any

import pytest
import timm
import timm.data
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from autotimm.models import BackboneConfig, ImageClassifier, list_backbones, load_checkpoint
from autotimm.models.backbones import create_backbone, create_classifier, preprocess_of
from autotimm.runtime import Preprocess, fit_image, load_image
from autotimm.runtime.errors import CheckpointError, ConfigError, DataError
from autotimm.runtime.pictures import generate


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of timm's smallest ResNet with a classifier of ten classes."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("weights") / "resnet_of_ten.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=10).state_dict(), path)
    return path


class PretrainedOnly(torch.nn.Module):
    """A model of which nothing is known but timm's configuration of its weights."""

    def __init__(self, name: str, **changes: Any) -> None:
        super().__init__()
        self.pretrained_cfg = {**timm.get_pretrained_cfg(name).to_dict(), **changes}


@pytest.mark.parametrize(
    ("name", "fit"),
    [
        ("resnet50", "crop"),
        ("efficientnet_b0", "crop"),
        ("convnext_atto", "crop"),
        ("vit_tiny_patch16_224", "crop"),
        ("mobilenetv3_small_100", "crop"),
        ("vit_base_patch16_clip_384", "stretch"),
        ("dm_nfnet_f0", "stretch"),  # scaled to a square 1 / .9 times as large, whose centre is kept
        ("tf_efficientnetv2_b3", "stretch"),
        ("vit_base_patch16_sapiens2", "stretch"),  # not a square
    ],
)
@pytest.mark.parametrize("size", [(333, 500), (400, 120), (61, 47)])
def test_preprocessing_is_timms(name: str, fit: str, size: tuple[int, int]) -> None:
    model = PretrainedOnly(name)
    if name == "vit_base_patch16_sapiens2":
        model.pretrained_cfg["input_size"] = (3, 256, 192)  # a quarter of it is quicker
    image = Image.fromarray(generate(*size, seed=3))
    settings = timm.data.resolve_model_data_config(model)
    expected = timm.data.create_transform(**settings, is_training=False)(image)
    mean, std = (torch.tensor(settings[key]).view(3, 1, 1) for key in ("mean", "std"))
    preprocess = preprocess_of(model)
    pixels, _ = fit_image(load_image(image), preprocess)
    assert preprocess.fit == fit
    ours = torch.from_numpy(pixels).permute(2, 0, 1)
    apart = (ours - (expected * std + mean) * 255).abs()
    if size == (400, 120) and fit == "stretch":
        # Pillow 13 takes the rows of some tall images first; we take the columns first, as all before it do.
        assert (apart > 1.01).float().mean() < 2e-3
        assert apart.max() < 16
        return
    assert apart.max() < 1.01
    normalised = (ours - torch.tensor(preprocess.mean).view(3, 1, 1)) / torch.tensor(preprocess.std).view(3, 1, 1)
    assert (normalised - expected).abs().max() < 1.01 / (255 * min(settings["std"]))


def test_preprocessing_that_cannot_be_described_is_refused() -> None:
    with pytest.raises(ConfigError, match="'border'"):
        preprocess_of(PretrainedOnly("resnet18", crop_mode="border"))
    with pytest.raises(ConfigError, match="1 input channels"):
        preprocess_of(PretrainedOnly("resnet18", input_size=(1, 64, 64)))


def test_unknown_names_are_told_with_near_matches() -> None:
    with pytest.raises(ConfigError, match=r"no backbone 'resnet5O'; did you mean .*resnet50"):
        create_backbone(BackboneConfig("resnet5O", pretrained=False))
    with pytest.raises(ConfigError, match="autotimm backbones"):
        create_backbone(BackboneConfig("!!", pretrained=False))


def test_arguments_that_a_backbone_does_not_take() -> None:
    config = BackboneConfig("test_resnet", pretrained=False, extra_kwargs={"colour": "blue"})
    with pytest.raises(ConfigError, match=r"test_resnet cannot be created: .*colour"):
        create_backbone(config)
    with pytest.raises(ConfigError, match=r"not a BackboneConfig: .*nam"):
        ImageClassifier({"nam": "resnet18"}, 3)


def test_configuration_reaches_timm() -> None:
    config = BackboneConfig("test_vit", False, drop_rate=0.25, drop_path_rate=0.1, extra_kwargs={"img_size": 64})
    model = create_backbone(config, num_classes=4)
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 4)
    assert model.head_drop.p == 0.25
    assert model.blocks[-1].drop_path1.drop_prob == pytest.approx(0.1)


@pytest.mark.parametrize("size", [64, (64, 96)])
def test_preprocessing_follows_the_size_that_a_transformer_is_made_for(size: Any) -> None:
    model = create_backbone(BackboneConfig("test_vit", False, extra_kwargs={"img_size": size}), num_classes=4)
    assert preprocess_of(model).size == ((64, 64) if size == 64 else size)
    assert model(torch.zeros(1, 3, *preprocess_of(model).size)).shape == (1, 4)


def test_arguments_that_cannot_be_recorded() -> None:
    config = BackboneConfig("test_resnet", pretrained=False, extra_kwargs={"act_layer": torch.nn.SiLU})
    with pytest.raises(ConfigError, match="give it by name"):
        create_classifier(config, 3)
    by_name = BackboneConfig("test_resnet", pretrained=False, extra_kwargs={"act_layer": "silu"})
    assert isinstance(create_classifier(by_name, 3).network.conv1[2], torch.nn.SiLU)


def test_list_backbones() -> None:
    assert {"resnet18", "resnet50", "seresnet50"} <= set(list_backbones("resnet"))
    assert list_backbones("resnet1?") == ["resnet18"]
    assert list_backbones(" ResNet1? ") == ["resnet18"]
    assert list_backbones("nothing like it") == list_backbones("nothing?like*it") == list_backbones("no.thing") == []
    assert set(list_backbones()) == set(timm.list_models())
    trained = list_backbones("test_*", pretrained_only=True)  # by name and tag
    assert "test_vit.r160_in1k" in trained
    assert not any(name.startswith("test_maxvit") for name in trained)  # a registered name without weights
    assert "test_maxvit" in list_backbones("test_*")


def test_list_backbones_by_their_weights() -> None:
    every = timm.list_models(include_tags=True)
    assert set(list_backbones("resnet50.a1_in1k")) == {name for name in every if "resnet50.a1_in1k" in name}
    assert list_backbones("resnet50.a?_in1k")[:2] == ["resnet50.a1_in1k", "resnet50.a2_in1k"]
    assert set(list_backbones("*.in22k")) == {name for name in every if "in22k" in name.partition(".")[2]}
    assert list_backbones("in22k") == list_backbones("*.in22k")
    assert "convnext_tiny.fb_in22k" in list_backbones("convnext_*.in22k", pretrained_only=True)
    assert "davit_huge" not in list_backbones("davit*.*")  # of which there are no weights


def test_weights_that_timm_does_not_have() -> None:
    with pytest.raises(ConfigError, match=r"no weights 'resnet18\.b1_in1k'; it has resnet18\.a1_in1k, "):
        create_backbone(BackboneConfig("resnet18.b1_in1k", pretrained=False))
    model = create_backbone(BackboneConfig("resnet50.a3_in1k", pretrained=False))
    assert preprocess_of(model).size == (160, 160)


@pytest.mark.parametrize("as_path", [True, False])
def test_weights_from_a_file(weights: Path, as_path: bool) -> None:
    """The backbone is the file's; the classifier is new, since the number of classes differs."""
    source = load_file(weights)
    model = ImageClassifier("test_resnet", 3, pretrained=weights if as_path else str(weights))
    state = model.network.state_dict()
    assert set(state) == set(source)
    for name, value in state.items():
        if name.startswith("fc."):
            assert value.shape[0] == 3
        else:
            torch.testing.assert_close(value, source[name], msg=name)


def test_a_model_from_a_file_does_not_need_it_again(weights: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(weights.read_bytes())
    model = ImageClassifier(BackboneConfig("test_resnet", pretrained=moved), 3)
    path = model.save(tmp_path / "model.ckpt")
    moved.unlink()
    restored = load_checkpoint(path)
    assert torch.equal(restored.network.conv1[0].weight, model.network.conv1[0].weight)


def test_a_file_of_all_its_classes_keeps_the_classifier(tmp_path: Path) -> None:
    source = timm.create_model("test_resnet", num_classes=1000).state_dict()
    torch.save({"state_dict": {f"module.{name}": value for name, value in source.items()}}, tmp_path / "resnet.pth")
    model = create_backbone(BackboneConfig("test_resnet", pretrained=str(tmp_path / "resnet.pth")), num_classes=1000)
    assert all(torch.equal(value, source[name]) for name, value in model.state_dict().items())


def changed(path: Path, new: Path, without: str) -> Path:
    state = {name: value for name, value in load_file(path).items() if not name.startswith(without)}
    save_file(state, new)
    return new


def test_the_files_own_classifier_decides_whether_it_is_kept(weights: Path, tmp_path: Path) -> None:
    kept = ImageClassifier("test_resnet", 10, pretrained=weights)
    assert torch.equal(kept.network.fc.weight, load_file(weights)["fc.weight"])
    assert not kept.names_given  # the file does not say them
    redrawn = ImageClassifier("test_resnet", 1000, pretrained=weights)
    assert redrawn.network.fc.bias.abs().max() == 0
    assert not redrawn.names_given  # it is not ImageNet's classifier
    headless = changed(weights, tmp_path / "headless.safetensors", without="fc.")
    anew = ImageClassifier("test_resnet", 6, pretrained=headless)
    assert anew.network.fc.bias.abs().max() == 0
    assert anew.network.fc.weight.std().item() == pytest.approx(0.01, rel=0.1)


def test_a_classifier_that_is_partly_or_wholly_absent(weights: Path, tmp_path: Path) -> None:
    headless = changed(weights, tmp_path / "headless.safetensors", without="fc.")
    with pytest.raises(CheckpointError, match=r"headless\.safetensors.* it has no classifier, which 1000 classes"):
        ImageClassifier("test_resnet", 1000, pretrained=headless)
    with pytest.raises(CheckpointError, match=r"1 tensors are missing .*fc\.bias"):
        ImageClassifier("test_resnet", 10, pretrained=changed(weights, tmp_path / "a.safetensors", without="fc.bias"))


def test_a_trained_classifier_of_imagenet_keeps_its_names(tmp_path: Path) -> None:
    save_file(timm.create_model("test_resnet", num_classes=1000).state_dict(), tmp_path / "imagenet.safetensors")
    model = ImageClassifier("test_resnet", 1000, pretrained=tmp_path / "imagenet.safetensors")
    others = tuple(f"thing {index}" for index in range(1000))
    with pytest.raises(DataError, match=r"'thing 0'.*'tench'"):
        model.bind_data(preprocess=model.preprocess, class_names=others, validation_images=[])
    fresh = ImageClassifier("test_resnet", 1000, pretrained=False)
    fresh.bind_data(preprocess=model.preprocess, class_names=others, validation_images=[])
    assert fresh.class_names == others


def test_weights_of_another_network_are_refused(weights: Path) -> None:
    """timm alone would load what fits and leave the rest at random."""
    with pytest.raises(CheckpointError, match=r"resnet_of_ten.*not usable as weights of test_vit: .*are missing"):
        create_backbone(BackboneConfig("test_vit", pretrained=str(weights)), num_classes=3)
    with pytest.raises(CheckpointError, match="not usable as weights of resnet18"):
        create_backbone(BackboneConfig("resnet18", pretrained=str(weights)), num_classes=3)


def test_part_of_the_weights_is_refused(weights: Path, tmp_path: Path) -> None:
    state = load_file(weights)
    del state["layer3.0.conv1.weight"]
    state["more"] = torch.zeros(1)
    save_file(state, tmp_path / "part.safetensors")
    with pytest.raises(CheckpointError, match=r"1 tensors are missing and 1 are not its own, such as layer3.*, more"):
        create_backbone(BackboneConfig("test_resnet", pretrained=str(tmp_path / "part.safetensors")), num_classes=3)


def test_unreadable_weights(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere\.safetensors: no such file"):
        create_backbone(BackboneConfig("test_resnet", pretrained="nowhere.safetensors"))
    for name, content in (("cut.safetensors", weights.read_bytes()[:-40]), ("text.pth", b"text"), ("none.pth", b"")):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(CheckpointError) as caught:
            create_backbone(BackboneConfig("test_resnet", pretrained=str(path)), num_classes=3)
        assert str(caught.value).startswith(f"{path}: not usable as weights of test_resnet")
        assert "\n" not in str(caught.value)


def test_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        raise OSError("[Errno -3] Temporary failure in name resolution\nwhile looking for huggingface.co")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(CheckpointError) as caught:
        ImageClassifier("resnet18", 3)
    message = str(caught.value)
    assert "pretrained weights of resnet18 could not be had" in message
    assert "name resolution" in message
    assert "pretrained='FILE.safetensors'" in message
    assert "pretrained=False" in message
    assert "\n" not in message


def test_preprocess_of_a_created_model_is_its_configuration() -> None:
    model = create_backbone(BackboneConfig("test_resnet", pretrained=False))
    assert preprocess_of(model) == Preprocess(
        (160, 160), "crop", crop_fraction=0.95, interpolation="bilinear", mean=(127.5,) * 3, std=(127.5,) * 3
    )
