"""The linear probe: how much of the classes a linear classifier finds in features that never saw them.

Source: arXiv 2502.02558, sec. 4; spec/polarmae.md section 7.
"""

import warnings

import numpy as np

COMPONENTS = 128  # of the principal component analysis
C = 0.005  # of the support vector machine: inverse strength of its regularisation


def linear_probe(
    train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray, names: tuple[str, ...]
) -> dict[str, float]:
    """F1 on the test tokens of a one-vs-rest linear SVM that was fitted to the training tokens, both reduced by PCA.

    train (N, D), test (M, D): features.  labels (N, K), (M, K) bool: which of the K classes, called `names`, a token
    holds; it may hold several.  Returns `probe_f1_<name>` and `probe_f1_mean`, the mean over the classes that can be
    judged: others, which are in no or in all training tokens, or in no test token, are nan."""
    from sklearn.decomposition import PCA  # slow to import
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC

    scores = dict.fromkeys(names, float("nan"))
    if len(train) and len(test):
        # components and their order are those of the exact decomposition: no random numbers
        with np.errstate(
            invalid="ignore"
        ):  # of constant features: its ratios of variances, which nothing reads, are 0 / 0
            pca = PCA(min(COMPONENTS, *train.shape), svd_solver="full").fit(train.astype(np.float64))
        train, test = pca.transform(train), pca.transform(test)
        for k, name in enumerate(names):
            positive = train_labels[:, k]
            if positive.any() and not positive.all() and test_labels[:, k].any():
                machine = LinearSVC(C=C, class_weight="balanced", dual=False, random_state=0)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ConvergenceWarning)  # the optimum is flat where it stops
                    given = machine.fit(train, positive).predict(test)
                scores[name] = f1(given, test_labels[:, k])
    judged = [value for value in scores.values() if value == value]
    mean = float(np.mean(judged)) if judged else float("nan")
    return {**{f"probe_f1_{name}": value for name, value in scores.items()}, "probe_f1_mean": mean}


def f1(given: np.ndarray, true: np.ndarray) -> float:
    """2 TP / (2 TP + FP + FN) of two arrays of bool; 0 if nothing is positive in either."""
    return float(2 * (given & true).sum() / max(given.sum() + true.sum(), 1))
