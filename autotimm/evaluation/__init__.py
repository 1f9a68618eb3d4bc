"""The metrics of a checkpoint or an artifact on a data set, by the same code."""

from autotimm.evaluation.precision_recall import PrecisionRecall
from autotimm.evaluation.report import EvaluationReport
from autotimm.evaluation.run import evaluate, evaluation_report
from autotimm.evaluation.samples import EvaluationSet, read_evaluation_set

__all__ = [
    "EvaluationReport",
    "EvaluationSet",
    "PrecisionRecall",
    "evaluate",
    "evaluation_report",
    "read_evaluation_set",
]
