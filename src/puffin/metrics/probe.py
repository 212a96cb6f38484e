"""Linear probes: how well a linear classifier finds classes, or a linear regression numbers, in learned features.

Source: arXiv 2502.02558, sec. 4; docs/MATHEMATICS_CLOUDS.md, section 7.
"""

import warnings

import numpy as np

COMPONENTS = 128  # number of principal components
PENALTIES = np.logspace(-6, 6, 25)  # of ridge regressions
C = 0.005  # inverse strength of the regularisation of the support vector machine


def linear_probe(
    train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray, names: tuple[str, ...]
) -> dict[str, float]:
    """Fit a one-vs-rest linear SVM to the training tokens and compute its F1 on the test tokens, after a PCA.

    train (N, D), test (M, D): features. train_labels (N, K), test_labels (M, K) bool: whether a token contains points
    of each of the K classes `names`; it may contain several classes. Returns `probe_f1_<name>` for each class and their
    mean `probe_f1_mean`. The F1 of a class is nan, and is not in the mean, if no or every training token contains the
    class, or if no test token does."""
    from sklearn.decomposition import PCA  # slow to import
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC

    scores = dict.fromkeys(names, float("nan"))
    if len(train) and len(test):
        # the exact decomposition needs no random numbers; constant features have unused variance ratios of 0 / 0
        with np.errstate(invalid="ignore"):
            pca = PCA(min(COMPONENTS, *train.shape), svd_solver="full").fit(train.astype(np.float64))
        train, test = pca.transform(train), pca.transform(test)
        for k, name in enumerate(names):
            positive = train_labels[:, k]
            if positive.any() and not positive.all() and test_labels[:, k].any():
                svm = LinearSVC(C=C, class_weight="balanced", dual=False, random_state=0)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ConvergenceWarning)  # the optimum is flat where it stops
                    predicted = svm.fit(train, positive).predict(test)
                scores[name] = f1(predicted, test_labels[:, k])
    known = [value for value in scores.values() if value == value]
    mean = float(np.mean(known)) if known else float("nan")
    return {**{f"probe_f1_{name}": value for name, value in scores.items()}, "probe_f1_mean": mean}


def ridge_probe(train: np.ndarray, train_values: np.ndarray, test: np.ndarray, test_values: np.ndarray) -> np.ndarray:
    """Fit ridge regressions to the training features and compute R^2 on the test features, (K,).

    train (N, D), test (M, D): features, which are standardised; train_values (N, K), test_values (M, K): numbers to
    predict. R^2 is 1 for a perfect prediction, and about 0 for features that tell nothing. nan for all K if a feature
    is not finite, as of a network that diverged."""
    from sklearn.linear_model import RidgeCV  # slow to import
    from sklearn.metrics import r2_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if not (np.isfinite(train).all() and np.isfinite(test).all()):
        return np.full(train_values.shape[1], np.nan)
    ridge = RidgeCV(PENALTIES, alpha_per_target=True)  # the penalty with the smallest leave-one-out error
    fitted = make_pipeline(StandardScaler(), ridge).fit(train, train_values)
    return r2_score(test_values, fitted.predict(test).reshape(test_values.shape), multioutput="raw_values")


def f1(predicted: np.ndarray, true: np.ndarray) -> float:
    """Compute 2 TP / (2 TP + FP + FN) from two bool arrays; 0 if neither has a positive entry."""
    return float(2 * (predicted & true).sum() / max(predicted.sum() + true.sum(), 1))
