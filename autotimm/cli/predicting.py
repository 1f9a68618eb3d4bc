"""``autotimm predict``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from autotimm.cli.console import complain, err, print_table, progress_bar, write_json
from autotimm.cli.options import JsonOut, ModelPath, Provider, Threads, open_predictor
from autotimm.runtime.errors import AutoTimmError, ConfigError

if TYPE_CHECKING:
    from autotimm.runtime import Result
    from autotimm.runtime.manifest import Task


def predict(
    model: ModelPath,
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE...", help="Images, or folders of images (not subfolders).")
    ],
    json_out: JsonOut = None,
    save: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Save pictures with the results drawn into this folder.")
    ] = None,
    save_masks: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Semantic segmentation: save the class index of each pixel as a PNG with a palette here.",
        ),
    ] = None,
    min_score: Annotated[
        float,
        typer.Option(min=0, max=1, help="Objects below it are neither drawn nor listed; the JSON has them all."),
    ] = 0.25,
    provider: Provider = None,
    threads: Threads = None,
) -> None:
    """Predict on images; a bad image is reported, and the others are finished."""
    from autotimm.runtime import ImageError, list_images

    paths = [path for given in images for path in (list_images(given) if given.is_dir() else [given])]
    saving = _Saving(save, save_masks)
    saving.check_folders(paths)
    rows: list[dict[str, Any]] = []
    failed = 0
    table = Table(box=None)
    for column in ("image", "size", "predictions"):
        table.add_column(column, overflow="fold")
    with open_predictor(model, provider, threads) as predictor, progress_bar() as progress:
        saving.check_task(model, predictor.manifest.task)
        for path, answer in zip(progress.track(paths, description="predicting"), predictor.stream(paths), strict=True):
            if isinstance(answer, ImageError):
                failed += 1
                rows.append({"image": str(path), "error": str(answer)})
                complain(str(answer))
                continue
            rows.append({"image": str(path), **answer.to_dict()})
            shown = _shown(answer, min_score)
            table.add_row(str(path), f"{answer.image_size[1]}x{answer.image_size[0]}", _summary(shown))
            if problem := saving.save(shown, path):
                rows[-1]["picture_error"] = problem
                complain(problem)
    if json_out is not None:
        write_json(rows, json_out)
    if str(json_out) != "-" and table.rows:
        print_table(table)
    if saving.saved:
        err.print(f"pictures are in {' and '.join(str(folder) for folder in (save, save_masks) if folder)}")
    if failed:
        complain(f"{failed} of {len(paths)} images could not be read")
    if saving.failed:
        complain(f"{saving.failed} of {saving.saved + saving.failed} pictures could not be saved")
    if failed or saving.failed:
        raise typer.Exit(1)


def _check_folder(option: str, save: Path, images: list[Path]) -> None:
    """Refuse a folder that cannot be one, or in which pictures would replace the images they were made from."""
    if save.exists() and not save.is_dir():
        raise ConfigError(f"{option} {save} is not a folder")
    if any(path.parent.resolve() == save.resolve() for path in images):
        raise ConfigError(
            f"{option} {save}: images to predict on lie there, and would be overwritten; name another folder"
        )


class SavedNames:
    """Names for the saved pictures: the image's own, numbered where two folders hold the same name."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def unique(self, path: Path) -> str:
        """A file name that was not given before."""
        name, number = f"{path.stem}.jpg", 2
        while name in self._taken:
            name, number = f"{path.stem}-{number}.jpg", number + 1
        self._taken.add(name)
        return name


class _Saving:
    """The folders that pictures go to, and how many went there."""

    def __init__(self, pictures: Path | None, masks: Path | None) -> None:
        self.pictures, self.masks = pictures, masks
        self.saved, self.failed = 0, 0
        self._names = SavedNames()

    def check_folders(self, images: list[Path]) -> None:
        """Refuse folders that cannot be used."""
        for option, folder in (("--save", self.pictures), ("--save-masks", self.masks)):
            if folder is not None:
                _check_folder(option, folder, images)

    def check_task(self, model: Path, task: Task) -> None:
        """Refuse to save masks of a task that has none."""
        if self.masks is not None and task != "semantic_segmentation":
            raise ConfigError(
                f"--save-masks is for semantic segmentation, but {model} is for {task.replace('_', ' ')}"
                + ("; --json writes the masks of objects" if task == "instance_segmentation" else "")
            )

    def save(self, result: Result, path: Path) -> str | None:
        """What was asked for of one image; returns the problem where there was one."""
        if self.pictures is None and self.masks is None:
            return None
        name = self._names.unique(path)
        try:
            if self.pictures is not None:
                _save_picture(result, path, self.pictures / name)
            if self.masks is not None:
                _save_mask(result, (self.masks / name).with_suffix(".png"))
        except AutoTimmError as error:  # the predictions are still worth having
            self.failed += 1
            return str(error)
        self.saved += 1
        return None


def _shown(result: Result, min_score: float) -> Result:
    from autotimm.runtime import Detections, Instances

    return result.above(min_score) if isinstance(result, Detections | Instances) else result


def _summary(result: Result) -> str:
    from autotimm.runtime import SemanticMask

    if isinstance(result, SemanticMask):
        coverage = result.coverage
        return ", ".join(f"{result.class_names[label]} {coverage[label]:.1%}" for label in result.present)
    best = [f"{name} {score:.2f}" for name, score in zip(result.names, result.scores, strict=True)]
    more = f", and {len(best) - 6} more" if len(best) > 6 else ""
    return (", ".join(best[:6]) + more) or "nothing"


def _save_picture(result: Result, path: Path, target: Path) -> None:
    from PIL import Image

    from autotimm.runtime import load_image
    from autotimm.runtime.files import replacing

    picture = result.draw(Image.fromarray(load_image(path)))
    with replacing(target) as temporary:
        picture.save(temporary, quality=92)


def _save_mask(result: Result, target: Path) -> None:
    from autotimm.runtime import SemanticMask
    from autotimm.runtime.files import replacing

    assert isinstance(result, SemanticMask)  # the artifact's task was asked for
    with replacing(target) as temporary:
        result.to_image().save(temporary, format="PNG")
