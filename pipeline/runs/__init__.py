"""Check, train, validate, predict and evaluate: the one package that wires the parts together."""

from pipeline.runs.checking import check
from pipeline.runs.prediction import predict
from pipeline.runs.scoring import evaluate, validate
from pipeline.runs.training import read_recipe, train

__all__ = ["check", "evaluate", "predict", "read_recipe", "train", "validate"]
