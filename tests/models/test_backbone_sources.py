import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors.torch import load_file, save_file
from timm.models import _hub

from autotimm.models import BackboneConfig, ImageClassifier, load_checkpoint
from autotimm.models.backbones import create_backbone, create_classifier, preprocess_of
from autotimm.runtime import Preprocess
from autotimm.runtime.errors import CheckpointError, ConfigError, DataError

NAMES = ("ant", "bee", "cat", "dog")
EXPECTED = Preprocess(
    (64, 64),
    "crop",
    crop_fraction=0.8,
    interpolation="bilinear",
    antialias=True,
    mean=(0.1 * 255, 0.2 * 255, 0.3 * 255),
    std=(0.4 * 255, 0.5 * 255, 0.6 * 255),
)
DATA_CONFIG = {
    "input_size": (3, 64, 64),
    "mean": (0.1, 0.2, 0.3),
    "std": (0.4, 0.5, 0.6),
    "crop_pct": 0.8,
    "interpolation": "bilinear",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A transformer of four classes for 64 pixels, as timm saves it."""
    torch.manual_seed(2)
    model = timm.create_model("test_vit", num_classes=4, img_size=64)
    config = {"label_names": list(NAMES)}
    timm.models.save_for_hf(
        model, tmp_path / "saved", model_config=config, safe_serialization=True, data_config=DATA_CONFIG
    )
    return tmp_path / "saved"


@pytest.fixture(params=["local-dir", "hf-hub"])
def name(request: pytest.FixtureRequest, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The folder's name for timm, or that of a repository of the hub that has the same files."""
    if request.param == "local-dir":
        return f"local-dir:{folder}"
    serve(folder, monkeypatch)
    return "hf-hub:someone/ants"


def serve(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Put a folder in the hub's place, and tell what was asked for."""
    asked: list[str] = []

    def download(repo_id: str, filename: str, *, revision: str | None = None, **_: Any) -> str:
        asked.append(f"{repo_id}@{revision}/{filename}")
        if not (folder / filename).is_file():
            raise EntryNotFoundError(f"404: {filename}")
        return str(folder / filename)

    monkeypatch.setattr(_hub, "hf_hub_download", download)
    return asked


def edited(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads((folder / "config.json").read_text())
    change(content)
    (folder / "config.json").write_text(json.dumps(content))


def test_network_weights_names_and_preprocessing_are_the_sources(name: str, folder: Path) -> None:
    model = ImageClassifier(name, 4)
    state = load_file(folder / "model.safetensors")
    assert model.architecture == "test_vit"
    assert set(model.network.state_dict()) == set(state)
    assert all(torch.equal(value, state[key]) for key, value in model.network.state_dict().items())
    assert model.class_names == NAMES
    assert model.names_given
    assert model.preprocess == EXPECTED
    assert model.network(torch.zeros(1, 3, 64, 64)).shape == (1, 4)
    with pytest.raises(DataError, match="order counts"):
        model.check_classes(NAMES[::-1])


def test_what_is_created_is_described_in_full_and_in_plain_types(name: str) -> None:
    created = create_classifier(BackboneConfig(name, drop_path_rate=0.1, extra_kwargs={"proj_drop_rate": 0.2}), 7)
    assert not created.has_trained_head
    assert created.class_names is None
    assert created.config.model_name == "test_vit"
    assert created.config.drop_path_rate == 0.1
    arguments = created.config.extra_kwargs
    assert arguments["img_size"] == [64, 64]
    assert arguments["proj_drop_rate"] == 0.2
    assert "num_classes" not in arguments
    assert "label_names" not in arguments["pretrained_cfg"]
    assert json.loads(json.dumps(arguments)) == arguments
    again = create_classifier(created.config, 7)
    assert again.config == created.config
    assert preprocess_of(again.network) == preprocess_of(created.network) == EXPECTED


def test_a_classifier_of_other_classes_starts_anew(name: str, folder: Path) -> None:
    model = ImageClassifier(name, 7)
    state = load_file(folder / "model.safetensors")
    assert torch.equal(model.network.patch_embed.proj.weight, state["patch_embed.proj.weight"])
    assert model.network.head.weight.abs().max() < 0.1
    assert model.network.head.bias.abs().max() == 0
    assert not model.names_given
    random = ImageClassifier(name, 4, pretrained=False)
    assert not torch.equal(random.network.patch_embed.proj.weight, state["patch_embed.proj.weight"])
    assert not random.names_given
    assert random.preprocess == EXPECTED


def test_a_checkpoint_needs_neither_folder_nor_hub(
    name: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ImageClassifier(name, 4).eval()
    images = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    expected = model.outputs_as_arrays(images)["probabilities"]
    path = model.save(tmp_path / "model.ckpt")
    shutil.rmtree(folder)
    monkeypatch.setattr(_hub, "hf_hub_download", refuse)
    for restored in (load_checkpoint(path), ImageClassifier.load_from_checkpoint(path, weights_only=True).eval()):
        assert (restored.outputs_as_arrays(images)["probabilities"] == expected).all()
        assert restored.preprocess == EXPECTED
        assert restored.class_names == NAMES
    again = restored.save(tmp_path / "again.ckpt")
    assert (load_checkpoint(again).outputs_as_arrays(images)["probabilities"] == expected).all()


def refuse(*_: object, **__: object) -> str:
    raise LocalEntryNotFoundError("An error happened while trying to locate the file\non the Hub")


def test_a_revision_is_asked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = serve(folder, monkeypatch)
    create_backbone(BackboneConfig("hf-hub:someone/ants@v2"), num_classes=4)
    assert asked[0] == "someone/ants@v2/config.json"
    assert "someone/ants@v2/model.safetensors" in asked
    assert all(entry.startswith("someone/ants@v2/") for entry in asked)


def test_weights_from_a_file_for_a_described_network(name: str, tmp_path: Path) -> None:
    state = timm.create_model("test_vit", num_classes=5, img_size=64).state_dict()
    save_file(state, tmp_path / "other.safetensors")
    model = ImageClassifier(name, 5, pretrained=tmp_path / "other.safetensors")
    assert torch.equal(model.network.head.weight, state["head.weight"])


def test_no_network_for_the_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_hub, "hf_hub_download", refuse)
    with pytest.raises(CheckpointError) as caught:
        ImageClassifier("hf-hub:someone/ants@v2", 4)
    message = str(caught.value)
    assert message.startswith("hf-hub:someone/ants@v2 could not be had (LocalEntryNotFoundError: An error happened")
    assert "hf download someone/ants --local-dir FOLDER" in message
    assert "local-dir:FOLDER" in message
    assert "pretrained='FILE.safetensors'" in message
    assert "\n" not in message


def test_the_description_in_the_cache_and_the_weights_not(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(folder, monkeypatch)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"hf-hub:someone/ants could not be had .*404.*local-dir:FOLDER"):
        ImageClassifier("hf-hub:someone/ants", 4)
    assert ImageClassifier("hf-hub:someone/ants", 4, pretrained=False).class_names == NAMES


def test_parts_of_the_weights_are_refused(name: str, folder: Path) -> None:
    """timm alone would leave what is missing at random, where the number of classes differs."""
    state = load_file(folder / "model.safetensors")
    del state["blocks.0.attn.qkv.weight"]
    save_file(state, folder / "model.safetensors")
    with pytest.raises(
        CheckpointError, match=r"its weights cannot be used: .*1 tensors are missing .*blocks\.0\.attn\.qkv\.weight"
    ):
        ImageClassifier(name, 7)


def test_folders_that_hold_no_model(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"local-dir:nowhere: there is no config\.json"):
        ImageClassifier("local-dir:nowhere", 4)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"its weights cannot be used: .*pretrained=False"):
        ImageClassifier(f"local-dir:{folder}", 4)
    for content in ('{"architectures": ["ViTForImageClassification"]}', "[]", "{", ""):
        (folder / "config.json").write_text(content)
        with pytest.raises(CheckpointError, match="not a description of a timm model"):
            ImageClassifier(f"local-dir:{folder}", 4)


def test_an_architecture_of_a_later_timm(name: str, folder: Path) -> None:
    edited(folder, lambda content: content.update(architecture="vit_of_tomorrow"))
    with pytest.raises(ConfigError, match=r"is a 'vit_of_tomorrow', which timm .* does not have"):
        ImageClassifier(name, 4)


def test_settings_of_a_later_timm_are_passed_over(name: str, folder: Path) -> None:
    edited(folder, lambda content: content["pretrained_cfg"].update(weather="fair"))
    assert ImageClassifier(name, 4).preprocess == EXPECTED


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"2": "cat", "0": "ant", "1": "bee", "3": "dog"}, NAMES),
        ({"0": "ant", "1": "bee", "2": "cat", "4": "dog"}, None),
        (["ant", "bee", "cat"], None),
        (["ant", "bee", "cat", "cat"], None),
        (None, None),
    ],
)
def test_label_names(folder: Path, given: Any, expected: tuple[str, ...] | None) -> None:
    edited(folder, lambda content: content.update(label_names=given))
    created = create_classifier(BackboneConfig(f"local-dir:{folder}"), 4)
    assert created.class_names == expected
    assert created.has_trained_head


