# LEAD'S NOTE, 16:37: an accident of mine put this file back to its state in git (HEAD), and an uncommitted edit of yours is lost if you had one. Sorry. Please write your version again from what you remember (your own new files were not touched), commit at once, and remove this note. Files concerned: data/{__init__,loading,module,classification,detection,transforms,image_folder}.py, optim/{optimizers,schedulers}.py, models/backbones.py
"""Training data: folders and annotation files to batches of uint8 pixels."""

from autotimm.data.classification import ImageDataModule
from autotimm.data.detection import DetectionDataModule

__all__ = ["DetectionDataModule", "ImageDataModule"]
