"""What tasks say about metrics that are not numbers, before training and after an evaluation."""

import math
from types import SimpleNamespace

import pytest
import torch

from puffin.errors import InputError
from puffin.tasks.classification import JetClassification
from puffin.tasks.regression import MomentumRegression
from puffin.training.task import Evaluation, StepOutput


def classifier(num_classes=2, **more):
    return JetClassification(SimpleNamespace(config=SimpleNamespace(num_classes=num_classes)), **more)


def regressor(num_targets=1, **more):
    return MomentumRegression(SimpleNamespace(config=SimpleNamespace(num_targets=num_targets)), {"m": 1.0}, **more)


def evaluate(task, weight, **outputs):
    """Return metrics and outputs of one minibatch."""
    with task.collector(Evaluation("valid"), shared=False) as collector:
        collector.add(StepOutput(torch.tensor(0.5), weight, outputs))
        return collector.finish()


@pytest.mark.parametrize("best_by", ["AUC", "BgRejectionAt0.3"])
def test_best_by_of_an_absent_class(best_by):
    """The start refuses a metric that the validation labels rule out: a class without events, or without weight."""
    labels = torch.tensor([1, 1, 0])
    task = classifier(best_by=best_by, class_names=("qcd", "top"))
    task.check_best_by(labels, None, "valid")
    with pytest.raises(InputError, match=rf"--best-by {best_by}: .*valid.* no event is of class 0 \(qcd\)"):
        task.check_best_by(labels[:2], None, "valid")
    with pytest.raises(InputError, match="all events of class 0 .* have weight 0"):
        task.check_best_by(labels, torch.tensor([1.0, 1.0, 0.0]), "valid")


def test_best_by_without_weight():
    """Weights, of events or of classes, that are all 0 rule out even the loss."""
    labels, zeros = torch.tensor([1, 1, 0]), torch.zeros(3)
    for task, targets in ((classifier(), labels), (regressor(), torch.ones(3, 1, 4))):
        task.check_best_by(targets, None, "valid")
        with pytest.raises(InputError, match="--best-by loss: .*the weights of all events are 0"):
            task.check_best_by(targets, zeros, "valid")
    of_classes = classifier(class_weights=torch.tensor([1.0, 0.0], dtype=torch.float64))
    of_classes.check_best_by(labels, None, "valid")
    with pytest.raises(InputError, match="class weights of all events are 0"):
        of_classes.check_best_by(labels[:2], None, "valid")


def test_best_by_that_an_absent_class_leaves():
    """Accuracy and loss need no class in particular; with three classes the AUC needs all of them."""
    labels = torch.tensor([0, 1])
    for best_by in ("loss", "accuracy"):
        classifier(3, best_by=best_by).check_best_by(labels, None, "valid")
    with pytest.raises(InputError, match="no event is of class 2"):
        classifier(3, best_by="AUC").check_best_by(labels, None, "valid")


def test_reasons_after_an_evaluation():
    """Every nan has a reason, numbers have none; without weight the loss is nan, not 0, which would be the best."""
    scores, labels = torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([1, 1])
    task = classifier()
    metrics, outputs = evaluate(task, 2, predict=scores, targets=labels)
    reasons = task.why_missing(metrics, outputs)
    assert set(reasons) == {name for name, value in metrics.items() if math.isnan(value)}
    assert metrics["loss"] == 0.5 and reasons["AUC"] == "no event is of class 0"
    metrics, outputs = evaluate(task, 0.0, predict=scores, targets=labels, weights=torch.zeros(2))
    assert math.isnan(metrics["loss"]) and set(task.why_missing(metrics, outputs)) == set(metrics)
    metrics, outputs = evaluate(task, 2, predict=scores * math.inf, targets=labels)
    assert task.why_missing(metrics, outputs)["accuracy"] == "the class scores of 2 of 2 events are not finite"
    assert task.why_missing({"AUC": math.nan}, {}) == {}


def test_reasons_of_a_regression():
    """Predictions that are not finite, weights of 0, and true momenta along the beam."""
    true = torch.tensor([[[5.0, 0, 0, 3]], [[5.0, 1, 0, 3]]])
    task = regressor()
    metrics, outputs = evaluate(task, 2, predict=true * math.nan, targets=true)
    assert task.why_missing(metrics, outputs)["dm"] == "the predicted momenta of 2 of 2 events are not finite"
    metrics, outputs = evaluate(task, 2, predict=true, targets=true)
    reasons = task.why_missing(metrics, outputs)
    assert set(reasons) == {"dpT", "pT_response", "pT_resolution"}
    assert reasons["dpT"] == "the true pT of 1 of 2 events is 0"
    metrics, outputs = evaluate(task, 0.0, predict=true, targets=true, weights=torch.zeros(2))
    assert set(task.why_missing(metrics, outputs)) == set(metrics)


@pytest.mark.parametrize("task", [classifier(5, best_by="AUC"), regressor(2, best_by="loss_m_1")])
def test_log_has_the_few_numbers_that_matter(task):
    """The log leaves out numbers of single classes and terms, never the one that chooses the epoch."""
    shown = set(task.metric_directions) - set(task.details)
    assert task.best_by in shown and task.best_by not in task.details and task.details
    few = {"loss", "accuracy", "AUC"} if isinstance(task, JetClassification) else shown
    assert shown == few and not any(name.startswith("loss_") for name in shown - {task.best_by})
