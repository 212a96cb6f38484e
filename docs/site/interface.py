"""The page of the Python interface: directives for mkdocstrings, which reads the docstrings."""

from puffin import ops

PREDICTORS = ("JetClassifier", "JetRegressor", "TokenEncoder", "PointEncoder", "PointClassifier")
OPTIONS = "    options:\n      members: [predict, predict_probabilities]"  # the others are those of Predictor


def page() -> str:
    """Write the page: `puffin.load`, what it returns, and the functions of `puffin.ops`."""
    predictors = [f"::: puffin.predictors.{name}\n{OPTIONS}" for name in PREDICTORS]
    kernels = [f"::: puffin.ops.{module}.{name}" for module, names in ops._MODULES.items() for name in names]
    return "\n\n".join(
        [
            "# Python interface",
            "[Use Puffin from Python](use_from_python.md) shows how these are used.",
            "## Load a trained network",
            "::: puffin.predictors.load",
            "## Trained networks",
            *predictors,
            "::: puffin.predictors.Predictor",
            "## Kernels",
            "The functions below are imported from `puffin.ops`. [Kernels](kernels.md) says how they are built.",
            *kernels,
        ]
    )