def test_a_thousand_classes_without_names_are_imagenets(tmp_path: Path) -> None:
    timm.models.save_for_hf(timm.create_model("test_resnet"), tmp_path, safe_serialization=True)
    created = create_classifier(BackboneConfig(f"local-dir:{tmp_path}"), 1000)
    assert created.has_trained_head
    assert created.class_names is not None
    assert created.class_names[0] == "tench"


def test_names_that_look_like_places() -> None:
    for name in ("ftp:someone/ants", "local-dir:", "resnet18:a1"):
        with pytest.raises(ConfigError, match="hf-hub:OWNER/NAME nor local-dir:FOLDER"):
            create_backbone(BackboneConfig(name))
    with pytest.raises(ConfigError, match="did you mean hf-hub:timm/resnet18 or local-dir:timm/resnet18"):
        create_backbone(BackboneConfig("timm/resnet18"))


def test_features_of_a_described_network(name: str, folder: Path) -> None:
    features = create_backbone(BackboneConfig(name), features_only=True, out_indices=(1, 3))
    state = load_file(folder / "model.safetensors")
    assert len(features(torch.zeros(1, 3, 64, 64))) == 2
    assert torch.equal(features.state_dict()["model.patch_embed.proj.weight"], state["patch_embed.proj.weight"])
